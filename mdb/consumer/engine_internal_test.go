package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestPrefix checks that a checkpoint moves over what is done with, in whatever order, and
// over messages of others, and that moves which were not made are offered again.
func TestPrefix(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{workers: 3})
		defer r.stops()
		r.begin(3)
		r.at()
		first, third := r.blocks(1), r.blocks(3)
		r.giveTo(0, 0, 9, "a", "b", "c", "d")
		r.giveTo(1, 9, 9)
		r.at("1: 0-9")
		third <- nil
		r.at()
		first <- nil
		synctest.Wait()
		moves := r.progress()
		r.isAt(moves, "0: 0-9")
		if len(r.progress()) > 0 {
			t.Error("a move is offered twice")
		}
		r.kept(moves)
		r.giveTo(0, 9, 12, "a")
		r.at("0: 0-12")
		r.give(0, 12, "a")
		r.at("0: 12-13")
		r.at()
		r.feed(orders(0), 2, []mdb.Message{{Stream: "order-a", GlobalPosition: 14}}, source.At(14)) // of another epoch
		r.feed(orders(7), 1, []mdb.Message{{Stream: "order-a", GlobalPosition: 14}}, source.At(14)) // not claimed
		r.at()
	})
}

// TestAnchors checks that a move has the anchor of the last known message up to it.
func TestAnchors(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{})
		defer r.stops()
		r.begin(1)
		r.give(0, 0, "a")
		synctest.Wait()
		moves := r.progress()
		if len(moves) != 1 || moves[0].To != 1 || moves[0].Anchor != (ledger.Anchor{ID: idOf(1), Time: time.UnixMicro(1).UTC()}) {
			t.Errorf("got %v", moves)
		}
		r.stored(moves)
		at := time.Date(2026, 11, 28, 11, 0, 0, 5000, time.UTC)
		end := source.At(1).Advance(1, func(int) source.Anchor {
			return source.Anchor{Position: 7, ID: idOf(7), Time: at.UnixMicro() - time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()}
		})
		r.feed(orders(0), 1, nil, end.Past(8))
		moves = r.progress()
		if len(moves) != 1 || moves[0].To != 8 || moves[0].Anchor != (ledger.Anchor{ID: idOf(7), Time: at}) {
			t.Errorf("got %v", moves)
		}
		r.stored(moves)
		blocked := r.blocks(10)
		r.giveTo(0, 8, 12, "a", "a")
		synctest.Wait()
		moves = r.progress()
		if len(moves) != 1 || moves[0].To != 9 || moves[0].Anchor != (ledger.Anchor{ID: idOf(9), Time: time.UnixMicro(9).UTC()}) {
			t.Errorf("got %v", moves)
		}
		close(blocked)
	})
}

// TestLanes checks that the messages of a key are handled one at a time and in order, those
// of different keys by all workers, and with inOrder all by one.
func TestLanes(t *testing.T) {
	for _, inOrder := range []bool{false, true} {
		t.Run(fmt.Sprint("in order: ", inOrder), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				r := newRig(t, engineConfig{workers: 4, inOrder: inOrder})
				defer r.stops()
				r.begin(2)
				var blocked []chan error
				for gp := int64(1); gp <= 6; gp++ {
					blocked = append(blocked, r.blocks(gp))
				}
				r.give(0, 0, "a", "a+1", "b")
				r.give(1, 3, "a", "c", "d")
				if !inOrder {
					synctest.Wait()
					slices.Sort(r.diary)
					r.wants("1", "3", "4", "5")
					blocked[4] <- nil
					r.wants("6")
					blocked[0] <- nil
					r.wants("2")
				} else {
					for i := range blocked {
						r.wants(fmt.Sprint(i + 1))
						blocked[i] <- nil
					}
				}
				for _, b := range blocked {
					close(b)
				}
			})
		})
	}
}

// TestMayBegin checks that no handler is called while that is not allowed, and that it is
// asked before each call.
func TestMayBegin(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var allowed atomic.Int64
		allowed.Store(2)
		r := newRig(t, engineConfig{mayBegin: func() error {
			if allowed.Add(-1) < 0 {
				return errDropped
			}
			return nil
		}})
		defer r.stops()
		r.begin(1)
		r.give(0, 0, "a", "b", "c", "a", "d")
		r.wants("1", "2")
		pass(time.Hour)
		r.wants()
		r.at("0: 0-2")
		r.wants()
		allowed.Store(9)
		r.stored(nil)
		synctest.Wait()
		slices.Sort(r.diary)
		r.wants("3", "4", "5")
		r.at("0: 2-5")
		if s := r.stats(); s.failed != 0 || s.retried != 0 || s.handled != 5 {
			t.Errorf("got %+v", s)
		}
	})
}

