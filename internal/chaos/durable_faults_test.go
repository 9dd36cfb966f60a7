package chaos

import (
	"context"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestKilledProcesses checks durable consumers of each form whose processes are killed while
// they work.
func TestKilledProcesses(t *testing.T) {
	pgtest.NeedTime(t)
	killedProcesses(t, *seedFlag, scaled(10, 20), time.Time{})
}

// TestKilledProcess checks a killed process of a form of each kind, in the short tests.
func TestKilledProcess(t *testing.T) {
	if !testing.Short() {
		t.Skip("TestKilledProcesses kills more")
	}
	killedProcesses(t, *seedFlag, 2, time.Time{}, "Each", "EachQueued")
}

func killedProcesses(t *testing.T, seed uint64, kills int, until time.Time, forms ...string) {
	w := newDurableWork(testdb.Consumers(t), seed)
	w.injectTo = until
	if len(forms) > 0 {
		w.forms, w.messages = forms, 100
	}
	violations, store := w.run(t, func(ctx context.Context) error {
		for ; w.goesOn(kills); w.faults++ {
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
	if err := w.untilHandled(ctx, p, 1+w.rng.IntN(w.busy)); err != nil {
		return err
	}
	return w.kill(ctx, h, number)
}

// kill kills a process, and starts another one.
func (w *durableWork) kill(ctx context.Context, h *durableHistory, number int) error {
	p := w.running[h][number]
	if err := h.sample(ctx, w.pool, w.category); err != nil {
		return err
	}
	if err := p.kill(); err != nil {
		return err
	}
	<-p.ended
	w.kills++
	if h.killed == nil {
		h.killed = make(map[int]bool)
	}
	h.killed[p.task.Process] = true
	if err := h.sample(ctx, w.pool, w.category); err != nil {
		return err
	}
	return w.launch(h, number)
}

// TestSilentProcesses checks durable consumers of each form while the connections of one of
// their two processes become black holes, so that it can neither renew its lease nor learn
// that it was lost.
func TestSilentProcesses(t *testing.T) {
	pgtest.NeedTime(t)
	silentProcesses(t, *seedFlag, scaled(1, 3), time.Time{})
}

func silentProcesses(t *testing.T, seed uint64, times int, until time.Time) {
	url := testdb.Consumers(t)
	p := newProxy(t, url)
	w := newDurableWork(url, seed)
	w.injectTo, w.pause = until, 25*time.Millisecond // leases have to end
	w.proxies = func(number int) string {
		if number == 0 {
			return p.url()
		}
		return url
	}
	violations, store := w.run(t, func(ctx context.Context) error {
		for ; w.goesOn(times); w.faults++ {
			// Before, both have partitions, and afterwards the silent one gets some again.
			for _, h := range w.histories {
				if err := w.untilMore(ctx, w.running[h]...); err != nil {
					return err
				}
			}
			if err := w.sample(ctx); err != nil {
				return err
			}
			p.blackHoleAll()
		}
		for _, h := range w.histories {
			if err := w.untilMore(ctx, w.running[h]...); err != nil {
				return err
			}
		}
		return nil
	})
	w.faults = int(p.injected.Load())
	w.evaluate(t, "T23", violations, store)
}

// TestProcessesOutliveRestarts checks durable consumers of each form while the server is
// restarted in each mode, or killed.
func TestProcessesOutliveRestarts(t *testing.T) {
	pgtest.NeedTime(t)
	processesOutliveRestarts(t, *seedFlag, scaled(3, 6), time.Time{})
}

func processesOutliveRestarts(t *testing.T, seed uint64, restarts int, until time.Time) {
	s, url := ownServer(t, pgtest.Setting("max_connections", "200"))
	if err := schema.InstallConsumers(t.Context(), connect(t, url)); err != nil {
		t.Fatal(err)
	}
	w := newDurableWork(url, seed)
	w.injectTo = until
	violations, store := w.run(t, func(ctx context.Context) error {
		for w.goesOn(restarts) {
			for _, mode := range []string{"fast", "immediate", "kill"} {
				for _, h := range w.histories {
					if err := w.untilMore(ctx, w.running[h]...); err != nil {
						return err
					}
				}
				if err := s.Restart(mode); err != nil {
					return err
				}
				w.faults++
			}
		}
		return nil
	})
	w.evaluate(t, "T23", violations, store)
}
