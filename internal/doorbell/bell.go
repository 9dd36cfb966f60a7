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
	maxPolls        = 500         // a second, for all cooling subscriptions of a store
	latestRing      = time.Second // how long after its commit a ring may arrive, on a busy machine
	maxDisabled     = 4           // the most times that the time doubles for which a category is off
)

// A Config configures a Bell.
type Config struct {
	// Connect opens the connection that listens. No other code may use this connection: the
	// server grants a session locks that conflict only with its own, so writes on it would
	// not ring. If Connect is nil, the bell does not listen, and only Wrote wakes.
	Connect func(ctx context.Context) (*pgx.Conn, error)
	// Notify sends a notification through the pool, where writes come from, and returns
	// when it was sent. Its error wraps ErrBusy if the pool had no connection in time.
	Notify func(ctx context.Context, payload string) (sent time.Time, err error)
	// Fallback is the time after which a subscription reads although nobody has rung.
	Fallback time.Duration
	// Recheck is the time for which rings stay off after they have failed.
	Recheck time.Duration
	// PerSecond is the number of rings a second that are allowed.
	PerSecond int
	// Logger receives failures that the bell recovers from.
	Logger *slog.Logger
	// Listening is called when the connection has been proved, and when it is lost, in turns. It may be nil. It
	// is called by the goroutine, without a lock.
	Listening func(listening bool)
}

// ErrBusy means that the pool had no connection for a notification, which proves nothing.
var ErrBusy = errors.New("the pool had no free connection for a NOTIFY")

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
	all        map[*Sleeper]struct{} // of subscriptions to all categories
	listening  bool                  // the connection has been proved
	woken      bool                  // the goroutine must look at the categories
	interrupt  context.CancelFunc    // ends the goroutine's wait; nil: it does not wait
	utf8       bool                  // the server hashes names as this package does
	unrung     []string              // categories that were disabled and of which nothing was logged
	limiter    limiter
	own        rate // of the rings that were for categories with sleepers
	rings      int64
	reads      int64
	watchers   map[*int]func(consumer string)

	connect  func(ctx context.Context) (server, error)
	listener listener // only the goroutine uses it
}

// New returns a bell without sleepers.
func New(config Config) *Bell {
	b := &Bell{config: config, limiter: limiter{perSecond: float64(config.PerSecond)}}
	if config.Connect != nil {
		b.connect = func(ctx context.Context) (server, error) {
			conn, err := config.Connect(ctx)
			if err != nil {
				return nil, err
			}
			return pgServer{conn, b.tell}, nil
		}
	}
	return b
}

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
	if b.connect != nil {
		b.start()
	}
	return s
}

