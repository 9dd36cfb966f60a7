package chaos

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestResizedGroups checks consumers whose number of partitions changes again and again, to multiples and to other numbers, while
// their processes join, leave, are replaced and are killed, and some handlers take long.
func TestResizedGroups(t *testing.T) {
	pgtest.NeedTime(t)
	t.Parallel()
	resizedGroups(t, *seedFlag, scaled(2, 8), time.Time{})
}

func resizedGroups(t *testing.T, seed uint64, resizes int, until time.Time) {
	w := newGroupWork(testdb.Consumers(t), seed)
	w.resized, w.slow, w.injectTo = true, true, until
	violations, store := w.run(t, func(ctx context.Context) error {
		resized := make(map[*durableHistory]bool)
		for w.goesOn(resizes) || len(resized) < len(w.histories) {
			var running []<-chan error
			for _, h := range w.histories {
				running = append(running, w.resize(ctx, h))
			}
			for _, h := range w.histories {
				if err := errors.Join(w.change(ctx, h), w.sample(ctx)); err != nil {
					return err
				}
			}
			for i, ended := range running {
				switch err := <-ended; {
				case err == nil:
					resized[w.histories[i]] = true
				case !errors.Is(err, errGivenUp):
					return err
				}
				w.faults++
			}
			if err := w.sample(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	w.evaluate(t, "T28", violations, store)
	for _, h := range w.histories {
		t.Logf("%s: resizes %v", h.consumer, h.resizes)
		if len(h.resizes) == 0 {
			t.Errorf("%s was never resized", h.consumer)
		}
	}
}

// TestOperatedGroups checks consumers that operators pause, move back and forward, and whose parked messages they replay and skip,
// while processes join, leave and are killed.
func TestOperatedGroups(t *testing.T) {
	pgtest.NeedTime(t)
	t.Parallel()
	operatedGroups(t, *seedFlag, scaled(6, 18), time.Time{})
}

func operatedGroups(t *testing.T, seed uint64, operations int, until time.Time) {
	w := newGroupWork(testdb.Consumers(t), seed)
	w.streams, w.poisoned, w.slow, w.injectTo = 2000, 2, true, until
	operate := []func(context.Context, *durableHistory) error{
		w.paused, w.seekBack, w.skip, w.seekBack, w.seekToEnd,
		func(ctx context.Context, _ *durableHistory) error { return w.replay(ctx) },
	}
	violations, store := w.run(t, func(ctx context.Context) error {
		for _, h := range w.histories {
			if err := w.untilMore(ctx, w.running[h]...); err != nil {
				return err
			}
		}
		for w.goesOn(operations) {
			w.rng.Shuffle(len(operate), func(i, j int) { operate[i], operate[j] = operate[j], operate[i] })
			for _, f := range operate {
				for _, h := range w.histories {
					if err := f(ctx, h); err != nil {
						return err
					}
					w.faults++
				}
				h := w.histories[w.rng.IntN(len(w.histories))]
				if err := errors.Join(w.change(ctx, h), w.sample(ctx)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	for _, h := range w.histories {
		t.Logf("%s: %d pauses, %d seeks, %d messages skipped", h.consumer, len(h.pauses), len(h.seeks), len(h.skips))
		if len(h.pauses) == 0 || len(h.seeks) == 0 || len(h.skips) == 0 {
			t.Errorf("%s was not operated", h.consumer)
		}
	}
	w.evaluate(t, "T29", violations, store)
}
