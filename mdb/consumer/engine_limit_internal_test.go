package consumer

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestPause checks that no handler is called during a pause, that those that are running finish, that everything that is done can be
// stored, and that what is in memory is handled afterwards, also what waits for a retry.
func TestPause(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{workers: 2})
		r.begin(2)
		running := r.blocks(1)
		r.fails(2, 1, errors.New("failed"))
		r.give(0, 0, "a", "b", "c", "a")
		r.wantsTogether("1", "2", "3")
		r.limit(nil, true)
		running <- nil
		r.give(1, 10, "d")
		pass(time.Hour)
		r.wants()
		r.at("0: 0-1")
		r.limit(nil, true) // nothing new
		r.wants()
		r.limit(nil, false)
		r.wantsTogether("2", "4", "11")
		r.at("0: 1-4", "1: 0-11")
		r.stops()
	})
}

// TestPauseBeforeClaim checks that a pause holds for partitions that are claimed later.
func TestPauseBeforeClaim(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{})
		r.limit(nil, true)
		r.begin(1)
		r.give(0, 0, "a")
		pass(time.Hour)
		r.wants()
		r.limit(nil, false)
		r.wants("1")
		r.stops()
	})
}

// TestPauseOfTransactions checks that the checkpoints of a form that moves them itself are stored by ticks during a pause, where
// messages are in memory that it would have moved them past.
func TestPauseOfTransactions(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{form: form{most: 10, moves: true}})
		r.begin(1, ledger.Parked{Partition: orders(0), Key: "a", Stream: "order-a"})
		r.fails(4, 1, errors.New("failed"))
		r.give(0, 0, "a", "a", "a", "b") // the first three are passed over
		r.wants("4")
		r.limit(nil, true)
		r.give(0, 4, "c")
		pass(time.Hour) // now it waits for the end of the pause
		r.wants()
		r.at("0: 0-3")
		r.limit(nil, false)
		r.wants("4", "5")
		r.stops()
	})
}

// TestPauseOfReplay checks that a turn of a replay ends with the message that is being handled, and that the replay does not go on
// before the pause has ended.
func TestPauseOfReplay(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, 1, 1, 1, 20)
		w.healed = true
		began := 0
		var barrier int64
		w.e = newEngine(engineConfig{park: w.park, replays: w, form: form{most: 1, lane: func(d *delivery) string { return d.key }, call: func(ctx context.Context, c call) (int, error) {
			if began++; began == 3 {
				w.e.limit(&barrier, barrier == 0)
			}
			return w.call(ctx, c)
		}}})
		_, stop := w.run()
		defer stop()
		p := orders(0)
		for i := range w.log[p] { // one stream
			w.log[p][i].Stream, w.log[p][i].Position = "order-k0", int64(i)
		}
		end := w.log[p][19].GlobalPosition
		for _, barrier = range []int64{0, end - 1} {
			w.rows[p].position = end
			w.rows[p].parked = []ledger.Parked{{Partition: p, Key: "k0", Stream: "order-k0", GlobalPosition: 1, Attempts: 1}}
			clear(w.fate)
			for i := range w.log[p] {
				w.fate[w.log[p][i].GlobalPosition] = &fate{}
			}
			began = 0
			w.rows[p].claimed = false
			w.claim(p)
			for range 3 {
				w.replayAll(p)
				pass(time.Minute)
				if began != 3 {
					t.Errorf("got %d calls with the barrier %d, want 3", began, barrier)
				}
			}
			if barrier > 0 {
				w.e.limit(&end, false)
			} else {
				w.e.limit(nil, false)
			}
			for turn := 0; turn < 20 && w.isParked(); turn++ {
				w.replayAll(p)
				pass(time.Minute)
				w.reread()
			}
			if began < 20 || w.isParked() { // it repeats what it could not record
				t.Errorf("got %d calls after the end of the barrier %d, want 20", began, barrier)
			}
			w.e.limit(nil, false)
		}
	})
}

