package mdb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/doorbell"
	"github.com/messagedb-go/messagedb/internal/trigger"
)

// Defaults of [WithNotify].
const (
	// DefaultNotifyFallback is the default of [Fallback].
	DefaultNotifyFallback = 5 * time.Second
	// DefaultMaxNotifications is the default of [MaxNotifications].
	DefaultMaxNotifications = 100

	defaultRecheck = time.Minute
	listenTimeout  = 5 * time.Second // to connect, if the pool has no timeout
)

// A NotifyOption configures [WithNotify].
type NotifyOption interface {
	notify(*notifyConfig, *argumentFaults)
}

type notifyConfig struct {
	enabled          bool
	fallback         time.Duration
	maxNotifications int
	listenOn         string
	recheck          time.Duration // how long polling replaces notifications after a failure
}

type notifyOption func(*notifyConfig, *argumentFaults)

func (o notifyOption) notify(c *notifyConfig, f *argumentFaults) { o(c, f) }

// WithNotify makes subscriptions that have caught up wait for notifications instead of
// polling. They receive a message a few milliseconds after its commit, and while nothing
// is written they read only as often as [Fallback] says. It requires the trigger of
// [github.com/messagedb-go/messagedb/mdb/schema.InstallNotify].
//
// The store opens one connection outside the pool for its first subscription and closes
// it after the last. While notifications are unavailable, because the connection is lost,
// the trigger is missing or a pooler is in between, subscriptions poll as their strategies
// say. The store looks for a missing trigger every 20 seconds, and immediately after
// InstallNotify. The trigger notifies only while a subscription waits, and at a limited rate, see
// [MaxNotifications]; beyond it, subscriptions poll for a while, at most every 10 ms.
//
// If messages arrive without a notification, the store logs a warning, and their category is
// polled for a minute, and longer each time. The reason may be logical replication, or a
// session with session_replication_role = replica: the trigger does not fire for them until
// ALTER TABLE message_store.messages ENABLE ALWAYS TRIGGER message_store_notify.
//
// For each category with subscriptions that wait, the store has one entry of the server's
// lock table, whose size is max_locks_per_transaction × (max_connections +
// max_prepared_transactions). All stores together use at most a quarter of what everybody
// else leaves of it. If that is not enough for all categories, the store logs a warning, the
// first ones wait for notifications, and the others are polled as their strategies say. A
// category that has messages replaces one that has had none for a minute. Raise
// max_locks_per_transaction if [NotifyStats] shows such categories. If the table becomes full
// nevertheless, the store polls for a minute, and then uses half as many entries, and more
// again later.
func WithNotify(opts ...NotifyOption) StoreOption {
	return storeOption(func(c *storeConfig) {
		c.notify.enabled = true
		for _, opt := range opts {
			opt.notify(&c.notify, &c.faults)
		}
	})
}

// Fallback sets how long a subscription waits for a notification before it reads without
// one; a random part is subtracted. This finds messages whose notification is missing, and
// shows if the trigger was disabled. The default is [DefaultNotifyFallback].
func Fallback(d time.Duration) NotifyOption {
	return notifyOption(func(c *notifyConfig, f *argumentFaults) {
		if d <= 0 {
			f.add("fallback", d.String(), "a positive duration")
		}
		c.fallback = d
	})
}

// MaxNotifications limits the notifications a second in the whole database. If there are
// more, the store polls the categories that cause most of them for a while. PostgreSQL
// serializes commits that notify across the whole cluster, so the limit protects writers.
// The default is [DefaultMaxNotifications].
func MaxNotifications(perSecond int) NotifyOption {
	return notifyOption(func(c *notifyConfig, f *argumentFaults) {
		if perSecond < 1 {
			f.add("notifications", strconv.Itoa(perSecond), "at least 1 a second")
		}
		c.maxNotifications = perSecond
	})
}

// ListenOn sets the connection string of the connection that listens. It must connect to
// the same database, bypassing any pooler. The default is that of the pool. The pool's
// BeforeConnect is called for it, which may set a password, and the pool's DialFunc and
// LookupFunc dial it.
func ListenOn(connString string) NotifyOption {
	return notifyOption(func(c *notifyConfig, f *argumentFaults) {
		if _, fault := parseConnString(connString); fault != "" {
			f.add("connection string to listen on", "an invalid one ("+fault+")", "postgres://… or key=value pairs")
		}
		c.listenOn = connString
	})
}

