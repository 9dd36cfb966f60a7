// Package doorbell wakes sleeping subscriptions when something is written. While nobody
// sleeps, it costs a writer only one advisory lock, for which nobody competes.
//
// # Words
//
// A subscription that has caught up sleeps. A writer rings if somebody sleeps on its
// category: it sends a NOTIFY with the name of the stream. A category is armed while its
// writers ring.
//
// # Invariant
//
// A subscription that sleeps on category C until it is rung for has seen, in this order:
// LISTEN committed; the shared lock on the key of C granted to this process's connection;
// and then a read, in a later statement, that found nothing new. A writer tries to lock
// the key exclusively, until the end of its transaction, and rings if it cannot.
//
//	writer first                          subscriber first
//
//	W  locks the key, inserts             S  LISTEN; shares the key
//	S     cannot share it yet             W     cannot lock the key: rings at its commit
//	W  commits: visible, then unlocked    S  reads: W is not visible; sleeps
//	S     shares it                       W     commits, and the ring arrives
//	S     reads: W is visible
//
// PostgreSQL makes a commit visible before it releases the transaction's locks, so
// no read that begins after the key was shared can miss a writer that had it. The
// writer must hold the lock until its end: if it only looked at the key, S could share the
// key, read and sleep between the look and the commit. The lock must be exclusive, because
// a shared one would always be granted. The read must begin after the lock was granted,
// because an older snapshot may lack W. And a ring that arrives while S is reading is kept
// until S would sleep, because the read may have begun before the commit.
//
// # States
//
// A category's state in this process:
//
//	off      Nobody rings, because rings are not configured, or there is no connection or
//	         no trigger, or rings have failed, or there is no room for the key.
//	         Subscriptions poll as their strategies say.
//	cooling  The key is not shared. Subscriptions poll, at least every coolInterval.
//	armed    The key is shared. Subscriptions wait for a ring or the fallback. One that has
//	         not read since the category was armed reads first.
//
// Off becomes cooling when a probe has proved that the connection receives notifications.
// Cooling becomes armed after an empty read, if the limiter allows it and no writer has the
// key. If there are more rings than the limiter allows, the armed categories that ring the
// most become cooling. All become off when the connection or the trigger is lost.
//
// Off becomes cooling again, and asks for its key again, after Config.Recheck. If there is no
// room for all keys, first come, first served, except that a category keeps its key without
// a ring only until one asks for it that has had messages since.
//
// # Policy
//
// Rings cost writers time, because PostgreSQL commits transactions that notify one at a
// time. So they are limited to PerSecond for the database: every store receives every ring,
// and counts them. Polls cost the server time, so a store polls its cooling categories at
// most maxPolls times a second in all. Under load the latency thus becomes coolInterval,
// and not a strategy's longest delay.
//
// A store cools only what it can save: if its own categories ring little, the rings are
// those of other stores.
//
// # Shards
//
// PL/Proxy sends each category of a proxied store to one of several shards. Locks and
// notifications are those of a shard, so the bell has a connection to each one, by the shard's
// number, and shares the key of C on the shard of C only. All of the above then holds for each
// shard by itself, if three more things are true:
//
// The connection is to the shard with its number. A probe proves it: the proxy sends it to the
// shard with that number, as it sends a write, and it must arrive at this connection. A probe
// that the shard is sent by another way would prove nothing about where writes go.
//
// C is on the shard whose key is shared. The proxy is asked, after LISTEN has committed there.
// Who moves C to another shard first makes writers of C fail on the old one, then changes the
// proxy, and then notifies the old shard (trigger.Placement):
//
//	move first                            subscriber first
//
//	M  changes the proxy                  S  LISTEN; the proxy says: the old shard
//	S  LISTEN; the proxy says: the new    M  changes the proxy
//	S  shares the key there; reads        W  writes to the new shard, and does not ring
//	M  notifies the old shard             M  notifies the old shard, and S asks again
//	W  cannot lock the key: rings         S  shares the key on the new shard; reads: W is visible
//
// If the notification of a move is lost, the fallback finds the messages, and asks the proxy.
//
// The answer is not older than the connection. A category is off from when the connection to
// its shard is proved or lost until the proxy has been asked after that.
//
// To share the key on all shards would need no answer, but take an entry of every server's lock
// table for each category, and a lost connection would turn off the categories of all shards.
package doorbell

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/names"
)