// TestSurrender checks that a surrendered partition is drained when no handler has a message
// of it, that messages before one that was handled are still handled, also after a failure,
// that later ones are not, and that nothing of it is left.
func TestSurrender(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{workers: 2})
		defer r.stops()
		r.begin(2)
		r.fails(1, 3, errBroken)
		third, fourth := r.blocks(3), r.blocks(4)
		r.give(0, 0, "a", "a", "b", "c", "d", "a")
		synctest.Wait()
		slices.Sort(r.diary) // two workers
		r.wants("1", "3", "4")
		third <- nil
		r.wants("5")
		r.surrender([]partition{orders(0), orders(1)})
		changes := r.changes
		r.isAt(r.drained(), "1: 0-0")
		r.give(0, 6, "e") // too late
		pass(time.Minute)
		r.wants("1", "1", "1", "2")
		if len(r.drained()) > 0 || r.room(orders(0)) {
			t.Error("it is drained, or has room")
		}
		r.at("0: 0-3")
		fourth <- errBroken // it was not the last that was handled, so it is retried
		pass(time.Minute)
		r.wants("4")
		close(fourth)
		synctest.Wait()
		if r.changes == changes {
			t.Error("changed is not called")
		}
		r.isAt(r.drained(), "0: 3-5")
		if s := r.stats(); s.messages+s.waiting != 0 || s.bytes != 0 || len(r.parts) != 0 || len(r.drained()) > 0 {
			t.Errorf("something is left: %+v", s)
		}
	})
}

// TestSurrenderWaiting checks that a message which waits for a retry is given up if none after it
// was handled, and that an offered move is settled first.
func TestSurrenderWaiting(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{})
		defer r.stops()
		r.begin(1)
		r.fails(2, 9, errBroken)
		r.give(0, 0, "a", "b", "b")
		synctest.Wait()
		moves := r.progress()
		r.isAt(moves, "0: 0-1")
		r.surrender([]partition{orders(0)})
		if len(r.drained()) > 0 {
			t.Error("a partition is released while it is flushed")
		}
		r.stored(moves)
		r.isAt(r.drained(), "0: 1-1")
		pass(time.Hour)
		r.wants("1", "2")
	})
}

// TestForget checks that forgetting partitions ends the contexts of their handlers with the
// cause, that what these return is ignored, and that a partition which is claimed meanwhile
// begins when they have returned, after its row was read again.
func TestForget(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{workers: 3})
		defer r.stops()
		r.begin(2)
		go1 := make(chan struct{})
		r.on(1, func(ctx context.Context, _ *delivery) error {
			if ctx.Value(rigKey{}) != r {
				t.Error("the context is not derived from that of run")
			}
			<-ctx.Done()
			r.note("1 ends: %v", context.Cause(ctx))
			<-go1
			return Permanent(errBroken)
		})
		r.fails(2, 9, errBroken)
		r.give(0, 0, "a", "b")
		other := r.blocks(3)
		r.give(1, 2, "c")
		r.wantsTogether("1", "2", "3")
		r.drop([]partition{orders(0)}, errDropped)
		r.wants("1 ends: dropped")
		r.heal()
		r.claim(ledger.Row{Partition: orders(0), Epoch: 2}, nil)
		feed := func() {
			r.feed(orders(0), 2, []mdb.Message{{Stream: "order-a", GlobalPosition: 1}, {Stream: "order-z", GlobalPosition: 2}}, source.At(2))
		}
		feed()
		pass(time.Hour)
		r.wants()
		if refused, stale := r.fenced(); refused != nil || stale != nil {
			t.Errorf("%v and %v are reported", refused, stale)
		}
		close(go1)
		r.wants()
		r.at()
		if refused, stale := r.fenced(); refused != nil || !slices.Equal(stale, []partition{orders(0)}) {
			t.Errorf("got %v and %v, want it as stale", refused, stale)
		}
		r.claim(ledger.Row{Partition: orders(0), Epoch: 2}, nil)
		feed()
		r.wantsTogether("1", "2")
		r.at("0: 0-2")
		r.forget(errors.New("gone"))
		r.wants("3 ends: gone")
		close(other)
		if s := r.stats(); s.messages+s.running+s.waiting+s.parkedKeys != 0 || s.parked != 0 || s.bytes != 0 {
			t.Errorf("something is left: %+v", s)
		}
	})
}

// TestForgetBeforeCall checks that a handler is not called if its partition is forgotten while a
// worker asks whether it may begin: what it waited for has ended, and the rows are not read yet.
func TestForgetBeforeCall(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var r *rig
		asked := 0
		r = newRig(t, engineConfig{workers: 1, mayBegin: func() error {
			if asked++; asked == 1 {
				r.forget(errDropped)
			}
			return nil
		}})
		defer r.stops()
		r.begin(1)
		r.give(0, 0, "a")
		r.wants()
		r.claim(ledger.Row{Partition: orders(0), Epoch: 1}, nil)
		r.give(0, 0, "a")
		r.wants("1")
		r.at("0: 0-1")
	})
}

