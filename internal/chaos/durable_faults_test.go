package chaos

import (
	"context"
	"testing"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestKilledProcesses checks durable consumers of each form whose processes are killed while
// they work.
func TestKilledProcesses(t *testing.T) {
	pgtest.NeedTime(t)
	killedProcesses(t, *seedFlag, scaled(10, 20))
}

// TestKilledProcess checks a killed process of a form of each kind, in the short tests.
func TestKilledProcess(t *testing.T) {
	if !testing.Short() {
		t.Skip("TestKilledProcesses kills more")
	}
	killedProcesses(t, *seedFlag, 2, "Each", "EachQueued")
}

func killedProcesses(t *testing.T, seed uint64, kills int, forms ...string) {
	w := newDurableWork(testdb.Consumers(t), seed)
	if len(forms) > 0 {
		w.forms, w.messages = forms, 100
	}
	violations, store := w.run(t, func(ctx context.Context) error {
		for ; w.faults < kills; w.faults++ {
			h := w.histories[w.faults%len(w.histories)]
			number := w.rng.IntN(w.processes)
			if testing.Short() {
				number = 0
			}
			if err := w.murder(ctx, h, number); err != nil {
				return err
			}
		}
		return nil
	})
	w.evaluate(t, "T21", violations, store)
}

// murder kills a process while it works, and starts another one.
func (w *durableWork) murder(ctx context.Context, h *durableHistory, number int) error {
	p := w.running[h][number]
	if err := w.untilHandled(ctx, p, 1+w.rng.IntN(scaled(20, 200))); err != nil {
		return err
	}
	if err := h.sample(ctx, w.pool, w.category, w.partitions); err != nil {
		return err
	}
	if err := p.kill(); err != nil {
		return err
	}
	<-p.ended
	if err := h.sample(ctx, w.pool, w.category, w.partitions); err != nil {
		return err
	}
	h.unsaved += h.samples[len(h.samples)-1].ahead
	return w.launch(h, number)
}