const (
	minCoolInterval = 10 * time.Millisecond
	maxPolls        = 500         // a second, for all cooling subscriptions of a store
	latestRing      = time.Second // how long after its commit a ring may arrive, on a busy machine
	maxDisabled     = 4           // the most times that the time doubles for which a category is off
)

// A Config configures a Bell.
type Config struct {
	// Connect opens the connections that listen: one, or one for each shard. No other code may
	// use them: the server grants a session locks that conflict only with its own, so writes
	// on it would not ring. Without one, the bell does not listen, and only Wrote wakes.
	Connect []func(ctx context.Context) (*pgx.Conn, error)
	// Notify sends a notification through the pool, where writes come from, to the shard with
	// the number, and returns when it was sent. Its error wraps ErrBusy if the pool had no
	// connection in time.
	Notify func(ctx context.Context, shard int, payload string) (sent time.Time, err error)
	// Sharded reports whether the categories are on shards. It is called after a notification
	// was sent. If it is nil, they are not.
	Sharded func() bool
	// Place asks through the pool for the numbers of the categories' shards. Its error wraps
	// ErrBusy like that of Notify.
	Place func(ctx context.Context, categories []string) ([]int, error)
	// Fallback is the time after which a subscription reads although nobody has rung.
	Fallback time.Duration
	// Recheck is the time for which rings stay off after they have failed.
	Recheck time.Duration
	// PerSecond is the number of rings a second that are allowed.
	PerSecond int
	// Logger receives failures that the bell recovers from.
	Logger *slog.Logger
	// Listening is called when all connections have been proved, and when one is lost, in turns. It may be nil. It
	// is called by the goroutines, without the lock of the bell.
	Listening func(listening bool)
}

// ErrBusy means that the pool had no connection for a notification or a question, which proves
// nothing.
var ErrBusy = errors.New("the pool had no free connection")

// A Bell is a store's doorbell. It is safe for concurrent use, and has a goroutine for each
// shard while it has sleepers and a Connect.
type Bell struct {
	config Config

	// life guards users, cancel and done, and is held while the goroutines are started or
	// stopped. They never take it. It is taken before mu.
	life   sync.Mutex
	users  int
	cancel context.CancelFunc
	done   chan struct{}

	sleepers atomic.Int64 // in all categories

	// turns is held while it is found out whether all connections are proved, and
	// Config.Listening is called. It is taken before mu.
	turns sync.Mutex

	shards []*shard      // at least one
	ask    chan struct{} // contains a value if the shards of categories must be asked for

	// mu guards all that follows, and the fields of shards, categories and sleepers that say
	// so. It is never held while a statement runs or something is logged.
	mu         sync.Mutex
	categories map[string]*category
	all        map[*Sleeper]struct{} // of subscriptions to all categories
	listening  bool                  // all connections have been proved
	sharded    bool                  // the categories are on shards
	reads      int64
	watchers   map[*int]func(consumer string)
}

// New returns a bell without sleepers.
func New(config Config) *Bell {
	b := &Bell{config: config, ask: make(chan struct{}, 1)}
	for i := range max(len(config.Connect), 1) {
		s := &shard{bell: b, number: i, limiter: limiter{perSecond: float64(config.PerSecond)}}
		if config.Connect != nil {
			s.connect = func(ctx context.Context) (server, error) {
				conn, err := config.Connect[i](ctx)
				if err != nil {
					return nil, err
				}
				return pgServer{conn, b.tell}, nil
			}
		}
		b.shards = append(b.shards, s)
	}
	return b
}

// listens reports whether the bell has connections.
func (b *Bell) listens() bool { return b.shards[0].connect != nil }

// An Interest describes the messages that a subscription reads.
type Interest struct {
	// Category is the category, or that of the stream.
	Category string
	// Stream is the stream of a subscription to one, and empty for a category.
	Stream string
	// Member and Size are those of a consumer group, if Size is not 0.
	Member, Size int64
	// Wants reports whether the subscription reads the stream, or is nil. It is called with the
	// bell's lock held, and must not wait for anything.
	Wants func(stream string) bool
	// All says that the subscription is to all categories, or to several. Nobody rings for it:
	// it is woken by the rings that others cause, and by Wrote.
	All bool
}

