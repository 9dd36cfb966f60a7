// Package doorbell wakes sleeping subscriptions when something is written. It costs a
// writer a lock on a key that nobody else wants while nobody sleeps.
//
// # Words
//
// A subscription that has caught up sleeps. A writer whose category somebody sleeps on
// rings: it sends a NOTIFY with the name of the stream. A category is armed while its
// writers ring.
//
// # Invariant
//
// A subscription that sleeps on category C until it is rung for has seen, in this order:
// LISTEN committed; the shared lock on the key of C granted to this process's connection;
// and then a read, in a later statement, that found nothing new. A writer tries to take
// the key for itself alone, to the end of its transaction, and rings if it cannot.
//
//	writer first                          subscriber first
//
//	W  takes the key, inserts             S  LISTEN; shares the key
//	S     cannot share it yet             W     cannot take the key: rings at its commit
//	W  commits: visible, then unlocked    S  reads: W is not visible; sleeps
//	S     shares it                       W     commits, and the ring arrives
//	S     reads: W is visible
//
// PostgreSQL makes a commit visible before it releases the transaction's locks, so
// no read that begins after the key was shared can miss a writer that had it. The
// lock has to last to the writer's end, because between a mere look at the key and
// the commit S could share it, read and sleep. It must be exclusive, or no writer would
// ever fail to take it. The read has to come after the answer to the lock, because a
// snapshot from before may lack W. And a ring that arrives while S is reading is kept
// until S would sleep, because the read may have begun before that commit.
//
// # States
//
// A category's state in this process:
//
//	off      Nobody rings: not wanted, no connection, no trigger, or it has failed. The
//	         subscriptions poll as their strategies say.
//	cooling  The key is not shared. Subscriptions poll, at least every coolInterval.
//	armed    The key is shared. Subscriptions wait for a ring, or the fallback; one
//	         that has not read since the category was armed reads first.
//
// Off becomes cooling when the connection has been proved to receive notifications.
// Cooling becomes armed after an empty read, if the limiter allows and no writer has the
// key. Armed becomes cooling when there are more rings than the limiter allows, for the
// categories that ring the most. All become off when the connection is lost.
//
// # Policy
//
// Rings are a cost to writers, because PostgreSQL lets only one transaction at a time
// commit that notifies, so they are limited to PerSecond for the database. Every store
// receives every ring and counts. Polls are a cost to the server: cooling categories of a
// store are polled maxPolls times a second together, at most. So latency goes from that of
// a ring to coolInterval under load, and not to a strategy's longest delay.
package doorbell

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/names"
)

const (
	minCoolInterval = 10 * time.Millisecond
	maxPolls        = 500         // a second, of a store's cooling subscriptions
	latestRing      = time.Second // after its commit, even on a busy machine
)

// A Config is what a Bell is made of.
type Config struct {
	// Connect opens the connection that listens. No other code uses it: a session is
	// never denied a lock because of its own, so its writes would not ring. If Connect is
	// nil the bell does not listen, and only Wrote wakes.
	Connect func(ctx context.Context) (*pgx.Conn, error)
	// Notify sends a notification through the pool, where writes come from, and returns
	// when it was sent. Its error wraps ErrBusy where the pool had no connection in time.
	Notify func(ctx context.Context, payload string) (sent time.Time, err error)
	// Fallback is after how long a subscription reads although nobody has rung.
	Fallback time.Duration
	// Recheck is how long rings are off after they have failed.
	Recheck time.Duration
	// PerSecond is how many rings a second are allowed.
	PerSecond int
	Logger    *slog.Logger
}

// ErrBusy says that the pool had no connection for a notification, which proves nothing.
var ErrBusy = errors.New("the pool had no connection to spare for a NOTIFY")

// A Bell is a store's doorbell. It is safe for concurrent use, and has a goroutine while
// it has sleepers and a Connect.
type Bell struct {
	config Config

	// life guards users, cancel and done, and is held while the goroutine is started or
	// stopped. The goroutine itself never takes it. It is taken before mu.
	life   sync.Mutex
	users  int
	cancel context.CancelFunc
	done   chan struct{}

	sleepers atomic.Int64 // in all categories

	// mu guards all that follows but listener, and the fields of categories and sleepers
	// that say so. It is never held while a statement runs or something is logged.
	mu         sync.Mutex
	categories map[string]*category
	listening  bool               // the connection has been proved
	woken      bool               // there is something for the goroutine to do
	interrupt  context.CancelFunc // ends the goroutine's wait; nil: it does not wait
	limiter    limiter
	rings      int64
	reads      int64

	listener listener // of the goroutine alone
}

// New returns a bell without sleepers.
func New(config Config) *Bell {
	return &Bell{config: config, limiter: limiter{perSecond: float64(config.PerSecond)}}
}

// An Interest says what a subscription is for.
type Interest struct {
	Category string
	// Stream is the one stream subscribed to, or empty for all of the category.
	Stream string
	// Member and Size are a consumer group's, if Size is not 0.
	Member, Size int64
}