// TestPauseReleases checks that partitions can be given back during a pause, although messages remain that would be handled before.
func TestPauseReleases(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{})
		r.begin(2)
		r.fails(2, 3, Transient(errors.New("an outage")))
		r.give(0, 0, "a", "b", "c")
		r.wants("1", "2", "3")
		running := r.blocks(11)
		r.give(1, 10, "a", "b")
		r.wants("11")
		r.surrender([]partition{orders(0), orders(1)})
		r.isAt(r.drained())
		r.limit(nil, true)
		r.isAt(r.drained(), "0: 0-1")
		running <- nil
		r.isAt(r.drainedSoon(), "1: 0-11")
		pass(time.Hour)
		r.wants()
		if s := r.stats(); s.messages != 0 || s.waiting != 0 {
			t.Errorf("something is left: %+v", s)
		}
		r.stops()
	})
}

// drainedSoon is drained after everything has settled.
func (r *rig) drainedSoon() []ledger.Move {
	r.count("")
	return r.drained()
}

// TestBarrier checks that no handler is called for a message after a barrier that is set while it is in memory, that batches
// end there, that what is before it is handled and can be stored, and that the rest is handled when the barrier is removed.
func TestBarrier(t *testing.T) {
	for name, f := range map[string]form{
		"each":  {},
		"batch": {most: 10},
		"tx":    {most: 10, moves: true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				r := newRig(t, engineConfig{form: f, workers: 2})
				r.begin(2)
				running := r.blocks(1)
				r.give(0, 0, "a")
				r.wants("1")
				r.give(0, 1, "a", "a", "a", "b")
				r.giveTo(1, 20, 30)
				barrier := int64(3)
				r.limit(&barrier, false)
				running <- nil
				r.wants("2", "3")
				pass(time.Hour)
				r.wants()
				want := []string{"0: 0-3", "1: 0-30"}
				if f.moves {
					want = want[1:] // the transaction has moved the other one
				}
				r.at(want...)
				r.wants()
				r.limit(nil, false)
				r.wantsTogether("4", "5")
				r.stops()
			})
		})
	}
}

// TestBarrierInOrder checks that what is after a barrier does not stop another category of a consumer with InOrder, whose
// messages are in the same lane, and does not leave it without memory.
func TestBarrierInOrder(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{inOrder: true, queue: 3})
		other := partition{Category: "other"}
		r.begin(1)
		r.claim(ledger.Row{Partition: other, Epoch: 1}, nil)
		running := r.blocks(11)
		r.give(0, 10, "a", "a", "a")
		r.wants("11")
		if r.room(other) {
			t.Error("there is room before the barrier")
		}
		feed := func(from, to int64) {
			var ms []mdb.Message
			for gp := from; gp <= to; gp++ {
				ms = append(ms, mdb.Message{ID: idOf(gp), Stream: "other-a", GlobalPosition: gp, Time: time.UnixMicro(gp).UTC()})
			}
			r.feed(other, 1, ms, source.At(to))
		}
		feed(1, 2)
		barrier := int64(5)
		r.limit(&barrier, false)
		running <- nil
		r.wants("1", "2")
		if !r.room(other) {
			t.Error("there is no room before the barrier, although only messages after it are in memory")
		}
		feed(3, 5) // while the lane waits
		r.wants("3", "4", "5")
		r.isAt(r.progress(), "0: 0-11", "0: 0-5")
		r.limit(nil, false)
		r.wants("12", "13")
		r.stops()
	})
}

// TestBarrierReleases checks that a partition can be given back that waits for the end of a barrier, after everything up to the
// barrier is handled.
func TestBarrierReleases(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{})
		r.begin(1)
		r.fails(2, 1, errors.New("failed"))
		r.fails(3, 1, errors.New("failed"))
		r.give(0, 0, "a", "b", "c", "d")
		r.wants("1", "2", "3", "4")
		barrier := int64(2)
		r.limit(&barrier, false)
		r.surrender([]partition{orders(0)})
		r.isAt(r.drained())
		pass(time.Second)
		r.wants("2")
		r.isAt(r.drained(), "0: 0-2")
		r.stops()
	})
}