// join adds the sleeper to a category. b.mu is held.
func (b *Bell) join(s *Sleeper, name string) *category {
	c := b.categories[name]
	if c == nil {
		c = &category{name: name, sleepers: make(map[*Sleeper]struct{})}
		if b.listening {
			c.state = stateCooling
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
		c.ring(stream, b.utf8)
	}
	b.ringAllCategories(stream)
}

// Stats is a snapshot of a bell.
type Stats struct {
	// Listening reports whether the connection is open and has been proved.
	Listening bool
	// Armed, Cooling and Off count the categories in each state.
	Armed, Cooling, Off int
	// Crowded counts those categories of Off for whose keys there is no room.
	Crowded int
	// Notifications counts the rings received.
	Notifications int64
	// Reads counts the reads of all sleepers.
	Reads int64
}

// Stats returns a snapshot.
func (b *Bell) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	stats := Stats{Listening: b.listening, Notifications: b.rings, Reads: b.reads}
	for _, c := range b.categories {
		switch c.state {
		case stateArmed:
			stats.Armed++
		case stateCooling:
			stats.Cooling++
		default:
			stats.Off++
			if c.crowded {
				stats.Crowded++
			}
		}
	}
	return stats
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
	if c.state == stateOff && b.listening && now.After(c.offUntil) {
		c.state, c.crowded = stateCooling, false
	}
	if found > 0 {
		c.used = now
	}
	if c.state == stateArmed && s.fellBack && found > 0 && len(s.rung) == 0 {
		// The read may have been faster than the ring, and so may other reads.
		if c.unrung.IsZero() {
			c.unrung = now
		} else if now.Sub(c.unrung) > latestRing {
			b.disable(c, now)
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
			if !c.wanted && b.limiter.reserve(now, c.rate.at(now), b.own.at(now)) {
				c.wanted, c.refused, c.nextTry = true, 0, now
				b.wake()
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

// onNotification counts a ring and wakes the sleepers that it concerns. The payload is the
// name of the stream written to; an empty one concerns all.
func (b *Bell) onNotification(payload string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.rings++
	b.ringAllCategories(payload)
	if payload == "" {
		// It may have been for any of them.
		for _, c := range b.categories {
			c.rang(now, 1/float64(len(b.categories)))
			c.ringAll()
		}
		if len(b.categories) > 0 {
			b.own.add(now, 1)
		}
	} else if c := b.categories[names.Category(payload)]; c != nil {
		c.rang(now, 1)
		c.used, c.disabled = now, 0
		b.own.add(now, 1)
		c.ring(payload, b.utf8)
	}
	if b.limiter.take(now) {
		b.cool(now)
	}
}

// cool makes the categories that ring the most cooling, until the others ring at most half
// as often as is allowed. It leaves silent ones armed, because that saves no ring. b.mu is
// held.
func (b *Bell) cool(now time.Time) {
	armed := b.withState(stateArmed)
	total := 0.0
	for _, c := range armed {
		total += c.rate.at(now)
	}
	slices.SortFunc(armed, func(x, y *category) int { return cmp.Compare(y.rate.at(now), x.rate.at(now)) })
	for i, c := range armed {
		if total <= b.limiter.perSecond/2 && (i > 0 || c.rate.at(now) < 1) {
			break
		}
		total -= c.rate.at(now)
		c.state = stateCooling
		c.ringAll() // they would wait for rings that no longer come
		b.wake()
	}
}

// withState returns the categories in a state. b.mu is held.
func (b *Bell) withState(state state) (categories []*category) {
	for _, c := range b.categories {
		if c.state == state {
			categories = append(categories, c)
		}
	}
	return categories
}

// disable turns off a category whose writers did not ring although they should have. The
// goroutine looks for the trigger then. If that is there, some writers do not fire it, and
// the time doubles each time, because all that is gained by arming the category again is
// that its messages are late. b.mu is held.
func (b *Bell) disable(c *category, now time.Time) {
	c.turnOff(now.Add(b.config.Recheck<<min(c.disabled, maxDisabled)), false)
	c.disabled++
	b.unrung = append(b.unrung, c.name)
	b.wake()
}

// forgive is called when the trigger is missing, which explains why the categories' messages
// arrived without a ring.
func (b *Bell) forgive(unrung []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range unrung {
		if c := b.categories[name]; c != nil {
			c.disabled, c.offUntil = 0, time.Time{}
		}
	}
}

// setListening is called when the connection has been proved, and when it is lost. It sets
// the state of all categories.
func (b *Bell) setListening(listening bool) {
	if b.setStates(listening) && b.config.Listening != nil {
		b.config.Listening(listening)
	}
}

// setStates sets the state of all categories, and reports whether there is a change.
func (b *Bell) setStates(listening bool) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed = b.listening != listening
	b.listening = listening
	for _, c := range b.categories {
		c.state, c.wanted = stateOff, false
		if c.crowded { // there may be more room now
			c.crowded, c.offUntil = false, time.Time{}
		}
		if listening && time.Now().After(c.offUntil) {
			c.state = stateCooling
		}
		c.ringAll()
	}
	return changed
}

// wake makes the goroutine look at the categories. b.mu is held.
func (b *Bell) wake() {
	b.woken = true
	if b.interrupt != nil {
		b.interrupt()
	}
}
