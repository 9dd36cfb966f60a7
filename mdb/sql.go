package mdb

import (
	"context"
	"fmt"
	"hash/fnv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A statement is one of Message DB's procedures as it is called here.
type statement struct{ name, sql string }

// newStatement names the statement after its text as well, because a connection
// may be shared with another version of this package.
func newStatement(name, sql string) *statement {
	h := fnv.New32a()
	h.Write([]byte(sql))
	return &statement{name: fmt.Sprintf("mdb_%s_%08x", name, h.Sum32()), sql: sql}
}

// The columns are named, because their order is not part of the contract, and the
// arguments are cast, because in some exec modes the client tells no types.
const messageColumns = `SELECT id, stream_name, type, position, global_position, data, metadata, time FROM `

// writtenGlobalPosition is NULL where the sequence is not there or not for this
// role to see, as when the functions are a proxy's.
const writtenGlobalPosition = `CASE WHEN has_sequence_privilege(to_regclass('message_store.messages_global_position_seq'), 'SELECT')
	THEN currval(to_regclass('message_store.messages_global_position_seq')) END`

var (
	getStreamMessages = newStatement("get_stream_messages", messageColumns+
		`message_store.get_stream_messages($1::varchar, $2::bigint, $3::bigint, $4::varchar)`)

	getCategoryMessages = newStatement("get_category_messages", messageColumns+
		`message_store.get_category_messages($1::varchar, $2::bigint, $3::bigint, $4::varchar, $5::bigint, $6::bigint, $7::varchar)`)

	// Versions before 1.3.0 have only the form without a type.
	getLastStreamMessage = newStatement("get_last_stream_message", messageColumns+
		`message_store.get_last_stream_message($1::varchar)`)

	getLastStreamMessageOfType = newStatement("get_last_stream_message_of_type", messageColumns+
		`message_store.get_last_stream_message($1::varchar, $2::varchar)`)

	streamVersion = newStatement("stream_version",
		`SELECT message_store.stream_version($1::varchar)`)

	messageStoreVersion = newStatement("message_store_version",
		`SELECT message_store.message_store_version()`)

	writeMessage = newStatement("write_message",
		`SELECT position, `+writtenGlobalPosition+`
FROM message_store.write_message($1::varchar, $2::varchar, $3::varchar, $4::jsonb, $5::jsonb, $6::bigint) AS position`)

	// The subquery cannot be flattened, as it calls a volatile function, so each
	// row's write is done before its global position is asked for, in the order of
	// the arrays. One statement is one transaction.
	writeMessages = newStatement("write_messages",
		`SELECT position, `+writtenGlobalPosition+`
FROM (
	SELECT message_store.write_message(m.id, $1::varchar, m.type, m.data::jsonb, m.metadata::jsonb, $6::bigint + m.index - 1) AS position
	FROM unnest($2::varchar[], $3::varchar[], $4::text[], $5::text[]) WITH ORDINALITY AS m(id, type, data, metadata, index)
) AS written`)

	acquireLocks = newStatement("acquire_locks",
		`SELECT count(message_store.acquire_lock(category)) FROM unnest($1::varchar[]) AS category`)

	findMessages = newStatement("find_messages",
		`SELECT sought.index, found.stream_name, found.position, found.global_position,
	found.type = sought.type
		AND found.data IS NOT DISTINCT FROM sought.data::jsonb
		AND found.metadata IS NOT DISTINCT FROM sought.metadata::jsonb
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS sought(id, type, data, metadata, index)
JOIN message_store.messages AS found ON found.id = sought.id::uuid
ORDER BY sought.index`)
)

// A runner runs a statement in one round trip, once it is prepared, and gives its
// rows to read.
type runner interface {
	run(ctx context.Context, st *statement, read func(pgx.Rows) error, args ...any) error
	// runConditional is run for a statement that needs the setting
	// message_store.sql_condition, which is off again afterwards.
	runConditional(ctx context.Context, st *statement, read func(pgx.Rows) error, args ...any) error
}

// A session is what a *pgx.Conn and a pgx.Tx have in common.
type session interface {
	Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// query runs a statement. In pgx's default mode it is prepared under our own name:
// pgx would drop a statement of its own cache upon any error, and losing a race is
// an ordinary error here. The other modes exist for servers and proxies that do
// not keep prepared statements, and are left to pgx.
func query(ctx context.Context, s session, mode pgx.QueryExecMode, st *statement, read func(pgx.Rows) error, args []any) error {
	sql := st.sql
	if mode == pgx.QueryExecModeCacheStatement {
		if _, err := s.Prepare(ctx, st.name, st.sql); err != nil {
			return err
		}
		sql = st.name
	}
	rows, err := s.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	if err := read(rows); err != nil {
		return err
	}
	rows.Close()
	return rows.Err()
}

const (
	conditionOn  = `SELECT set_config('message_store.sql_condition', 'on', true)`
	conditionOff = `SELECT set_config('message_store.sql_condition', 'off', false)`
)

// queryConditional sends the statement between one that turns the setting on and
// one that turns it off, in one round trip and one transaction. It is turned off
// for the session: what a transaction has set reads as empty when it is over, and
// Message DB takes empty for on.
func queryConditional(ctx context.Context, s session, st *statement, read func(pgx.Rows) error, args []any) (err error) {
	batch := new(pgx.Batch)
	batch.Queue(conditionOn)
	batch.Queue(st.sql, args...)
	batch.Queue(conditionOff)
	results := s.SendBatch(ctx, batch)
	defer func() {
		if closeErr := results.Close(); err == nil {
			err = closeErr
		}
	}()
	if _, err := results.Exec(); err != nil {
		return err
	}
	rows, err := results.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	if err := read(rows); err != nil {
		return err
	}
	rows.Close()
	return rows.Err()
}

// poolRunner runs each statement on a connection of the pool, as a transaction of
// its own.
type poolRunner struct {
	pool *pgxpool.Pool
	mode pgx.QueryExecMode
}

func (r *poolRunner) run(ctx context.Context, st *statement, read func(pgx.Rows) error, args ...any) error {
	conn, err := r.pool.Acquire(ctx)
	if err != nil {
		return &acquireError{contextError(ctx, err)}
	}
	defer conn.Release()
	err = query(ctx, conn.Conn(), r.mode, st, read, args)
	if err != nil && classify(err) == classStale {
		// Nothing has happened but that the server refused the statement.
		if forgetErr := conn.Conn().Deallocate(ctx, st.name); forgetErr != nil {
			return contextError(ctx, forgetErr)
		}
		err = query(ctx, conn.Conn(), r.mode, st, read, args)
	}
	return contextError(ctx, err)
}

func (r *poolRunner) runConditional(ctx context.Context, st *statement, read func(pgx.Rows) error, args ...any) error {
	conn, err := r.pool.Acquire(ctx)
	if err != nil {
		return &acquireError{contextError(ctx, err)}
	}
	defer conn.Release()
	err = queryConditional(ctx, conn.Conn(), st, read, args)
	if err != nil && !conn.Conn().IsClosed() {
		// The failed transaction has turned nothing off for the session.
		if _, offErr := conn.Exec(ctx, conditionOff); offErr != nil {
			// With the setting on it must not be used again; released closed, it is not.
			_ = conn.Conn().Close(ctx)
		}
	}
	return contextError(ctx, err)
}

// txRunner runs statements within a transaction.
type txRunner struct {
	tx    pgx.Tx
	mode  pgx.QueryExecMode
	state *txState
}

func (r *txRunner) run(ctx context.Context, st *statement, read func(pgx.Rows) error, args ...any) error {
	err := query(ctx, r.tx, r.mode, st, read, args)
	if err == nil {
		return nil
	}
	r.state.failed = err
	if classify(err) == classStale {
		// The transaction is lost, but the connection's next one need not be. If
		// this fails so does the connection, and with it the statement.
		_ = r.tx.Conn().Deallocate(ctx, st.name)
	}
	return contextError(ctx, err)
}

func (r *txRunner) runConditional(ctx context.Context, st *statement, read func(pgx.Rows) error, args ...any) error {
	// If the transaction fails, only what the session began with stays off.
	if r.tx.Conn().Config().RuntimeParams[conditionSetting] != "off" {
		return &SetupError{
			Problem: "a condition in a transaction may leave the setting " + conditionSetting + " on behind it",
			Remedy:  "let Configure prepare the pool's configuration, which sets it off at start-up",
		}
	}
	return contextError(ctx, queryConditional(ctx, r.tx, st, read, args))
}

// acquireError is that of a call that got no connection and so sent nothing.
type acquireError struct{ err error }

func (e *acquireError) Error() string { return "no connection: " + e.err.Error() }
func (e *acquireError) Unwrap() error { return e.err }
