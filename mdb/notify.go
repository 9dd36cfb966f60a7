package mdb

import (
	"log/slog"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// Defaults of [WithNotify].
const (
	DefaultNotifyFallback   = 5 * time.Second
	DefaultMaxNotifications = 100

	defaultRecheck = time.Minute
)

// A NotifyOption is something that [WithNotify] can be told.
type NotifyOption interface{ notify(*notifyConfig, *faults) }

type notifyConfig struct {
	enabled          bool
	fallback         time.Duration
	maxNotifications int
	listenOn         string
	recheck          time.Duration // how long the bell stays off after it has failed
	logger           *slog.Logger
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
	b := s.bell
	b.mu.Lock()
	defer b.mu.Unlock()
	stats := b.stats
	stats.Listening = b.hearing
	for _, r := range b.rooms {
		switch r.state {
		case stateArmed:
			stats.Waiting++
		case stateCooling:
			stats.Cooling++
		default:
			stats.Polling++
		}
	}
	return stats
}