// NotifyStats is a snapshot of what [WithNotify] does.
type NotifyStats struct {
	// Listening reports whether the connection that listens is open and has received
	// a notification that was sent through the pool.
	Listening bool
	// Waiting, Cooling and Polling count the categories that have subscriptions: those
	// whose subscriptions wait for a notification, those that are polled often for a
	// while, and those that are polled as their strategies say.
	Waiting, Cooling, Polling int
	// LockTableFull counts those categories of Polling that could wait for notifications
	// if the server's lock table were larger, see [WithNotify].
	LockTableFull int
	// Notifications counts the notifications received, for any category in the
	// database.
	Notifications int64
	// Reads counts the reads of all subscriptions.
	Reads int64
}

// NotifyStats returns a snapshot, for logs and metrics.
func (s *Store) NotifyStats() NotifyStats {
	stats := s.bell.Stats()
	return NotifyStats{
		Listening:     stats.Listening,
		Waiting:       stats.Armed,
		Cooling:       stats.Cooling,
		Polling:       stats.Off,
		LockTableFull: stats.Crowded,
		Notifications: stats.Notifications,
		Reads:         stats.Reads,
	}
}

// newBell returns the store's doorbell. Without WithNotify it wakes subscriptions only
// after writes by the same store.
func newBell(pool *pgxpool.Pool, c *storeConfig) *doorbell.Bell {
	config := doorbell.Config{
		Fallback:  c.notify.fallback,
		Recheck:   c.notify.recheck,
		PerSecond: c.notify.maxNotifications,
		Logger:    c.logger,
	}
	config.Listening = c.hooks.listening()
	if c.notify.enabled {
		config.Connect = func(ctx context.Context) (*pgx.Conn, error) { return connectToListen(ctx, pool, c.notify.listenOn) }
		config.Notify = func(ctx context.Context, payload string) (time.Time, error) { return notify(ctx, pool, payload) }
	}
	return doorbell.New(config)
}

// notify sends a notification through the pool, and returns when it was sent.
func notify(ctx context.Context, pool *pgxpool.Pool, payload string) (sent time.Time, err error) {
	conn, err := acquire(ctx, pool)
	if errors.Is(err, context.DeadlineExceeded) {
		return time.Time{}, fmt.Errorf("%w: %w", doorbell.ErrBusy, err)
	}
	if err != nil {
		return time.Time{}, err
	}
	defer conn.Release()
	sent = time.Now()
	_, err = conn.Exec(ctx, "SELECT pg_catalog.pg_notify($1, $2)", pgx.QueryExecModeExec, trigger.Channel, payload)
	return sent, err
}

// connectToListen opens the connection that listens: with the address, if there is one, or
// with the pool's configuration.
func connectToListen(ctx context.Context, pool *pgxpool.Pool, address string) (*pgx.Conn, error) {
	var listen *pgx.ConnConfig
	if address != "" {
		cfg, fault := parseConnString(address)
		if fault != "" {
			return nil, connStringError(fault)
		}
		listen = cfg.ConnConfig
	}
	cfg, err := configBeside(ctx, pool, listen, "message_store notify")
	if err != nil {
		return nil, err
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	params := parameters(cfg.RuntimeParams)
	params.setEncoding()
	params.setKeepalives()
	// No object of a user can hide one of the server.
	params.set("search_path", "pg_catalog, pg_temp")
	// Without it, writers would keep notifying for a process that is stopped or cut off.
	params.set("idle_session_timeout", "60000")
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = listenTimeout
	}
	return pgx.ConnectConfig(ctx, cfg)
}

// configBeside returns the configuration of a connection of the store's own, beside the
// pool: that of the pool, or another one with the pool's way to dial. The purpose becomes a
// part of the application's name.
func configBeside(ctx context.Context, pool *pgxpool.Pool, other *pgx.ConnConfig, purpose string) (*pgx.ConnConfig, error) {
	config := pool.Config()
	cfg := config.ConnConfig
	if other != nil {
		other.DialFunc, other.LookupFunc = cfg.DialFunc, cfg.LookupFunc
		cfg = other
	}
	if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, cfg); err != nil {
			return nil, err
		}
	}
	cfg.OnNotification = nil
	cfg.OnNotice = nil // it would be called in a goroutine of the store
	cfg.Tracer = nil
	cfg.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.DeadlineContextWatcherHandler{Conn: conn.Conn()}
	}
	params := parameters(maps.Clone(cfg.RuntimeParams)) // a hook of the pool may share the map
	if params == nil {
		params = make(parameters)
	}
	cfg.RuntimeParams = params
	params.set("application_name", strings.TrimSpace(params.get("application_name")+" "+purpose))
	return cfg, nil
}