// Subscribe adds a subscription, to be closed by [Sleeper.Close].
func (b *Bell) Subscribe(in Interest) *Sleeper {
	s := &Sleeper{bell: b, interest: in, rung: make(chan struct{}, 1)}
	b.mu.Lock()
	c := b.categories[in.Category]
	if c == nil {
		c = &category{name: in.Category, sleepers: make(map[*Sleeper]struct{})}
		if b.listening {
			c.state = stateCooling
		}
		if b.categories == nil {
			b.categories = make(map[string]*category)
		}
		b.categories[in.Category] = c
	}
	s.category = c
	c.sleepers[s] = struct{}{}
	b.sleepers.Add(1)
	b.mu.Unlock()
	if b.config.Connect != nil {
		b.start()
	}
	return s
}

// Wrote wakes the subscriptions of this process to a stream that it has written to, where
// nobody rings for them.
func (b *Bell) Wrote(stream string) {
	if b.sleepers.Load() == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.categories[names.Category(stream)]; c != nil && c.state == stateOff {
		c.ring(stream)
	}
}

// Stats is a snapshot of a bell.
type Stats struct {
	// Listening reports whether the connection is there and has been proved.
	Listening bool
	// Armed, Cooling and Off count the categories in each state.
	Armed, Cooling, Off int
	// Rings counts the notifications received.
	Rings int64
	// Reads counts the reads of all sleepers.
	Reads int64
}

// Stats returns a snapshot.
func (b *Bell) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	stats := Stats{Listening: b.listening, Rings: b.rings, Reads: b.reads}
	for _, c := range b.categories {
		switch c.state {
		case stateArmed:
			stats.Armed++
		case stateCooling:
			stats.Cooling++
		default:
			stats.Off++
		}
	}
	return stats
}

// Settled reports whether all categories are armed and every sleeper has begun a read
// since, and nothing has woken it after that: from here on it reads only when it is rung
// for. Tests wait for it.
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
	disabled := false
	b.mu.Lock()
	defer func() {
		b.mu.Unlock()
		if disabled { // A logger may ask the store.
			b.config.Logger.Warn("messages arrive without a notification: polling for a while",
				"category", s.interest.Category, "remedy", "see whether the trigger of schema.InstallNotify is there and enabled")
		}
	}()
	c, now := s.category, time.Now()
	if c.state == stateOff && b.listening && now.After(c.offUntil) {
		c.state = stateCooling
	}
	if c.state == stateArmed && s.fellBack && found > 0 && len(s.rung) == 0 {
		// It may have overtaken the ring, and so may others at the same time.
		if c.unrung.IsZero() {
			c.unrung = now
		} else if now.Sub(c.unrung) > latestRing {
			b.disable(c, now)
			disabled = true
		}
	}
	switch c.state {
	case stateArmed:
		if s.epoch != c.epoch {
			return 0, false
		}
		return jittered(b.config.Fallback), true
	case stateCooling:
		// Many may find the same messages.
		c.rate.add(now, float64(found)/float64(len(c.sleepers)))
		if found == 0 {
			c.pollDelay = d
			if !c.wanted && b.limiter.reserve(now, c.rate.at(now)) {
				c.wanted, c.refused, c.nextTry = true, 0, now
				b.wake()
			}
		}
		return min(d, b.coolInterval()), false
	default:
		return d, false
	}
}

// coolInterval grows with the number of those who poll by it. b.mu is held.
func (b *Bell) coolInterval() time.Duration {
	n := 0
	for _, c := range b.categories {
		if c.state == stateCooling {
			n += len(c.sleepers)
		}
	}
	return max(minCoolInterval, time.Duration(n)*time.Second/maxPolls)
}

// onNotification wakes those whom a ring is for, and counts it. The payload is the name
// of the stream written to; without one it is for all.
func (b *Bell) onNotification(payload string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.rings++
	if payload == "" {
		for _, c := range b.categories {
			c.ringAll()
		}
	} else if c := b.categories[names.Category(payload)]; c != nil {
		c.unrung = time.Time{}
		c.rate.add(now, 1)
		c.ring(payload)
	}
	if b.limiter.take(now) {
		b.cool(now)
	}
}

// cool makes the categories that ring the most poll instead, until the others ring at
// half of what is allowed. b.mu is held.
func (b *Bell) cool(now time.Time) {
	var armed []*category
	total := 0.0
	for _, c := range b.categories {
		if c.state == stateArmed {
			armed = append(armed, c)
			total += c.rate.at(now)
		}
	}
	slices.SortFunc(armed, func(x, y *category) int { return cmp.Compare(y.rate.at(now), x.rate.at(now)) })
	for i, c := range armed {
		if i > 0 && total <= b.limiter.perSecond/2 {
			break
		}
		total -= c.rate.at(now)
		c.state = stateCooling
		c.ringAll() // they wait for rings that no longer come
	}
	if len(armed) > 0 {
		b.wake()
	}
}

// disable turns rings off for a category whose writers did not ring when they had to.
// b.mu is held.
func (b *Bell) disable(c *category, now time.Time) {
	c.state, c.wanted = stateOff, false
	c.offUntil = now.Add(b.config.Recheck)
	c.ringAll()
	b.wake()
}

// setListening is called when the connection has been proved, and when it is lost.
func (b *Bell) setListening(listening bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listening = listening
	for _, c := range b.categories {
		c.state, c.wanted = stateOff, false
		if listening && time.Now().After(c.offUntil) {
			c.state = stateCooling
		}
		c.ringAll()
	}
}

// wake makes the goroutine look at the categories. b.mu is held.
func (b *Bell) wake() {
	b.woken = true
	if b.interrupt != nil {
		b.interrupt()
	}
}
