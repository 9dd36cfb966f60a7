package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
)

// beginReplayed checks that a parked message is handled after all before it of its key.
func (w *world) beginReplayed(d *delivery, first int64) {
	if w.alone > 0 {
		return
	}
	for i := range w.log[d.partition] {
		before := &w.log[d.partition][i]
		if before.GlobalPosition >= d.message.GlobalPosition || w.tx && before.GlobalPosition >= first { // of the same call
			break
		}
		if f := w.fate[before.GlobalPosition]; before.Stream.CardinalID() == d.key && f.effects == 0 && !f.skipped {
			w.fail("message %d is replayed before %d of its key", d.message.GlobalPosition, before.GlobalPosition)
		}
	}
}

// beginTurn, read, record and unpark are the statements of replays.
func (w *world) beginTurn(ctx context.Context, k ledger.Key, mv *ledger.Move) (parked []ledger.Parked, err error) {
	w.pause(ctx, 20)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.random.IntN(10) == 0 {
		return nil, errBroken
	}
	if mv != nil {
		if !w.fences(*mv) {
			return nil, errFence
		}
		w.moveRow(*mv)
	}
	for _, r := range w.rows[k.Partition].parked {
		if r.IsDue = r.Due != nil; r.Key == k.Key {
			parked = append(parked, r)
		}
	}
	return parked, nil
}

func (w *world) fences(mv ledger.Move) bool {
	r := w.rows[mv.Partition]
	if r.epoch == mv.Epoch && r.position != mv.From {
		w.fail("a replay moves %v from %d, want %d", mv.Partition, mv.From, r.position)
	}
	return r.epoch == mv.Epoch && r.position == mv.From
}

func (w *world) reading(ledger.Anchor) readStream { return w.read }

func (w *world) read(ctx context.Context, stream string, from int64, most int) (ms []mdb.Message, _ *mdb.UnreadableError, err error) {
	w.pause(ctx, 20)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.random.IntN(20) == 0 {
		return nil, nil, errBroken
	}
	for _, log := range w.log {
		for _, m := range log {
			if string(m.Stream) == stream && m.Position >= from && len(ms) < min(most, 3) {
				ms = append(ms, m)
			}
		}
	}
	return ms, nil, nil
}

// step lets parked streams move on. It checks that the checkpoint has reached what was replayed.
func (w *world) step(p partition, checkpoint int64, steps []step) bool {
	rows := w.rows[p].parked
	for _, s := range steps {
		i := slices.IndexFunc(rows, func(r ledger.Parked) bool { return r.Stream == s.stream && r.Position == s.from })
		if i < 0 {
			w.fail("stream %s is not parked at %d", s.stream, s.from)
			return false
		}
		for _, m := range w.log[p] {
			if string(m.Stream) == s.stream && m.Position >= s.from && m.Position < s.next && m.GlobalPosition > checkpoint {
				w.fail("message %d is replayed, and the checkpoint is at %d", m.GlobalPosition, checkpoint)
			}
		}
		if rows[i].Position, rows[i].Attempts = s.next, 0; s.ends {
			rows = slices.Delete(rows, i, i+1)
		}
	}
	w.rows[p].parked = rows
	return true
}

func (w *world) record(ctx context.Context, mv *ledger.Move, p partition, epoch int64, steps []step, failed *ledger.Postponed) error {
	w.pause(ctx, 20)
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.rows[p]
	switch {
	case r.epoch != epoch:
		return errFence
	case w.random.IntN(10) == 0:
		return errBroken
	}
	if mv != nil {
		if !w.fences(*mv) {
			return errFence
		}
		r.position = mv.To
	}
	if !w.step(p, r.position, steps) {
		return errFence
	}
	if mv != nil {
		w.moveRow(*mv)
	}
	for _, s := range steps {
		for _, m := range w.log[p] {
			if string(m.Stream) == s.stream && m.Position >= s.from && m.Position < s.next {
				w.fate[m.GlobalPosition].repeatable = false
			}
		}
	}
	if failed != nil {
		i := slices.IndexFunc(r.parked, func(r ledger.Parked) bool { return r.Stream == failed.Stream && r.Position == failed.Position })
		if i < 0 {
			w.fail("stream %s is not parked at %d", failed.Stream, failed.Position)
			return errFence
		}
		row := &r.parked[i]
		row.Attempts, row.Replays, row.Due = failed.Attempts, failed.Replays, nil
		for i := range r.parked {
			if other := &r.parked[i]; isOpen(*row) && isOpen(*other) && other.Key == row.Key {
				other.Due = nil
			}
		}
	}
	return ctx.Err()
}

func (w *world) unpark(ctx context.Context, mv ledger.Move, key string) error {
	w.pause(ctx, 20)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !w.fences(mv):
		return errFence
	case w.random.IntN(10) == 0:
		return errBroken
	}
	for _, m := range w.log[mv.Partition] {
		if f := w.fate[m.GlobalPosition]; m.Stream.CardinalID() == key && m.GlobalPosition > mv.From && f.effects > 0 && !f.repeatable {
			w.fail("key %s is unparked, %d was handled, and the checkpoint was at %d", key, m.GlobalPosition, mv.From)
		}
	}
	r := w.rows[mv.Partition]
	r.parked = slices.DeleteFunc(r.parked, func(r ledger.Parked) bool { return r.Key == key && isOpen(r) })
	w.moveRow(mv) // it checks that everything up to there is handled
	w.unparked++
	return ctx.Err()
}

