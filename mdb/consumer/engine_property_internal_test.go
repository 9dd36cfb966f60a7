package consumer

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

var errEnd = errors.New("the test ends")

// TestEngineProperties checks with random messages, failures, claims, releases and losses
// that per lane messages are handled in order and one at a time, that none has two effects
// unless its claim was lost, that no checkpoint passes a message that is not done with, that
// parked keys are not handled, that none is handled beyond a barrier or during a pause, and that all messages are done with in the end.
func TestEngineProperties(t *testing.T) {
	t.Parallel()
	pgtest.NeedNoServer(t)
	seeds := uint64(30)
	if testing.Short() {
		seeds = 3
	}
	if n, err := strconv.ParseUint(os.Getenv("MDB_TEST_ENGINE_SEEDS"), 10, 64); err == nil {
		seeds = n
	}
	for _, form := range []string{"each", "each in order", "batch", "batch by key", "tx", "tx in order"} {
		for seed := range seeds {
			t.Run(fmt.Sprint(form, "/", seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { live(t, form, seed) })
			})
		}
	}
}

func live(t *testing.T, kind string, seed uint64) {
	w := newWorld(t, seed, 5, 60, 600)
	c := w.config(kind, seed)
	w.e = newEngine(c)
	ctx, stop := w.run()
	defer stop() // also after a failure: calls that are running may find more, which is an error after the test
	var all []partition
	for p := range w.rows {
		all = append(all, p)
	}
	step := func(n int) int { w.mu.Lock(); defer w.mu.Unlock(); return w.random.IntN(n) }
	for range 1000 {
		p := orders(step(len(all)))
		switch step(13) {
		case 12:
			if step(4) == 0 {
				w.limit()
			}
		case 0, 1:
			w.claim(p)
		case 2:
			if step(3) > 0 {
				break
			}
			w.mu.Lock()
			w.rows[p].surrendered = w.rows[p].claimed
			w.mu.Unlock()
			w.e.surrender([]partition{p})
		case 3:
			if step(15) == 0 {
				w.drop(p)
			}
		case 4:
			if step(20) == 0 {
				w.e.forget(errDropped)
				for _, p := range all {
					w.drop(p)
				}
			}
		case 5:
			w.tick(ctx, true)
		case 6:
			w.pause(ctx, 2000)
		case 7: // another member has it
			if step(15) == 0 {
				w.mu.Lock()
				w.rows[p].claimed, w.rows[p].zombie = false, true
				w.rows[p].epoch++
				w.mu.Unlock()
			}
		default:
			w.feed(p, 1+step(15))
		}
		w.reread()
		w.release()
	}
	before := w.e.stats()
	w.mu.Lock()
	w.healed = true
	w.mu.Unlock()
	advance := func() {
		for _, p := range all {
			w.claim(p)
			w.feed(p, 15)
		}
		w.reread()
		w.release()
		w.tick(ctx, false)
	}
	w.lift(advance)
	for turn := 0; !w.caughtUp(); turn++ {
		if turn == 20_000 || t.Failed() {
			t.Fatalf("not caught up: %+v", w.e.stats())
		}
		advance()
	}
	w.e.surrender(all)
	synctest.Wait()
	w.release()
	if s := w.e.stats(); s.messages != 0 || s.bytes != 0 || s.running != 0 || s.waiting != 0 || s.parkedKeys != 0 || len(w.e.parts) != 0 || w.e.parking != 0 || w.e.full != 0 || w.e.runnable != (gauge{}) || w.e.pressed || len(w.e.lingering) != 0 {
		t.Errorf("something is left: %+v, %d partitions", s, len(w.e.parts))
	}
	if err := stop(); !errors.Is(err, errEnd) {
		t.Errorf("run returned %v", err)
	}
	if testing.Verbose() {
		t.Logf("%d calls, %d parks, %d ticks, %+v", w.calls, w.parks, w.ticks, before)
	}
}

// config returns the configuration of an engine with a form.
func (w *world) config(kind string, seed uint64) engineConfig {
	c := engineConfig{workers: 1 + int(seed%5), maxParked: 3 + int(seed%7), queue: 20, park: w.park, decided: w.decided}
	byKey := func(d *delivery) string { return d.key }
	c.form = form{call: w.call, most: 1, lane: byKey}
	switch kind {
	case "each in order":
		c.inOrder = true
	case "batch":
		c.form.most, c.form.lane = 7, nil
	case "batch by key":
		c.form.most = 7
	case "each alone":
		c.parkAlone = 1
	case "tx", "tx alone":
		c.form.most, c.form.moves, c.form.lane, w.tx = 7, true, nil, true
		if kind == "tx alone" {
			c.parkAlone = 1
		}
	case "tx in order":
		c.form.most, c.form.moves, w.tx, c.inOrder = 7, true, true, true
	}
	w.alone = c.parkAlone
	return c
}
