package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// A waiter is a subscription that waits for messages in one of the ways.
type waiter struct {
	name, short string
	option      mdb.StoreOption

	store *mdb.Store
	meter meter
}

// compare writes a message now and then, which three subscriptions wait for.
func (s *show) compare(ctx context.Context, length time.Duration) (string, error) {
	waiters := []*waiter{
		{name: "NOTIFY", short: "NOTIFY", option: mdb.WithNotify()},
		{name: "polling, 10 ms to 1 s (default)", short: "polling", option: mdb.WithPolling(poll.Backoff(10*time.Millisecond, time.Second, 2))},
		{name: "polling, every 10 ms", short: "every 10 ms:", option: mdb.WithPolling(poll.Constant(10 * time.Millisecond))},
	}
	failed := make(chan error, len(waiters))
	start, stop := background(ctx, func(err error) { failed <- err })
	defer stop()
	for _, w := range waiters {
		var err error
		if w.store, err = s.db.open(ctx, w.option); err != nil {
			return "", err
		}
		start(func(ctx context.Context) error { return w.wait(ctx, s.db.ticks()) })
	}

	begin := time.Now()
	s.board.show(func() []string {
		lines := []string{fmt.Sprintf("%-32s %9s %9s %15s", "a message now and then, received by", "p50", "worst", "reads a second")}
		for _, w := range waiters {
			lines = append(lines, w.line(time.Since(begin)))
		}
		return lines
	})
	for time.Since(begin) < length {
		pause(ctx, length/20+time.Duration(rand.Int64N(int64(length/10))))
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		m := mdb.NewMessage("Ticked", nil)
		m.Metadata = Origin{WrittenAt: time.Now().UnixMicro()}
		if _, err := s.bank.store.WriteMessage(ctx, s.db.ticks().Stream("1"), m); err != nil {
			return "", err
		}
		select {
		case err := <-failed:
			return "", err
		default:
		}
	}
	outcomes := make([]string, len(waiters))
	for i, w := range waiters {
		outcomes[i] = fmt.Sprintf("%s %s, %s/s", w.short, latency(w.meter.figures(keep).P50), w.reads(time.Since(begin)))
	}
	return strings.Replace(strings.Join(outcomes, "; "), "/s", " reads/s", 1), nil
}

func (w *waiter) wait(ctx context.Context, category mdb.Category) error {
	defer w.store.Pool().Close()
	err := w.store.SubscribeToCategory(ctx, category, func(_ context.Context, m mdb.Message) error {
		took, err := age(m)
		if err != nil {
			return err
		}
		w.meter.record(took)
		return nil
	})
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (w *waiter) line(elapsed time.Duration) string {
	f := w.meter.figures(keep)
	return fmt.Sprintf("%-32s %9s %9s %15s", w.name, latency(f.P50), latency(f.Max), w.reads(elapsed))
}

func (w *waiter) reads(elapsed time.Duration) string {
	return fmt.Sprintf("%.0f", float64(w.store.NotifyStats().Reads)/elapsed.Seconds())
}
