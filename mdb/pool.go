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

// A Store is a Message DB, accessed through a pool of connections. Create one with
// [Connect] or [New]. It is safe for concurrent use. It starts goroutines only for
// subscriptions with [WithNotify] or [WithWorkers].
type Store struct {
	procedures
	pool     *pgxpool.Pool
	ownsPool bool
	bell     *doorbell.Bell

	// Whether the role may read a category's head from the table: neither is set until that
	// is known.
	headed, headless atomic.Bool
}

// procedures has the methods that a Store and a Tx have in common.
type procedures struct {
	runner
	config *storeConfig
	wrote  func(StreamName) // called after a write that has committed
	tx     *txState         // nil on a Store
}

// Connect opens a pool and returns a [Store] on it, after it has checked that the server
// answers. The connection string is a URL or a list of key=value pairs, as
// pgxpool.ParseConfig takes them. Connect prepares the pool's configuration with
// [Configure]. [Store.Close] closes the pool.
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

// connStringError returns an error that does not quote the connection string, which may
// contain a password. It leaves out the parser's reason if that may quote a part of it.
func connStringError(connString string, err error) error {
	reason := "it cannot be parsed"
	if _, urlErr := url.Parse(connString); urlErr == nil && strings.Contains(connString, "://") {
		if inner := errors.Unwrap(err); inner != nil {
			reason = inner.Error()
		}
	}
	return fmt.Errorf("mdb: invalid connection string (%s), want postgres://… or key=value pairs", reason)
}

// New returns a [Store] on the caller's pool, which [Store.Close] does not close. It does
// no I/O. Prepare the pool's configuration with [Configure], or set the same on the role.
// New rejects a pool whose exec mode requires a cache that is turned off, with an
// [*ArgumentError].
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
	runner := &poolRunner{pool: pool, mode: config.execMode}
	bell := newBell(pool, &config)
	return &Store{procedures: procedures{runner: runner, config: &config, wrote: func(stream StreamName) { bell.Wrote(string(stream)) }}, pool: pool, bell: bell}, nil
}

// conditionSetting is the setting that allows conditions in SQL while it is on.
const conditionSetting = "message_store.sql_condition"

// Configure prepares the configuration of a pool for Message DB. It sets two start-up
// parameters, which need no round trip and survive RESET and DISCARD ALL:
//
//   - search_path: message_store first, then the path in the configuration, or else the
//     server's default, and pg_temp last, so that a temporary table cannot hide the table
//     messages;
//   - message_store.sql_condition: off.
//
// With this search path, an unqualified CREATE TABLE creates the table in the schema
// message_store. It overrides a path that is set on the role or the database: put the
// schemas of that into the configuration's search_path.
//
// PgBouncer rejects start-up parameters that it does not know. With it, do not call
// Configure, and set both parameters with ALTER ROLE … SET.
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

// Close closes the pool if [Connect] opened it, and waits until all its connections are
// released. It may be called more than once.
func (s *Store) Close() {
	if s.ownsPool {
		s.pool.Close()
	}
}
