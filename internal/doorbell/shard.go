package doorbell

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/messagedb-go/messagedb/internal/names"
)

// A shard is a database that has some of the categories, and the connection to it that
// listens. A bell of a store without a proxy has one, with all of them.
type shard struct {
	bell    *Bell
	number  int
	connect func(ctx context.Context) (server, error)

	// The bell's mu guards these fields.
	listening bool               // the connection has been proved
	changes   int                // how often listening was set
	woken     bool               // the goroutine must look at the categories
	interrupt context.CancelFunc // ends the goroutine's wait; nil: it does not wait
	utf8      bool               // the server hashes names as this package does
	unrung    []string           // categories that were disabled and of which nothing was logged
	limiter   limiter
	own       rate // of the rings that were for categories with sleepers
	rings     int64
	reads     int64  // of its categories' sleepers
	probing   string // the payload of the last probe
	strayed   *shard // at whose connection a probe of this one has arrived, until one arrives here

	listener listener // only the goroutine uses it
}

// onNotification counts a ring and wakes the sleepers that it concerns. The payload is the
// name of the stream written to; an empty one concerns all.
func (s *shard) onNotification(payload string) {
	b := s.bell
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	s.rings++
	b.ringAllCategories(payload)
	if payload == "" {
		// It may have been for any of them.
		all := s.categories()
		for _, c := range all {
			c.rang(now, 1/float64(len(all)))
			c.ringAll()
		}
		if len(all) > 0 {
			s.own.add(now, 1)
		}
	} else if c := b.categories[names.Category(payload)]; c != nil {
		c.rang(now, 1)
		c.used, c.disabled = now, 0
		s.own.add(now, 1)
		c.ring(payload, s.utf8)
	}
	if s.limiter.take(now) {
		s.cool(now)
	}
}

// cool makes the categories that ring the most cooling, until the others ring at most half
// as often as is allowed. It leaves silent ones armed, because that saves no ring. The bell's
// mu is held.
func (s *shard) cool(now time.Time) {
	armed := s.withState(stateArmed)
	total := 0.0
	for _, c := range armed {
		total += c.rate.at(now)
	}
	slices.SortFunc(armed, func(x, y *category) int { return cmp.Compare(y.rate.at(now), x.rate.at(now)) })
	for i, c := range armed {
		if total <= s.limiter.perSecond/2 && (i > 0 || c.rate.at(now) < 1) {
			break
		}
		total -= c.rate.at(now)
		c.state = stateCooling
		c.ringAll() // they would wait for rings that no longer come
		s.wake()
	}
}

// categories returns the shard's categories. The bell's mu is held.
func (s *shard) categories() (categories []*category) {
	for _, c := range s.bell.categories {
		if c.shard == s {
			categories = append(categories, c)
		}
	}
	return categories
}

// withState returns the shard's categories in a state. The bell's mu is held.
func (s *shard) withState(state state) []*category {
	return slices.DeleteFunc(s.categories(), func(c *category) bool { return c.state != state })
}

// disable turns off a category whose writers did not ring although they should have. The
// goroutine looks for the trigger then. If that is there, some writers do not fire it, and
// the time doubles each time, because all that is gained by arming the category again is
// that its messages are late. The bell's mu is held.
func (s *shard) disable(c *category, now time.Time) {
	c.turnOff(now.Add(s.bell.config.Recheck<<min(c.disabled, maxDisabled)), false)
	c.disabled++
	s.unrung = append(s.unrung, c.name)
	s.wake()
}

// forgive is called when the trigger is missing, which explains why the categories' messages
// arrived without a ring.
func (s *shard) forgive(unrung []string) {
	b := s.bell
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range unrung {
		if c := b.categories[name]; c != nil {
			c.disabled, c.offUntil = 0, time.Time{}
		}
	}
}

// setListening is called when the connection has been proved, and when it is lost. It sets
// the state of the shard's categories.
func (s *shard) setListening(listening bool) {
	b := s.bell
	b.turns.Lock()
	defer b.turns.Unlock()
	if all, changed := s.setStates(listening); changed && b.config.Listening != nil {
		b.config.Listening(all)
	}
}

// setStates sets the state of the shard's categories, and reports whether all connections are
// proved, and whether that has changed.
func (s *shard) setStates(listening bool) (all, changed bool) {
	b := s.bell
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sharded && !listening && !s.listening {
		return false, false
	}
	s.listening, s.strayed = listening, nil
	s.changes++
	for _, c := range s.categories() {
		if b.sharded {
			c.unplace()
		} else {
			c.begin()
		}
	}
	if b.sharded {
		b.askShards()
	}
	all = !slices.ContainsFunc(b.shards, func(s *shard) bool { return !s.listening })
	changed = b.listening != all
	b.listening = all
	return all, changed
}

// wake makes the goroutine look at the categories. The bell's mu is held.
func (s *shard) wake() {
	s.woken = true
	if s.interrupt != nil {
		s.interrupt()
	}
}