// Subscribe adds a subscription. Call [Sleeper.Close] when it ends.
func (b *Bell) Subscribe(in Interest) *Sleeper {
	s := &Sleeper{bell: b, interest: in, rung: make(chan struct{}, 1)}
	b.mu.Lock()
	if in.All {
		if b.all == nil {
			b.all = make(map[*Sleeper]struct{})
		}
		b.all[s] = struct{}{}
	} else {
		s.category = b.join(s, in.Category)
	}
	b.sleepers.Add(1)
	b.mu.Unlock()
	if b.listens() {
		b.start()
	}
	return s
}

// join adds the sleeper to a category. b.mu is held.
func (b *Bell) join(s *Sleeper, name string) *category {
	c := b.categories[name]
	if c == nil {
		c = &category{name: name, sleepers: make(map[*Sleeper]struct{})}
		if b.sharded {
			b.askShards()
		} else {
			c.place(b.shards[0])
		}
		if b.categories == nil {
			b.categories = make(map[string]*category)
		}
		b.categories[name] = c
	}
	c.sleepers[s] = struct{}{}
	return c
}

// ringAllCategories wakes the subscriptions to all categories that read the stream. b.mu is
// held.
func (b *Bell) ringAllCategories(stream string) {
	for s := range b.all {
		if stream == "" || s.interest.Wants == nil || s.interest.Wants(stream) {
			s.ring()
		}
	}
}

// Wrote wakes the subscriptions of this process to a stream that it has written to, if
// their category is off.
func (b *Bell) Wrote(stream string) {
	if b.sleepers.Load() == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.categories[names.Category(stream)]; c != nil && c.state == stateOff {
		c.ring(stream, c.shard != nil && c.shard.utf8)
	}
	b.ringAllCategories(stream)
}

// Settled reports whether all categories are armed, every sleeper has begun a read since,
// and nothing has woken one after that. From then on, sleepers read only after a ring.
// Tests wait for it.
func (b *Bell) Settled() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.categories {
		for s := range c.sleepers {
			if c.state != stateArmed || s.epoch != c.epoch || len(s.rung) > 0 {
				return false
			}
		}
	}
	return len(b.categories) > 0
}

// delay returns how long s may sleep, and whether it then waits for a ring.
func (b *Bell) delay(s *Sleeper, d time.Duration, found int) (delay time.Duration, waits bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, now := s.category, time.Now()
	if c == nil { // of a subscription to all categories
		return d, false
	}
	if c.state == stateOff && c.placed && c.shard.listening && now.After(c.offUntil) {
		c.state, c.crowded = stateCooling, false
	}
	if found > 0 {
		c.used = now
	}
	if c.state == stateArmed && s.fellBack && found > 0 && len(s.rung) == 0 {
		// The read may have been faster than the ring, and so may other reads.
		if c.unrung.IsZero() {
			c.unrung = now
			b.askShards() // it may have moved
		} else if now.Sub(c.unrung) > latestRing {
			c.shard.disable(c, now)
		}
	}
	switch c.state {
	case stateArmed:
		if s.epoch != c.epoch {
			return 0, false
		}
		return jittered(b.config.Fallback), true
	case stateCooling:
		// Many sleepers may find the same messages.
		c.rate.add(now, float64(found)/float64(len(c.sleepers)))
		if found == 0 {
			c.pollDelay = d
			if s := c.shard; !c.wanted && s.limiter.reserve(now, c.rate.at(now), s.own.at(now)) {
				c.wanted, c.refused, c.nextTry = true, 0, now
				s.wake()
			}
		}
		return min(d, b.coolInterval()), false
	default:
		return d, false
	}
}

// coolInterval returns the longest delay of a cooling subscription. It grows with their
// number. b.mu is held.
func (b *Bell) coolInterval() time.Duration {
	n := 0
	for _, c := range b.categories {
		if c.state == stateCooling {
			n += len(c.sleepers)
		}
	}
	return max(minCoolInterval, time.Duration(n)*time.Second/maxPolls)
}
