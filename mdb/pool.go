package mdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/doorbell"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// A Store is a Message DB, reached through a pool of connections. It is safe for
// concurrent use, and starts no goroutine of its own, but for
// subscriptions with [WithNotify] or [WithWorkers].
type Store struct {
	procedures
	pool     *pgxpool.Pool
	ownsPool bool
	bell     *doorbell.Bell

	// Whether the table can be asked for a category's head, once that is known.
	headed, headless atomic.Bool
}

// procedures are Message DB's, called on a Store or within a Tx. The methods that
// follow are those of both.
type procedures struct {
	runner
	config *storeConfig
	wrote  func(StreamName) // is called after a write of a Store's own
	tx     *txState         // nil on a Store
}

// Connect opens a pool for the connection string, in the form of libpq's, with
// the settings of pgxpool.ParseConfig, prepares it by [Configure], and makes sure
// that the server answers. Close closes the pool.
func Connect(ctx context.Context, connString string, opts ...StoreOption) (*Store, error) {
	cfg, err := pgxpool.ParseConfig(connString)
	if err != nil {
		return nil, connStringError(connString, err)
	}
	Configure(cfg)
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("mdb: open a pool: %w", err)
	}
	s, err := New(pool, opts...)
	if err != nil {
		pool.Close()
		return nil, err
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("mdb: %w", contextError(ctx, err))
	}
	s.ownsPool = true
	return s, nil
}

// connStringError says why without quoting the string, which may hold a password:
// the reason of a parser that has lost its way may quote a piece of it.
func connStringError(connString string, err error) error {
	reason := "it has a fault"
	if _, urlErr := url.Parse(connString); urlErr == nil && strings.Contains(connString, "://") {
		if inner := errors.Unwrap(err); inner != nil {
			reason = inner.Error()
		}
	}
	return fmt.Errorf("mdb: cannot use the connection string (%s), want postgres://… or key=value pairs", reason)
}

// New returns a Store on the caller's pool, which Close leaves open. It does no
// I/O. The pool's configuration should have been prepared by [Configure], or the
// role's settings should do the same. A pool in one of the exec modes that cache
// needs a cache, or the error is an [*ArgumentError].
func New(pool *pgxpool.Pool, opts ...StoreOption) (*Store, error) {
	config := storeConfig{
		maxSize: DefaultMaxMessageSize,
		logger:  slog.New(slog.DiscardHandler),
		polling: poll.Backoff(10*time.Millisecond, time.Second, 2),
		notify:  notifyConfig{fallback: DefaultNotifyFallback, maxNotifications: DefaultMaxNotifications, recheck: defaultRecheck},
	}
	var conn *pgx.ConnConfig
	if pool == nil {
		config.faults.add("pool", "nil", "a *pgxpool.Pool")
	} else {
		conn = pool.Config().ConnConfig
		config.faults.caches(conn)
	}
	for _, opt := range opts {
		opt.store(&config)
	}
	if err := config.faults.err(); err != nil {
		return nil, err
	}
	config.retry = config.retry.withDefaults()
	config.execMode = conn.DefaultQueryExecMode
	runner := &poolRunner{pool: pool, mode: config.execMode, tracer: conn.Tracer}
	bell := newBell(pool, &config)
	return &Store{procedures: procedures{runner: runner, config: &config, wrote: func(stream StreamName) { bell.Wrote(string(stream)) }}, pool: pool, bell: bell}, nil
}

const conditionSetting = "message_store.sql_condition"

// Configure prepares the configuration of a pool for Message DB. It sets only
// start-up parameters, which cost nothing and outlast RESET and DISCARD ALL: a
// search path with message_store first, the path that was configured or else the
// server's default behind it, and pg_temp last, so that a temporary table cannot
// take the place of the store's; and message_store.sql_condition=off.
//
// With that path, an unqualified CREATE TABLE goes to the schema message_store, and a
// path set on the role or the database is not used: name its schemas in the
// configuration's search_path.
// PgBouncer refuses start-up parameters that it does not know: with it, set both on
// the role instead, by ALTER ROLE … SET.
func Configure(cfg *pgxpool.Config) {
	params := cfg.ConnConfig.RuntimeParams
	if params == nil {
		params = make(map[string]string)
		cfg.ConnConfig.RuntimeParams = params
	}
	path, ok := params["search_path"]
	if !ok {
		path = `"$user", public`
	}
	schemas := []string{"message_store"}
	quoted := false
	for schema := range strings.FieldsFuncSeq(path, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ',' && !quoted
	}) {
		switch schema = strings.TrimSpace(schema); schema {
		case "", "message_store", `"message_store"`, "pg_temp":
		default:
			schemas = append(schemas, schema)
		}
	}
	params["search_path"] = strings.Join(append(schemas, "pg_temp"), ", ")
	params[conditionSetting] = "off"
}

// Pool returns the pool that the store uses.
func (s *Store) Pool() *pgxpool.Pool { return s.pool }

// Close closes the pool if [Connect] opened it, once all its connections have been
// given back. It may be called more than once.
func (s *Store) Close() {
	if s.ownsPool {
		s.pool.Close()
	}
}
