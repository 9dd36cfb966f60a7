package mdb

import (
	"cmp"
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The doorbell wakes sleeping subscriptions when something is written, and costs a
// writer a lock on a key that nobody else wants while nobody sleeps.
//
// Invariant. A subscription that sleeps on category C until it is rung for has seen,
// in this order: LISTEN committed; the shared lock on the key of C granted to this
// process's connection; and then a read, in a later statement, that found nothing
// new. A writer tries to take the key for itself alone, to the end of its
// transaction, and rings if it cannot.
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
// the commit S could share it, read and sleep. It must be exclusive, or nobody would
// be refused. The read has to come after the answer to the lock, because a snapshot
// from before may lack W. And a ring that arrives while S is reading is kept until S
// would sleep, because the read may have begun before that commit.
//
// A category's state in this process:
//
//	off      The bell does not ring: not wanted, no connection, no trigger, or it has
//	         failed. Its subscriptions poll as their strategies say.
//	cooling  The key is not shared. Subscriptions poll, at least every coolInterval.
//	armed    The key is shared. Subscriptions wait for a ring, or the fallback; one
//	         that has not read since the category was armed reads first.
//
// Off becomes cooling when the connection has been proved to hear. Cooling becomes
// armed after an empty read, if the budget has room and no writer has the key. Armed
// becomes cooling when there are more rings than the budget allows, for the
// categories that ring the most. All become off when the connection is lost.
//
// Policy. Rings are a cost to writers, because PostgreSQL lets only one transaction
// at a time commit that notifies, so there is a budget of them, MaxNotifications a second for
// the database. Every store hears every ring and counts. Polls are a cost to the
// server: cooling categories of a store are polled maxPolls times a second together,
// at most. So latency goes from that of a ring to coolInterval under load, and not
// to a strategy's longest delay.

// Channel and key have to be those of the trigger, in package schema.
const (
	notifyChannel = "message_store"
	notifyKey     = 1296319044
)

const (
	minCoolInterval = 10 * time.Millisecond
	maxPolls        = 500 // a second, of a store's cooling subscriptions
	minArmRetry     = time.Millisecond
	latestRing      = time.Second // behind its commit, even on a busy machine
)

// A bellState is the state of a category.
type bellState int

const (
	stateOff bellState = iota
	stateCooling
	stateArmed
)

// A bell is a Store's doorbell. Without WithNotify it only wakes subscriptions for
// what the same Store writes.
type bell struct {
	config notifyConfig

	// life is held while the goroutine is started or stopped.
	life   sync.Mutex
	users  int
	cancel context.CancelFunc
	done   chan struct{}

	sleepers atomic.Int64 // in all rooms

	mu        sync.Mutex
	rooms     map[string]*room // by category
	hearing   bool             // the connection has been proved
	poked     bool             // there is something for the goroutine to do
	interrupt context.CancelFunc
	budget    budget
	stats     NotifyStats

	listener listener
}

// A room is a category with its subscriptions.
type room struct {
	category string
	state    bellState
	epoch    int64 // counts how often it was armed
	sleepers map[*bellSleeper]struct{}
	heat     heat // of what was written, as far as it was noticed

	wanted   bool // to be armed
	refused  int  // times in a row
	nextTry  time.Time
	patience time.Duration // a strategy's delay, beyond which there is no point in trying often

	unrung   time.Time // when a fallback read first found what nobody has rung for
	offUntil time.Time
}

// A bellSleeper is a subscription's place in its room.
type bellSleeper struct {
	bell *bell
	room *room
	// stream is what a ring has to be for, or empty for a whole category.
	stream       StreamName
	member, size int64 // of a consumer group, if size is not 0

	rung chan struct{}
	// epoch is the room's when the last read began, or 0 if it was not armed.
	epoch int64
	// fellBack is whether the last sleep in an armed room was ended by nothing.
	fellBack bool
}

// subscribe adds a subscription to a stream, or to a category if the name has no id.
func (b *bell) subscribe(name StreamName, c readConfig) *bellSleeper {
	s := &bellSleeper{bell: b, rung: make(chan struct{}, 1)}
	if name.ID() != "" {
		s.stream = name
	}
	if c.size != nil {
		s.member, s.size = *c.member, *c.size
	}
	category := string(name.Category())
	b.mu.Lock()
	r := b.rooms[category]
	if r == nil {
		r = &room{category: category, sleepers: make(map[*bellSleeper]struct{})}
		if b.hearing {
			r.state = stateCooling
		}
		if b.rooms == nil {
			b.rooms = make(map[string]*room)
		}
		b.rooms[category] = r
	}
	s.room = r
	r.sleepers[s] = struct{}{}
	b.sleepers.Add(1)
	b.mu.Unlock()
	if b.config.enabled {
		b.start()
	}
	return s
}

func (s *bellSleeper) close() {
	b := s.bell
	b.mu.Lock()
	delete(s.room.sleepers, s)
	b.sleepers.Add(-1)
	if len(s.room.sleepers) == 0 {
		delete(b.rooms, s.room.category)
		b.poke() // to unlock its key
	}
	b.mu.Unlock()
	if b.config.enabled {
		b.stop()
	}
}

func (s *bellSleeper) wake() {
	b := s.bell
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stats.Reads++
	select {
	case <-s.rung:
		s.fellBack = false
	default:
	}
	s.epoch = 0
	if s.room.state == stateArmed {
		s.epoch = s.room.epoch
	}
}

func (s *bellSleeper) sleep(ctx context.Context, d time.Duration, found int, moved <-chan struct{}, progress func() error) error {
	d, fallback := s.bell.delay(s, d, found)
	timer := time.NewTimer(d)
	defer timer.Stop()
	s.fellBack = false
	for {
		select {
		case <-moved: // which is no reason to read
			if err := progress(); err != nil {
				return err
			}
			continue
		case <-s.rung:
		case <-timer.C:
			s.fellBack = fallback
		case <-ctx.Done():
		}
		return nil
	}
}

// delay returns how long s may sleep, and whether that is on the word of the bell.
func (b *bell) delay(s *bellSleeper, d time.Duration, found int) (delay time.Duration, fallback bool) {
	muted := false
	b.mu.Lock()
	defer func() {
		b.mu.Unlock()
		if muted { // A logger may ask the store.
			b.config.logger.Warn("messages arrive without a ring: polling for a while",
				"category", s.room.category, "remedy", "see whether the trigger of schema.InstallNotify is there and enabled")
		}
	}()
	r, now := s.room, time.Now()
	if r.state == stateOff && b.hearing && now.After(r.offUntil) {
		r.state = stateCooling
	}
	if r.state == stateArmed && s.fellBack && found > 0 && len(s.rung) == 0 {
		// It may have overtaken the ring, and so may others at the same time.
		if r.unrung.IsZero() {
			r.unrung = now
		} else if now.Sub(r.unrung) > latestRing {
			b.mute(r, now)
			muted = true
		}
	}
	switch r.state {
	case stateArmed:
		if s.epoch != r.epoch {
			return 0, false
		}
		return b.config.fallback - time.Duration(rand.Int64N(int64(b.config.fallback)/4+1)), true
	case stateCooling:
		// Many may find the same messages.
		r.heat.add(now, float64(found)/float64(len(r.sleepers)))
		if found == 0 {
			r.patience = d
			if !r.wanted && b.budget.grant(now, r.heat.at(now)) {
				r.wanted, r.refused, r.nextTry = true, 0, now
				b.poke()
			}
		}
		return min(d, b.coolInterval()), false
	default:
		return d, false
	}
}

// coolInterval grows with the number of those who poll by it.
func (b *bell) coolInterval() time.Duration {
	n := 0
	for _, r := range b.rooms {
		if r.state == stateCooling {
			n += len(r.sleepers)
		}
	}
	return max(minCoolInterval, time.Duration(n)*time.Second/maxPolls)
}

// heard wakes those whom a ring is for, and counts it. The payload is the name of
// the stream written to; without one it is for all.
func (b *bell) heard(payload string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.stats.Notifications++
	stream := StreamName(payload)
	if payload == "" {
		for _, r := range b.rooms {
			r.ring(stream)
		}
	} else if r := b.rooms[string(stream.Category())]; r != nil {
		r.unrung = time.Time{}
		r.heat.add(now, 1)
		r.ring(stream)
	}
	if b.budget.spend(now) {
		b.cool(now)
	}
}

// wrote wakes those of this process where no bell does.
func (b *bell) wrote(stream StreamName) {
	if b.sleepers.Load() == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.rooms[string(stream.Category())]; r != nil && r.state == stateOff {
		r.ring(stream)
	}
}

func (r *room) ring(stream StreamName) {
	hash := int64(-1)
	for s := range r.sleepers {
		switch {
		case stream == "":
		case s.stream != "" && s.stream != stream:
			continue
		case s.size != 0:
			if hash < 0 {
				hash = Hash64(stream.CardinalID())
				hash = max(hash, -hash)
			}
			if stream.ID() == "" || hash%s.size != s.member {
				continue
			}
		}
		s.signal()
	}
}

func (s *bellSleeper) signal() { signal(s.rung) }

func (r *room) signalAll() {
	for s := range r.sleepers {
		s.signal()
	}
}

// cool takes the bell from the categories that ring the most, until the others
// ring at half of the budget.
func (b *bell) cool(now time.Time) {
	var armed []*room
	total := 0.0
	for _, r := range b.rooms {
		if r.state == stateArmed {
			armed = append(armed, r)
			total += r.heat.at(now)
		}
	}
	slices.SortFunc(armed, func(x, y *room) int { return cmp.Compare(y.heat.at(now), x.heat.at(now)) })
	for i, r := range armed {
		if i > 0 && total <= b.budget.perSecond/2 {
			break
		}
		total -= r.heat.at(now)
		r.state = stateCooling
		r.signalAll() // they sleep on a word that no longer holds
	}
	if len(armed) > 0 {
		b.poke()
	}
}

// mute turns the bell of a category off that did not ring when it had to.
func (b *bell) mute(r *room, now time.Time) {
	r.state, r.wanted = stateOff, false
	r.offUntil = now.Add(b.config.recheck)
	r.signalAll()
	b.poke()
}

// hear is called when the connection has been proved, and when it is lost.
func (b *bell) hear(hearing bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hearing = hearing
	for _, r := range b.rooms {
		r.state, r.wanted = stateOff, false
		if hearing && time.Now().After(r.offUntil) {
			r.state = stateCooling
		}
		r.signalAll()
	}
}

// poke makes the goroutine look at the rooms.
func (b *bell) poke() {
	b.poked = true
	if b.interrupt != nil {
		b.interrupt()
	}
}

// A heat is how much has happened in about the last second.
type heat struct {
	value float64
	last  time.Time
}

func (h *heat) at(now time.Time) float64 {
	return h.value * math.Exp(-now.Sub(h.last).Seconds())
}

func (h *heat) add(now time.Time, n float64) {
	h.value, h.last = h.at(now)+n, now
}

// A budget is what rings may cost: so many a second, and as many at once.
type budget struct {
	perSecond float64
	left      float64
	last      time.Time
}

func (b *budget) fill(now time.Time) {
	if !b.last.IsZero() {
		b.left += now.Sub(b.last).Seconds() * b.perSecond
	} else {
		b.left = b.perSecond
	}
	// What was overspent is saved again, or else it would not be a budget, but
	// not for ever: one burst must not silence the bell for minutes.
	b.left = min(max(b.left, -2*b.perSecond), b.perSecond)
	b.last = now
}

// spend takes a ring, and tells whether that was more than there is.
func (b *budget) spend(now time.Time) bool {
	b.fill(now)
	b.left--
	return b.left < 0
}

// grant tells whether there is room for a category of the given heat, and sets a
// second of its rings aside.
func (b *budget) grant(now time.Time, heat float64) bool {
	b.fill(now)
	if heat < 1 {
		heat = 0 // of the silent ones there may be any number
	}
	if b.left-heat < b.perSecond/4 {
		return false
	}
	b.left -= heat
	return true
}