// TestRefused checks that a partition whose move is refused is forgotten, unless it has been
// claimed again since.
func TestRefused(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{workers: 2})
		defer r.stops()
		r.begin(2)
		r.blocks(2)
		r.blocks(4)
		r.give(0, 0, "a", "b")
		r.give(1, 2, "c", "d")
		synctest.Wait()
		moves := r.progress()
		r.isAt(moves, "0: 0-1", "1: 0-3")
		r.claim(ledger.Row{Partition: orders(1), Epoch: 2, Position: 2}, nil)
		r.refused(moves, errDropped)
		synctest.Wait()
		if got := strings.Join(r.diary, " "); !strings.Contains(got, "2 ends: dropped") || !strings.Contains(got, "4 ends: the partition was claimed again") {
			t.Errorf("got %q", got)
		}
		if r.room(orders(0)) || !r.room(orders(1)) {
			t.Error("the wrong partition is forgotten")
		}
	})
}

// TestRoom checks that the workers' backlog is bounded, with all partitions having no room at
// the same time, and that a partition whose messages cannot be handled does not stop others,
// whether its messages are many or large.
func TestRoom(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{queue: 100, maxBytes: 1 << 20})
		defer r.stops()
		r.begin(4)
		blocked := r.blocks(1)
		gp := int64(0)
		next := func(n int, size int, id string) {
			m := mdb.Message{Stream: mdb.StreamName("order-" + id), Data: make([]byte, size)}
			gp++
			m.GlobalPosition = gp
			r.feed(orders(n), 1, []mdb.Message{m}, source.At(gp))
		}
		for n := range 101 { // one of them has the worker
			if !r.room(orders(n%3)) || !r.room(orders(3)) {
				t.Fatalf("no room after %d", n)
			}
			next(n%3, 10, fmt.Sprint(n))
			synctest.Wait() // the worker has the first
		}
		if r.room(orders(0)) || r.room(orders(3)) {
			t.Fatal("there is room")
		}
		before := r.changes
		close(blocked)
		synctest.Wait()
		if !r.room(orders(0)) || !r.room(orders(3)) || r.changes == before {
			t.Error("there is no room, or changed is not called")
		}

		// Two keys fail. Their partitions fill up, by number and by size.
		r.fails(gp+1, 1000, Transient(errBroken))
		next(0, 1, "slow")
		for n := 0; r.room(orders(0)); n++ {
			next(0, 1, "slow")
			next(0, 1, "fast") // it is done with, and remains in memory
			synctest.Wait()
			if n > 50 {
				t.Fatal("it is never full")
			}
		}
		r.fails(gp+1, 1000, Transient(errBroken))
		next(1, 1, "slow")
		for n := 0; r.room(orders(1)); n++ {
			next(1, 100_000, "slow")
			synctest.Wait()
			if s := r.stats(); s.bytes > 1<<20 {
				t.Fatalf("got %+v", s)
			}
		}
		if s := r.stats(); s.bytes < 1<<19 {
			t.Errorf("a partition alone uses less than half: %+v", s)
		}
		for range 500 {
			if !r.room(orders(2)) || !r.room(orders(3)) {
				t.Fatal("a partition that stands still stops others")
			}
			next(2, 1000, "a")
			synctest.Wait()
		}
		before = r.changes
		r.heal()
		pass(time.Hour)
		if !r.room(orders(0)) || !r.room(orders(1)) || r.changes == before {
			t.Error("there is no room, or changed is not called")
		}
		if s := r.stats(); s.messages != 0 || s.bytes != 0 {
			t.Errorf("something is left: %+v", s)
		}
	})
}

// TestRoomBesideSlowHandler checks that a handler that takes long only stops its partition,
// when the messages after it with its key have filled it.
func TestRoomBesideSlowHandler(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{queue: 10, workers: 2})
		defer r.stops()
		r.begin(2)
		slow := r.blocks(1)
		r.give(0, 0, slices.Repeat([]string{"a"}, 10)...)
		r.wants("1")
		for gp := range int64(100) {
			if r.room(orders(0)) || !r.room(orders(1)) {
				t.Fatal("the wrong partition has room")
			}
			r.give(1, 10+gp, "b")
			synctest.Wait()
		}
		close(slow)
		synctest.Wait()
		if !r.room(orders(0)) || !r.room(orders(1)) {
			t.Error("there is no room")
		}
		r.at("0: 0-10", "1: 0-110")
	})
}

// TestRoomInOrder checks that with inOrder the limits are of all partitions together.
func TestRoomInOrder(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{queue: 10, inOrder: true})
		defer r.stops()
		r.begin(2)
		r.fails(1, 3, errBroken)
		r.give(0, 0, "a", "b", "c", "d", "e", "f")
		if !r.room(orders(0)) || !r.room(orders(1)) {
			t.Error("there is no room")
		}
		r.give(1, 6, "a", "b", "c", "d")
		if r.room(orders(0)) || r.room(orders(1)) {
			t.Error("there is room")
		}
		pass(time.Minute)
		if !r.room(orders(0)) || !r.room(orders(1)) || r.changes == 0 {
			t.Error("there is no room, or changed is not called")
		}
	})
}
