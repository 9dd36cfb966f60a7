package consumer

import (
	"math"
	"testing/synctest"
)

// setLimit does what a member does if operators pause the consumer, or set a barrier. A call that begins at the same time
// counts as one that began before.
func (w *world) setLimit(barrier int64, paused bool) {
	upto := barrier
	if paused {
		upto = -1
	}
	w.mu.Lock()
	w.paused, w.barrier = paused, barrier
	w.upto = max(w.upto, upto)
	w.mu.Unlock()
	if barrier == math.MaxInt64 {
		w.e.limit(nil, paused)
	} else {
		w.e.limit(&barrier, paused)
	}
	synctest.Wait()
	w.mu.Lock()
	w.upto = upto
	w.mu.Unlock()
}

// limit sets a random limit.
func (w *world) limit() {
	w.mu.Lock()
	barrier, paused := int64(math.MaxInt64), w.random.IntN(4) == 0
	if w.random.IntN(2) == 0 {
		barrier = w.random.Int64N(w.last + 10)
	}
	w.mu.Unlock()
	w.setLimit(barrier, paused)
}

// lift checks that after a barrier is set, all messages up to it are handled, skipped or parked, and that is stored, also if
// some beyond it are in memory. advance does what a member does in a while. Then it ends the limit.
func (w *world) lift(advance func()) {
	w.mu.Lock()
	barrier := w.random.Int64N(w.last)
	w.mu.Unlock()
	w.setLimit(barrier, false)
	for turn := 0; !w.isAt(barrier); turn++ {
		if turn == 20_000 || w.t.Failed() {
			w.t.Fatalf("not at the barrier: %+v", w.e.stats())
		}
		advance()
	}
	w.setLimit(math.MaxInt64, false)
}

// isAt reports whether all rows have passed all messages up to a position.
func (w *world) isAt(position int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p, ms := range w.log {
		for i := range ms {
			if gp := ms[i].GlobalPosition; gp <= position && w.rows[p].position < gp {
				return false
			}
		}
	}
	return true
}
