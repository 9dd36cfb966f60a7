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
	DefaultNotifyFallback   = 5 * time.Second
	DefaultMaxNotifications = 100

	defaultRecheck = time.Minute
	listenTimeout  = 5 * time.Second // to connect, where the pool has none
)

// A NotifyOption is something that [WithNotify] can be told.
type NotifyOption interface{ notify(*notifyConfig, *faults) }

type notifyConfig struct {
	enabled          bool
	fallback         time.Duration
	maxNotifications int
	listenOn         string
	recheck          time.Duration // how long the bell stays off after it has failed
}

type notifyOption func(*notifyConfig, *faults)

func (o notifyOption) notify(c *notifyConfig, f *faults) { o(c, f) }

// WithNotify makes subscriptions that have caught up wait for the NOTIFY trigger of
// schema.InstallNotify instead of polling. They then receive a message about a
// millisecond after it was committed, and read nothing while nothing happens.
//
// The store opens one more connection, outside of the pool, with its first
// subscription, and closes it with the last. While it cannot be used, because the
// connection is lost, the trigger is missing or a pooler is between, subscriptions
// poll as their strategies say. A trigger rings only while somebody waits for it,
// and only so often in all, see [MaxNotifications]; beyond that subscriptions poll for a
// while, every 10 ms at best.
func WithNotify(opts ...NotifyOption) StoreOption {
	return storeOption(func(c *storeConfig) {
		c.notify.enabled = true
		for _, opt := range opts {
			opt.notify(&c.notify, &c.faults)
		}
	})
}

// Fallback sets after how long a subscription looks for messages even though nobody
// has rung, less a random part. It is a safety net: a trigger that was disabled shows
// by what is found then. The default is [DefaultNotifyFallback].
func Fallback(d time.Duration) NotifyOption {
	return notifyOption(func(c *notifyConfig, f *faults) {
		if d <= 0 {
			f.add("fallback", d.String(), "a positive duration")
		}
		c.fallback = d
	})
}

// MaxNotifications sets how often a second writers may notify because of subscriptions, over
// the whole database. Each such commit waits for the others of its kind, in the
// whole cluster. The default is [DefaultMaxNotifications].
func MaxNotifications(perSecond int) NotifyOption {
	return notifyOption(func(c *notifyConfig, f *faults) {
		if perSecond < 1 {
			f.add("rings", strconv.Itoa(perSecond), "at least 1 a second")
		}
		c.maxNotifications = perSecond
	})
}

// ListenOn sets another address for the connection that listens, which must lead to
// the same database, past any pooler in transaction mode. The default is the pool's.
func ListenOn(connString string) NotifyOption {
	return notifyOption(func(c *notifyConfig, f *faults) {
		if _, err := pgx.ParseConfig(connString); err != nil {
			f.add("address to listen on", "one with a fault", "a connection string")
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
		Notifications: stats.Rings,
		Reads:         stats.Reads,
	}
}

// newBell returns the store's doorbell. Without WithNotify it only wakes subscriptions
// for what the same store writes.
func newBell(pool *pgxpool.Pool, c *storeConfig) *doorbell.Bell {
	config := doorbell.Config{
		Fallback:  c.notify.fallback,
		Recheck:   c.notify.recheck,
		PerSecond: c.notify.maxNotifications,
		Logger:    c.logger,
	}
	if c.notify.enabled {
		config.Connect = func(ctx context.Context) (*pgx.Conn, error) { return connectToListen(ctx, pool, c.notify.listenOn) }
		config.Notify = func(ctx context.Context, payload string) (time.Time, error) { return notify(ctx, pool, payload) }
	}
	return doorbell.New(config)
}

// notify sends a notification through the pool, and returns when.
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

// connectToListen opens a connection with the pool's configuration, or on an address of
// its own.
func connectToListen(ctx context.Context, pool *pgxpool.Pool, address string) (*pgx.Conn, error) {
	config := pool.Config()
	cfg := config.ConnConfig
	if address != "" {
		var err error
		if cfg, err = pgx.ParseConfig(address); err != nil {
			return nil, connStringError(address, err)
		}
	} else if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, cfg); err != nil {
			return nil, err
		}
	}
	cfg.OnNotification = nil
	cfg.Tracer = nil
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	cfg.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.DeadlineContextWatcherHandler{Conn: conn.Conn()}
	}
	params := maps.Clone(cfg.RuntimeParams) // which a hook of the pool's may share
	if params == nil {
		params = make(map[string]string)
	}
	cfg.RuntimeParams = params
	name := params["application_name"]
	params["application_name"] = strings.TrimSpace(name + " message_store notify")
	// No object of the user's may take the place of one of the server's.
	params["search_path"] = "pg_catalog, pg_temp"
	// A process that is stopped or cut off would make every writer ring for it.
	params["idle_session_timeout"] = "60000"
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = listenTimeout
	}
	return pgx.ConnectConfig(ctx, cfg)
}
