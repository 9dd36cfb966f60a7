package doorbell

import (
	"context"
	"math/rand/v2"
	"time"
)

// A Sleeper is the bell's side of a subscription. Only one goroutine at a time may use it.
type Sleeper struct {
	bell     *Bell
	category *category // nil: all
	interest Interest

	rung chan struct{} // contains a value after a ring; anybody may send, the sleeper receives

	// epoch is the category's when the last read began. The bell's mu guards it.
	epoch int64
	// fellBack says whether the last sleep in an armed category ended without a ring. Only
	// the subscription's goroutine uses it.
	fellBack bool
	// woken says whether a ring has ended a sleep since the last read. Likewise.
	woken bool
}

// Close removes the subscription. The last Close of a bell stops its goroutine.
func (s *Sleeper) Close() {
	b := s.bell
	b.mu.Lock()
	b.sleepers.Add(-1)
	if s.category == nil {
		delete(b.all, s)
	} else if delete(s.category.sleepers, s); len(s.category.sleepers) == 0 {
		delete(b.categories, s.category.name)
		if s.category.shard != nil {
			s.category.shard.wake() // to unlock its key
		}
	}
	b.mu.Unlock()
	if b.listens() {
		b.stop()
	}
}

// BeforeRead must be called before each read. Rings after it end the next sleep. It reports whether
// there was a ring since its last call.
func (s *Sleeper) BeforeRead() (rung bool) {
	b := s.bell
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reads++
	select {
	case <-s.rung:
		s.fellBack, s.woken = false, true
	default:
	}
	rung, s.woken = s.woken, false
	if c := s.category; c != nil {
		s.epoch = c.epoch
		if c.placed {
			c.shard.reads++
		}
	}
	return rung
}

// Sleep returns when a message for the subscription was written or may have been, or when
// ctx ends. d is the delay of the subscription's strategy, and found the number of messages
// in its last read. For each value from moved, Sleep calls progress, and returns if that
// returns an error.
func (s *Sleeper) Sleep(ctx context.Context, d time.Duration, found int, moved <-chan struct{}, progress func() error) error {
	d, waits := s.bell.delay(s, d, found)
	timer := time.NewTimer(d)
	defer timer.Stop()
	s.fellBack = false
	for {
		select {
		case <-moved: // no reason to read
			if err := progress(); err != nil {
				return err
			}
			continue
		case <-s.rung:
			s.woken = true
		case <-timer.C:
			s.fellBack = waits
		case <-ctx.Done():
		}
		return nil
	}
}

// ring ends the sleep, or the next one.
func (s *Sleeper) ring() {
	select {
	case s.rung <- struct{}{}:
	default:
	}
}

// jittered returns d less a random part, so that sleepers do not all read together.
func jittered(d time.Duration) time.Duration {
	return d - time.Duration(rand.Int64N(int64(d)/4+1))
}
