package doorbell

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/trigger"
)

// A server is the connection that listens. Tests replace it.
type server interface {
	listen(ctx context.Context) error
	look(ctx context.Context) (facts, error)
	// share tries to share the categories' keys, and reports for each whether it succeeded.
	share(ctx context.Context, categories []string) ([]bool, error)
	unlock(ctx context.Context, categories []string) error
	// wait returns a notification's payload, or nil when until ends.
	wait(ctx, until context.Context) (payload *string, err error)
	close(ctx context.Context)
}

// facts are what a look finds.
type facts struct {
	enabled bool // the trigger is installed and fires for writes
	proxy   bool // the database is one of PL/Proxy, and so no shard
	always  bool // it also fires for rows that replication applies
	utf8    bool // the server stores text in the encoding of Go's strings
	locks   lockTable
}

// A pgServer is a connection to PostgreSQL.
type pgServer struct {
	conn *pgx.Conn
	tell func(consumer string) // called by wait
}

func (s pgServer) listen(ctx context.Context) error {
	return s.exec(ctx, "LISTEN "+pgx.Identifier{trigger.Channel}.Sanitize()+"; LISTEN "+consumersChannel, pgx.QueryExecModeSimpleProtocol)
}

// A lock that PostgreSQL grants by its fast path is not in the lock table, and a predicate
// lock is in a table of its own.
const lookSQL = `SELECT ` + trigger.Enabled + `, ` + trigger.Proxy + `, ` + trigger.Always + `,
	current_setting('server_encoding') IN ('UTF8', 'SQL_ASCII'),
	current_setting('max_locks_per_transaction')::bigint * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint),
	count(*) FILTER (WHERE NOT bell),
	count(*) FILTER (WHERE bell AND pid <> pg_backend_pid()),
	count(DISTINCT pid) FILTER (WHERE bell AND pid <> pg_backend_pid())
FROM (
	SELECT pid, locktype = 'advisory' AND classid = $1 AND objsubid = 2 AND mode = 'ShareLock' AND pid IS NOT NULL AS bell
	FROM pg_locks WHERE NOT fastpath AND mode <> 'SIReadLock'
) AS l`

func (s pgServer) look(ctx context.Context) (f facts, err error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	t := &f.locks
	err = s.conn.QueryRow(ctx, lookSQL, trigger.Key).Scan(&f.enabled, &f.proxy, &f.always, &f.utf8, &t.capacity, &t.foreign, &t.others, &t.bells)
	if err != nil {
		return f, fmt.Errorf("look for the trigger and at the lock table: %w", err)
	}
	return f, nil
}

func (s pgServer) share(ctx context.Context, categories []string) ([]bool, error) {
	var granted []bool
	const sql = `SELECT array_agg(pg_try_advisory_lock_shared($1, hashtext(category)) ORDER BY index)
FROM unnest($2::text[]) WITH ORDINALITY AS c(category, index)`
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	if err := s.conn.QueryRow(ctx, sql, trigger.Key, categories).Scan(&granted); err != nil {
		return nil, fmt.Errorf("share keys: %w", err)
	}
	if len(granted) != len(categories) {
		return nil, fmt.Errorf("share keys: got %d results for %d categories", len(granted), len(categories))
	}
	return granted, nil
}

func (s pgServer) unlock(ctx context.Context, categories []string) error {
	const sql = `SELECT count(pg_advisory_unlock_shared($1, hashtext(category))) FROM unnest($2::text[]) AS category`
	if err := s.exec(ctx, sql, trigger.Key, categories); err != nil {
		return fmt.Errorf("unlock keys: %w", err)
	}
	return nil
}

func (s pgServer) exec(ctx context.Context, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	_, err := s.conn.Exec(ctx, sql, args...)
	return err
}

func (s pgServer) wait(ctx, until context.Context) (*string, error) {
	n, err := s.conn.WaitForNotification(until)
	switch {
	case err == nil && n != nil && n.Channel == consumersChannel:
		s.tell(n.Payload)
		return nil, nil
	case err == nil && n != nil:
		return &n.Payload, nil
	case until.Err() != nil && ctx.Err() == nil && !s.conn.IsClosed():
		return nil, nil
	}
	return nil, err
}

func (s pgServer) close(ctx context.Context) { _ = s.conn.Close(ctx) }

// lockTableFull reports whether the server had no memory for one more lock.
func lockTableFull(err error) bool {
	pgErr := (*pgconn.PgError)(nil)
	return errors.As(err, &pgErr) && pgErr.Code == "53200"
}