// replayAll lets the engine replay what is parked of a partition.
func (w *world) replayAll(p partition) {
	w.mu.Lock()
	var keys []ledger.Key
	for i := range w.rows[p].parked {
		r := &w.rows[p].parked[i]
		r.Due = &time.Time{}
		keys = append(keys, ledger.Key{Partition: p, Key: r.Key})
	}
	w.mu.Unlock()
	w.e.replay(keys)
}

// TestReplayProperties checks with random messages, failures, claims, losses and replays that the messages of parked keys
// are handled in order, that none is lost or has two effects unless its claim was lost, that none is replayed which the
// checkpoint has not reached, and that nothing is parked in the end.
func TestReplayProperties(t *testing.T) {
	t.Parallel()
	pgtest.NeedNoServer(t)
	seeds := 30
	if testing.Short() {
		seeds = 4
	}
	for _, form := range []string{"each", "each in order", "batch", "batch by key", "tx", "tx in order", "each alone", "tx alone"} {
		var ran, unparked atomic.Int64
		t.Cleanup(func() {
			if !testing.Short() && ran.Load() == int64(seeds) && unparked.Load() == 0 { // a few seeds may miss it
				t.Errorf("%s: nothing was unparked", form)
			}
		})
		for seed := range seeds {
			t.Run(fmt.Sprint(form, "/", seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					unparked.Add(liveAndReplay(t, form, uint64(seed)))
					ran.Add(1)
				})
			})
		}
	}
}

// liveAndReplay returns how often something was unparked.
func liveAndReplay(t *testing.T, kind string, seed uint64) int64 {
	w := newWorld(t, seed, 3, 12, 300)
	c := w.config(kind, seed)
	c.replays = w
	w.e = newEngine(c)
	ctx, stop := w.run()
	defer stop() // also after a failure: calls that are running may find more, which is an error after the test
	var all []partition
	for p := range w.rows {
		all = append(all, p)
	}
	roll := func(n int) int { w.mu.Lock(); defer w.mu.Unlock(); return w.random.IntN(n) }
	for range 600 {
		p := orders(roll(len(all)))
		switch roll(12) {
		case 0:
			w.claim(p)
		case 1, 2, 3:
			w.replayAll(p)
		case 4:
			if roll(8) == 0 {
				w.mu.Lock()
				w.rows[p].surrendered = w.rows[p].claimed
				w.mu.Unlock()
				w.e.surrender([]partition{p})
			}
		case 5:
			if roll(15) == 0 {
				w.drop(p)
			}
		case 6, 7:
			w.tick(ctx, true)
		case 8:
			w.pause(ctx, 2000)
		case 9:
			w.limit()
		default:
			w.feed(p, 1+roll(10))
		}
		if roll(100) == 0 {
			w.setHealed(true)
		} else if roll(20) == 0 {
			w.setHealed(false)
		}
		w.reread()
		w.release()
	}
	w.setHealed(true)
	advance := func() {
		for _, p := range all {
			w.claim(p)
			w.feed(p, 10)
			w.replayAll(p)
		}
		w.reread()
		w.release()
		w.tick(ctx, false)
	}
	w.lift(advance)
	// The turn of a replay may have handled the last message, and not know it yet.
	isBusy := func() bool { s := w.e.stats(); return s.running > 0 || s.parkedKeys > 0 }
	for turn := 0; !w.caughtUp() || w.isParked() || isBusy(); turn++ {
		if turn == 5000 || t.Failed() {
			t.Fatalf("not caught up, or something is parked: %+v", w.e.stats())
		}
		advance()
	}
	for p, log := range w.log {
		for _, m := range log {
			if f := w.fate[m.GlobalPosition]; f.effects == 0 && !f.skipped {
				t.Errorf("message %d of %v is lost", m.GlobalPosition, p)
			}
		}
	}
	w.e.surrender(all)
	synctest.Wait()
	w.release()
	if s := w.e.stats(); s.messages != 0 || s.bytes != 0 || s.running != 0 || s.waiting != 0 || s.parkedKeys != 0 || len(w.e.parts) != 0 || w.e.parking != 0 || len(w.e.lingering) != 0 {
		t.Errorf("something is left: %+v, %d partitions", s, len(w.e.parts))
	}
	if err := stop(); !errors.Is(err, errEnd) {
		t.Errorf("run returned %v", err)
	}
	if testing.Verbose() {
		t.Logf("%d calls, %d parks, %d unparked, %d replayed", w.calls, w.parks, w.unparked, w.e.stats().replayed)
	}
	return int64(w.unparked)
}

func (w *world) setHealed(healed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.healed = healed
}

func (w *world) isParked() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.rows {
		if len(r.parked) > 0 {
			return true
		}
	}
	return false
}
