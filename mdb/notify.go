package mdb

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/doorbell"
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
	listenOn         []string      // one address, or one for each shard; empty: that of the pool
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
// it after the last. For a database of PL/Proxy it needs the addresses of the shards, see
// [ListenOn], and opens one to each. While notifications are unavailable, because the connection is lost,
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
//
// For a database of PL/Proxy, pass the connection strings of the shards, in the order of their
// numbers. The store opens one connection to each. It proves each one with a notification that
// the proxy sends to the shard of that number, so addresses in another order, or of other
// databases, are not used: the categories of these shards are polled, and a warning says why.
// [Store.NotifyShardStats] returns the state of each.
func ListenOn(connStrings ...string) NotifyOption {
	return notifyOption(func(c *notifyConfig, f *argumentFaults) {
		if len(connStrings) == 0 {
			f.add("connection strings to listen on", "none", "at least one")
		}
		for i, s := range connStrings {
			if _, fault := parseConnString(s); fault != "" {
				f.add("connection string to listen on", "an invalid one ("+fault+")", "postgres://… or key=value pairs")
			}
			if slices.Contains(connStrings[:i], s) {
				f.add("connection strings to listen on", "the same one for two shards", "one for each shard")
			}
		}
		c.listenOn = slices.Clone(connStrings)
	})
}

// NotifyStats is a snapshot of what [WithNotify] does.
type NotifyStats struct {
	// Listening reports whether the connection that listens is open and has received
	// a notification that was sent through the pool. If there are several, it reports
	// whether all of them are.
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
func (s *Store) NotifyStats() NotifyStats { return notifyStats(s.bell.Stats()) }

// NotifyShardStats returns a snapshot of each shard for which [ListenOn] has an address, in
// their order. Categories of other shards are only in [Store.NotifyStats]. Without addresses, and
// with one, the result has one element.
func (s *Store) NotifyShardStats() []NotifyStats {
	var all []NotifyStats
	for _, stats := range s.bell.ShardStats() {
		all = append(all, notifyStats(stats))
	}
	return all
}

func notifyStats(stats doorbell.Stats) NotifyStats {
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
func newBell(pool *pgxpool.Pool, first *firstUse, c *storeConfig) *doorbell.Bell {
	config := doorbell.Config{
		Fallback:  c.notify.fallback,
		Recheck:   c.notify.recheck,
		PerSecond: c.notify.maxNotifications,
		Logger:    c.logger,
	}
	config.Listening = c.hooks.listening()
	if !c.notify.enabled {
		return doorbell.New(config)
	}
	addresses := c.notify.listenOn
	for i := range max(len(addresses), 1) {
		config.Connect = append(config.Connect, func(ctx context.Context) (*pgx.Conn, error) { return connectToListen(ctx, pool, addresses, i) })
	}
	n := notifier{pool, first, len(addresses)}
	config.Notify, config.Sharded, config.Place = n.notify, n.proxied, n.shardsOf
	return doorbell.New(config)
}

// connectToListen opens a connection that listens: with the i-th address, if there are any, or
// with the pool's configuration.
func connectToListen(ctx context.Context, pool *pgxpool.Pool, addresses []string, i int) (*pgx.Conn, error) {
	var listen *pgx.ConnConfig
	if len(addresses) > 0 && addresses[i] != "" {
		cfg, fault := parseConnString(addresses[i])
		if fault != "" {
			return nil, connStringError(fault)
		}
		listen = cfg.ConnConfig
	}
	purpose := "message_store notify"
	if len(addresses) > 1 {
		purpose = "shard " + strconv.Itoa(i) + " " + purpose
	}
	cfg, err := configBeside(ctx, pool, listen, purpose)
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
