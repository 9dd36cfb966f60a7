package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

// A batcher is a form of batches. Bad messages fail the whole call.
type batcher struct {
	r     *rig
	bad   map[int64]error
	named bool // errors name the message
	block chan error
}

func (b *batcher) call(ctx context.Context, c call) (int, error) {
	first, last := c.deliveries[0].message.GlobalPosition, c.deliveries[len(c.deliveries)-1].message.GlobalPosition
	b.r.note("%d-%d", first, last)
	if b.block != nil {
		select {
		case <-b.block:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	b.r.mu.Lock()
	defer b.r.mu.Unlock()
	for i := range c.deliveries {
		err := b.bad[c.deliveries[i].message.GlobalPosition]
		switch {
		case err == nil:
		case b.named:
			return 0, fmt.Errorf("wrapped: %w", &BatchError{i, err})
		default:
			return 0, err
		}
	}
	return len(c.deliveries), nil
}

func newBatcher(t *testing.T, c engineConfig) *batcher {
	t.Helper()
	b := &batcher{bad: make(map[int64]error)}
	c.form.call = b.call
	c.form.most = max(c.form.most, 1)
	b.r = newRig(t, c)
	return b
}

var eight = []string{"a", "b", "c", "d", "e", "f", "g", "h"}

// TestHalving checks that a batch which fails is divided until one message fails alone, that
// only this one is retried and parked, and that the next batch is whole again.
func TestHalving(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBatcher(t, engineConfig{form: form{most: 8}})
		defer b.r.stops()
		b.r.begin(1)
		b.r.do(func() { b.bad[4] = errBroken })
		b.r.give(0, 0, eight...)
		b.r.wants("1-8", "1-4", "1-2", "3-3", "4-4")
		b.r.at("0: 0-3")
		pass(time.Minute)
		b.r.wants("4-4", "4-4", "4-4", "4-4", "4-4", "park 4 after 6", "5-8")
		b.r.at("0: 3-8")
		b.r.give(0, 8, eight...)
		b.r.wants("9-11", "13-16") // 12 has the parked key
	})
}

// TestHalvingAfterWait checks that a batch with an error of RetryAfter waits before it is
// divided, and that Stop ends the consumer without a search for the message.
func TestHalvingAfterWait(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBatcher(t, engineConfig{form: form{most: 8}})
		b.r.begin(1)
		b.r.do(func() { b.bad[3] = RetryAfter(errBroken, time.Minute) })
		b.r.give(0, 0, eight...)
		b.r.wants("1-8")
		pass(time.Minute)
		b.r.wants("1-4")
		b.r.do(func() { delete(b.bad, 3) })
		b.r.do(func() { b.bad[8] = Stop(errBroken) })
		pass(time.Minute)
		b.r.wants("1-2", "3-3", "4-4", "5-8")
		if err := <-b.r.ended; !errors.Is(err, errBroken) {
			t.Errorf("got %v", err)
		}
	})
}

// TestBatchError checks that the named message is handled alone, after those before it, and
// that it alone is retried and parked. A name of no message counts as none.
func TestBatchError(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBatcher(t, engineConfig{form: form{most: 8}})
		defer b.r.stops()
		b.named = true
		b.r.begin(1)
		b.r.do(func() { b.bad[4] = Permanent(errBroken) })
		b.r.do(func() { b.bad[6] = Skip(errBroken) })
		b.r.give(0, 0, eight...)
		b.r.wants("1-8", "1-3", "4-4", "park 4 after 1", "5-8", "5-5", "6-6", "7-8")
		b.r.at("0: 0-8")
		b.r.do(func() { delete(b.bad, 4) })
		b.r.do(func() { b.bad[9] = errBroken }) // the first of its batch
		b.r.give(0, 8, "z", "y")
		b.r.wants("9-10")
		pass(50 * time.Millisecond)
		b.r.do(func() { delete(b.bad, 9) })
		pass(time.Second)
		b.r.wants("9-9", "10-10")
		b.named = false
		b.r.do(func() { b.bad[11] = &BatchError{7, errBroken} })
		b.r.give(0, 10, "z", "y")
		b.r.wants("11-12", "11-11")
		if e := b.bad[11]; !errors.Is(e, errBroken) || e.Error() != "message 7 of the batch: broken" {
			t.Errorf("got %v", e)
		}
	})
}

// TestBatchConflict checks that a batch is repeated as a whole after serialization failures, up
// to the tenth in a row, and for as long as the server cannot be reached.
func TestBatchConflict(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBatcher(t, engineConfig{form: form{most: 8}})
		defer b.r.stops()
		b.r.begin(1)
		b.r.do(func() { b.bad[2] = &pgconn.PgError{Severity: "ERROR", Code: "40001"} })
		b.r.give(0, 0, "a", "b", "c", "d")
		pass(10 * time.Minute)
		want := append(slices.Repeat([]string{"1-4"}, 10), "1-2", "1-1")
		b.r.wants(append(want, append(slices.Repeat([]string{"2-2"}, 15), "park 2 after 6", "3-4")...)...)
		b.r.do(func() { b.bad[6] = Transient(errBroken) })
		b.r.give(0, 4, "e", "f")
		pass(time.Hour)
		if n := b.r.count("5-6"); n < 50 || n != len(b.r.diary) {
			t.Errorf("got %q", b.r.diary)
		}
	})
}

