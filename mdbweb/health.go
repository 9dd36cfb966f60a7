package mdbweb

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// healthPage is what the check of the set-up says, and who is notified.
type healthPage struct {
	Problems []mdb.SetupError
	Server   serverState
	Notify   schema.NotifyState
	Stats    mdb.NotifyStats
	Forks    mdb.Stats
	Pool     poolState
}

// A serverState is what the server says about the table.
type serverState struct {
	Version, MessageDB    string
	Standby               bool
	Table, Indexes        int64 // bytes
	First, Last           *int64
	Analyzed              *time.Time
	Sessions, Connections int64
	Oldest                *time.Time // the beginning of the oldest transaction
}

// A poolState is how the connections of the service's pool are used.
type poolState struct{ Used, Idle, Most int32 }

const sqlServer = `SELECT pg_catalog.current_setting('server_version'), pg_catalog.pg_is_in_recovery(),
	pg_catalog.pg_table_size('message_store.messages'), pg_catalog.pg_indexes_size('message_store.messages'),
	(SELECT pg_catalog.min(global_position) FROM message_store.messages), (SELECT pg_catalog.max(global_position) FROM message_store.messages),
	(SELECT greatest(s.last_analyze, s.last_autoanalyze) FROM pg_catalog.pg_stat_all_tables AS s WHERE s.relid = 'message_store.messages'::regclass),
	(SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity AS a WHERE a.datname = pg_catalog.current_database()),
	pg_catalog.current_setting('max_connections')::bigint,
	(SELECT pg_catalog.min(a.xact_start) FROM pg_catalog.pg_stat_activity AS a
		WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid() AND a.backend_type = 'client backend')`

func (h *Handler) health(w http.ResponseWriter, r *http.Request) error {
	p := healthPage{Stats: h.store.NotifyStats(), Forks: h.store.Stats()}
	pool := h.store.Pool().Stat()
	p.Pool = poolState{Used: pool.AcquiredConns(), Idle: pool.IdleConns(), Most: pool.MaxConns()}
	err := h.reader.read(r.Context(), func(ctx context.Context, tx pgx.Tx) error {
		s := &p.Server
		return tx.QueryRow(ctx, sqlServer).Scan(&s.Version, &s.Standby, &s.Table, &s.Indexes, &s.First, &s.Last, &s.Analyzed, &s.Sessions, &s.Connections, &s.Oldest)
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	// The pool is one that only reads.
	if p.Problems, err = problems(h.follower.Check(ctx, mdb.ReadOnly())); err != nil {
		return err
	}
	if p.Server.MessageDB, err = h.follower.MessageStoreVersion(ctx); err != nil {
		return err
	}
	if p.Notify, err = schema.NotifyStatus(ctx, h.reader.pool); err != nil {
		return err
	}
	return h.render(w, r, "health", "Health", http.StatusOK, &p)
}

// problems returns what a check has found, or the error that has prevented it.
func problems(err error) (list []mdb.SetupError, failed error) {
	if err == nil {
		return nil, nil
	}
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	for _, err := range all {
		var setup *mdb.SetupError
		if !errors.As(err, &setup) {
			return nil, err
		}
		list = append(list, *setup)
	}
	return list, nil
}
