package mdb

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// askTimeout limits the answer, and each attempt to connect if the pool has no limit.
	askTimeout = 5 * time.Second
	// askTolerance is how much younger than its connection a session may seem.
	askTolerance = 15 * time.Second
)

// A reply is what a server has said about sessions. The zero value is one that knows of
// none.
type reply struct {
	err        error // of the question
	unasked    bool  // a hook of the pool or this process has failed, so nothing was sent
	pooled     bool  // a pooler is in between, which does not show its sessions
	recovering bool
	sessions   map[uint32]sessionState
}

// A sessionState is a row of pg_stat_activity.
type sessionState struct {
	state *string // nil: the role must not see it
	wait  *string // the type of what it waits for; nil: nothing
	age   *float64
}

// sessionQuestion finds sessions by their pids. A session of another server may have the same
// pid, so their ages count, too. One that waits for rows to copy does not wait because they
// were lost: the caller of a transaction may have none yet.
const sessionQuestion = `
SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery(), a.pid, a.state,
	CASE WHEN a.wait_event = 'ClientRead' AND a.query ~* '^\s*copy\s' THEN NULL ELSE a.wait_event_type END,
	pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - a.backend_start)
FROM (SELECT) AS one LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = ANY ($1::int[])`

// askServer asks on a connection of its own, because those of the pool may all be silent.
func askServer(ctx context.Context, pool *pgxpool.Pool, pids []int32) (a reply) {
	defer func() {
		if v := recover(); v != nil { // a hook of the pool
			a = reply{err: fmt.Errorf("panic: %v", v), unasked: true}
		}
	}()
	hook, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	cfg, err := configBeside(hook, pool, nil, "message_store silence")
	if err != nil {
		return reply{err: err, unasked: true}
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = askTimeout
	}
	delete(cfg.RuntimeParams, "role") // a role sees its own sessions, and those of roles that it is a member of
	ctx, cancel = context.WithTimeout(ctx, time.Duration(1+len(cfg.Fallbacks))*cfg.ConnectTimeout+askTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return reply{err: err, unasked: errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)}
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing depends on it
	if seen, _ := observed(conn.PgConn().Conn()); seen != nil {
		seen.givenUp.Store(true) // the question is not worth a cancel request
	}
	ctx, cancel = context.WithTimeout(ctx, askTimeout)
	defer cancel()
	a.sessions = make(map[uint32]sessionState)
	rows, err := conn.Query(ctx, sessionQuestion, append(lookMode(cfg.DefaultQueryExecMode), pids)...)
	a.err = readAll(rows, err, func(rows pgx.Rows) error {
		for rows.Next() {
			var own uint32
			var pid *uint32
			var s sessionState
			if err := scanRow(rows, &own, &a.recovering, &pid, &s.state, &s.wait, &s.age); err != nil {
				return err
			}
			a.pooled = own != conn.PgConn().PID()
			if pid != nil {
				a.sessions[*pid] = s
			}
		}
		return rows.Err()
	})
	return a
}

// verdict returns why the connection of a statement must be given up, or "" to wait on.
// While the server executes it, for example because it waits for the lock of a category or
// for a synchronous standby, giving up would only lose its place in the queue.
func (a *reply) verdict(c *call, now time.Time) string {
	s, there := a.sessions[c.pid]
	switch {
	case a.unasked, a.err != nil && isAlive(a.err):
		return ""
	case a.err != nil:
		return "the server does not answer another connection (" + scrub(a.err).Error() + ")"
	case a.pooled:
		return ""
	case !there, s.age != nil && time.Duration(*s.age*float64(time.Second)) < now.Sub(c.opened)-askTolerance:
		return "the server has no such session"
	case a.recovering && !c.standby:
		return "the server is in recovery"
	case s.state == nil: // it is there
		return ""
	case *s.state != "active" && *s.state != "disabled":
		return "the server is not executing it"
	case s.wait != nil && *s.wait == "Client":
		return "the server waits for the connection"
	}
	return ""
}

// isAlive reports whether an error shows that the server works: it lacks resources, such as
// connections, or it does not know what it was asked.
func isAlive(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return errors.As(err, new(*unreadableError))
	}
	return !isFatal(pgErr) && !isConnectError(err) || pgErr.Code[:min(2, len(pgErr.Code))] == "53"
}