// TestBatches checks that a call has messages of one partition, also in order over several, and
// at most as many as the form takes, from whatever pages, without those of parked keys.
func TestBatches(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBatcher(t, engineConfig{form: form{most: 4}, inOrder: true})
		defer b.r.stops()
		b.block = make(chan error)
		b.r.begin(2, ledger.Parked{Partition: orders(0), Key: "x", Stream: "order-x"})
		b.r.give(0, 0, "a")
		b.r.wants("1-1")
		b.r.give(0, 1, "b")
		b.r.give(0, 2, "c", "d", "e", "f")
		b.r.give(1, 6, "a", "b")
		b.r.give(0, 8, "g", "x", "h")
		close(b.block)
		b.r.wants("2-5", "6-6", "7-8", "9-9", "11-11")
		b.r.at("0: 0-11", "1: 0-8")
	})
}

// TestNothingDone checks that a form which claims to be done with nothing, or with more than
// it was given, is one that fails.
func TestNothingDone(t *testing.T) {
	for _, done := range []int{0, 2} {
		inFailed := func(t *testing.T) {
			r := newRig(t, engineConfig{form: form{call: func(context.Context, call) (int, error) { return done, nil }}})
			defer r.stops()
			r.begin(1)
			r.give(0, 0, "a")
			pass(time.Minute)
			r.wants("park 1 after 6")
		}
		t.Run(fmt.Sprint(done), func(t *testing.T) { inBubble(t, inFailed) })
	}
}

// TestSomeDone checks that a form may be done with some messages without an error.
func TestSomeDone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var r *rig
		r = newRig(t, engineConfig{form: form{most: 8, call: func(_ context.Context, c call) (int, error) {
			r.note("%d of %d", c.deliveries[0].message.GlobalPosition, len(c.deliveries))
			return min(3, len(c.deliveries)), nil
		}}})
		defer r.stops()
		r.begin(1)
		r.give(0, 0, eight...)
		r.wants("1 of 8", "4 of 5", "7 of 2")
		r.at("0: 0-8")
	})
}

// TestMoves checks that a form which moves the checkpoint receives the stored position, that a
// partition is not offered while its transaction runs or is about to, and that none begins
// while the partition is offered.
func TestMoves(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var froms []ledger.Move
		block := make(chan error)
		var r *rig
		r = newRig(t, engineConfig{workers: 2, form: form{most: 2, moves: true, call: func(_ context.Context, c call) (int, error) {
			froms = append(froms, c.from)
			r.note("%d", c.deliveries[0].message.GlobalPosition)
			return len(c.deliveries), <-block
		}}})
		defer r.stops()
		r.begin(2)
		r.giveTo(0, 0, 5, "a")
		r.wants("1")
		r.at()
		block <- nil
		r.at("0: 1-5")
		r.giveTo(0, 5, 9, "b", "c", "d")
		r.wants("6")
		block <- nil
		r.wants("8")
		r.at() // it runs
		block <- nil
		synctest.Wait()
		moves := r.progress()
		r.isAt(moves, "0: 8-9")
		r.give(0, 9, "e")
		r.giveTo(1, 9, 10)
		r.wants() // it is offered
		r.kept(moves)
		r.wants("10")
		r.at("1: 0-10")
		block <- errFence
		r.wants()
		if got, _ := r.fenced(); !slices.Equal(got, []partition{orders(0)}) {
			t.Errorf("got %v", got)
		}
		var got []string
		for _, m := range froms {
			got = append(got, fmt.Sprintf("%d-%d of %d", m.From, m.To, m.Epoch))
			if m.ID != idOf(m.To) || m.Partition != orders(0) {
				t.Errorf("got %v", m)
			}
		}
		if want := []string{"0-1 of 1", "5-7 of 1", "7-8 of 1", "8-10 of 1"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestMovesWhileWaiting checks that what was skipped is offered while a later message of the
// partition waits for its retry, and that the retry begins from there.
func TestMovesWhileWaiting(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var r *rig
		r = newRig(t, engineConfig{form: form{most: 1, moves: true, call: func(_ context.Context, c call) (int, error) {
			d := &c.deliveries[0]
			r.note("%d from %d", d.message.GlobalPosition, c.from.From)
			if d.key == "a" {
				return 0, Skip(errBroken)
			} else if d.attempt == 1 {
				return 0, errBroken
			}
			return 1, nil
		}}})
		defer r.stops()
		r.begin(1)
		r.give(0, 0, "a", "a", "b")
		r.wants("1 from 0", "2 from 0", "3 from 0")
		moves := r.progress()
		r.isAt(moves, "0: 0-2")
		pass(time.Minute)
		r.wants()
		r.stored(moves)
		r.wants("3 from 2")
		r.at()
		r.surrender([]partition{orders(0)})
		r.isAt(r.drained(), "0: 3-3")
	})
}

// TestMovesNext checks that a partition is not offered if its next transaction will move its
// checkpoint anyway, so that flushes do not delay transactions.
func TestMovesNext(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		block := make(chan error)
		var r *rig
		r = newRig(t, engineConfig{form: form{moves: true, call: func(_ context.Context, c call) (int, error) {
			d := &c.deliveries[0]
			r.note("%d", d.message.GlobalPosition)
			switch d.message.GlobalPosition {
			case 1:
				return 0, Skip(errBroken)
			case 2:
				return 1, <-block
			}
			return 1, nil
		}}})
		defer r.stops()
		r.begin(2)
		r.give(0, 0, "a")
		r.give(1, 1, "a")
		r.wants("1", "2") // the worker is busy
		r.give(0, 2, "a")
		r.at()
		block <- nil
		r.wants("3")
		r.at()
	})
}
