package chaos

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestCutConsumers checks a durable consumer of each form whose connection breaks before or
// after each message of its protocol in turn, from a notification to the checkpoint: reads, the
// handler's transaction, heartbeats.
func TestCutConsumers(t *testing.T) {
	pgtest.NeedTime(t)
	for _, form := range forms {
		for name, v := range map[string]verdict{"before": {cut, false}, "after": {cut, true}} {
			t.Run(form+"/"+name, func(t *testing.T) {
				t.Parallel()
				cutConsumer(t, *seedFlag, form, v)
			})
		}
	}
}

func cutConsumer(t *testing.T, seed uint64, form string, v verdict) {
	url := testdb.Consumers(t)
	if err := schema.InstallNotify(context.WithoutCancel(t.Context()), connect(t, url)); err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, url)
	w := newDurableWork(url, seed)
	w.forms, w.processes, w.writers, w.partitions, w.inside, w.notify = []string{form}, 1, 0, 1, true, true
	w.proxies = func(int) string { return p.url() }
	if v.after {
		w.started = 1 // so that a doubled effect is an error
	}
	cuts := make(map[cutPoint]int)
	violations, store := w.run(t, func(ctx context.Context) error {
		s, err := mdb.New(w.pool)
		if err != nil {
			return err
		}
		handle := func() error {
			ms := make([]mdb.ProposedMessage, 3)
			for i := range ms {
				ms[i] = mdb.ProposedMessage{ID: uuid.New(), Type: "Happened"}
			}
			if _, err := s.WriteMessages(ctx, w.category.Stream("1"), ms); err != nil {
				return err
			}
			return w.caughtUp(ctx)
		}
		if err := handle(); err != nil { // which prepares statements
			return err
		}
		stride := scaled(5, 1)
		for nth := 1 + rand.New(rand.NewPCG(seed, 9)).IntN(stride); ; nth += stride {
			var seen int
			var broken atomic.Bool
			p.onMessage(func(from side, message string) verdict {
				if seen++; seen != nth {
					return verdict{}
				}
				broken.Store(true)
				cuts[cutPoint{from: from, message: message}]++
				return v
			})
			err := handle()
			p.onMessage(nil)
			if err != nil || !broken.Load() {
				return err
			}
			w.faults++
		}
	})
	t.Logf("%d cuts: %v", w.faults, cuts)
	if least := 20 / scaled(5, 1); w.faults < least {
		t.Errorf("%d cuts, want at least %d", w.faults, least)
	}
	w.evaluate(t, "T22", violations, store)
}
