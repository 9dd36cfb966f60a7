package mdb

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/backoff"
)

// joinPatience is how long a replica may take to replay what the primary has, before it serves reads.
const joinPatience = time.Second

// catchUp says how often a replica is asked whether it has something that it will have soon.
var catchUp = backoff.Policy{Min: 500 * time.Microsecond, Max: 20 * time.Millisecond}

var (
	errNotStandby = errors.New("the server of the replica is not a standby")
	errLagging    = errors.New("the replica has not replayed within a second what the primary had")
	errForeign    = &SetupError{
		Problem: "the replica is a standby of another server than the store's, or another database",
		Remedy:  "pass WithReplica a pool to a physical standby of the store's server, with the same database",
	}
)

var (
	// The end of a record is a position that the replica is sure to reach, whatever else is written.
	markWAL  = newStatement("mark_wal", `SELECT pg_logical_emit_message(true, 'mdb', '')::text`)
	replayed = newStatement("replayed", `SELECT pg_is_in_recovery(), coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false)`)
	identity = newStatement("identity", `SELECT (pg_control_system()).system_identifier::text || '/' || oid FROM pg_database WHERE datname = current_database()`)
)

// join returns nil if the replica has replayed all that is committed on the primary now. Calls of
// AwaitWrite that end before it begins need not wait for the replica, and later ones do.
func (r *replica) join(ctx context.Context) error {
	r.joins.Store(true)
	if err := r.sameCluster(ctx); err != nil {
		return err
	}
	mark := "0/0"
	// While the primary is down, nobody can say what the replica lacks, and reads have nowhere else to go.
	if err := r.primary.run(ctx, markWAL, one(&mark)); err != nil && !isOutage(ctx, err) && !isReadOnly(err) {
		return explain("find the end of the log on the primary", err)
	}
	begun := time.Now()
	for attempt := 1; ; attempt++ {
		reached, err := r.reached(ctx, mark)
		switch {
		case err != nil || reached:
			return err
		case time.Since(begun) > joinPatience:
			return errLagging
		}
		if err := catchUp.Wait(ctx, attempt); err != nil {
			return err
		}
	}
}

// ping returns nil if the replica answers.
func (r *replica) ping(ctx context.Context) error {
	_, err := r.reached(ctx, "0/0")
	return err
}

// reached reports whether the replica has replayed the log up to a position.
func (r *replica) reached(ctx context.Context, mark string) (bool, error) {
	var standby, reached bool
	switch err := r.store.run(ctx, replayed, one(&standby, &reached), mark); {
	case err != nil:
		return false, explain("ask the replica", err)
	case !standby:
		return false, errNotStandby
	}
	return reached, nil
}

// sameCluster returns errForeign if the replica is known to be another server's. A role that may not ask does not know.
func (r *replica) sameCluster(ctx context.Context) error {
	var there, here string
	switch err := r.store.run(ctx, identity, one(&there)); {
	case err == nil:
	case classify(err) == classSetup && !isConnectError(err) && !errors.As(err, new(*SetupError)):
		return nil
	default:
		return explain("ask the replica", err)
	}
	if err := r.primary.run(ctx, identity, one(&here)); err != nil || here == "" || here == there {
		return nil //nolint:nilerr // the primary may be down, which the replica need not be
	}
	return errForeign
}

// leadsToPrimary reports whether the server has said that it is no standby, as servers since version 14 do.
func leadsToPrimary(conn *pgx.Conn) bool {
	return conn.PgConn().ParameterStatus("in_hot_standby") == "off"
}
