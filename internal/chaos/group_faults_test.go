package chaos

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestChangingGroups checks consumers whose processes join, leave, are replaced and are killed all the time.
func TestChangingGroups(t *testing.T) {
	pgtest.NeedTime(t)
	t.Parallel()
	changingGroups(t, *seedFlag, scaled(12, 30), scaled(100*time.Millisecond, 250*time.Millisecond), time.Time{})
}

func changingGroups(t *testing.T, seed uint64, changes int, mean time.Duration, until time.Time) {
	w := newGroupWork(testdb.Consumers(t), seed)
	w.injectTo, w.timeout = until, max(w.timeout, time.Duration(changes)*(mean+time.Second)+testTimeout)
	violations, store := w.run(t, func(ctx context.Context) error {
		for ; w.goesOn(changes); w.faults++ {
			if err := sleepAbout(ctx, w.rng, mean); err != nil {
				return err
			}
			h := w.histories[w.faults%len(w.histories)]
			if err := errors.Join(w.change(ctx, h), w.sample(ctx)); err != nil {
				return err
			}
		}
		return nil
	})
	w.evaluate(t, "T24", violations, store)
}

// change lets a process of a consumer join, leave, be replaced or be killed.
func (w *durableWork) change(ctx context.Context, h *durableHistory) error {
	n := len(w.running[h])
	switch what := w.rng.IntN(7); {
	case what < 2 && n < mostProcesses || n < 4:
		return w.join(h)
	case what < 4 && n > 4:
		return w.leave(ctx, h)
	case what < 5 && exactlyOnce(h.form): // others may handle messages twice, until the older process has noticed
		return w.replace(ctx, h)
	}
	return w.murder(ctx, h, w.rng.IntN(n))
}

// TestFrozenGroups checks consumers whose processes are stopped for some time, often for longer than their lease, as by a frozen
// machine. Others take over, and what the process does after that is rejected, or not done at all.
func TestFrozenGroups(t *testing.T) {
	pgtest.NeedTime(t)
	t.Parallel()
	frozenGroups(t, *seedFlag, scaled(2, 5), scaled(3*time.Second, 4*time.Second), time.Time{})
}

func frozenGroups(t *testing.T, seed uint64, freezes int, longest time.Duration, until time.Time) {
	w := newGroupWork(testdb.Consumers(t), seed)
	w.injectTo, w.timeout = until, max(w.timeout, time.Duration(freezes)*longest+testTimeout)
	violations, store := w.run(t, func(ctx context.Context) error {
		for ; w.goesOn(freezes); w.faults++ {
			h := w.histories[w.faults%len(w.histories)]
			p := w.running[h][w.rng.IntN(len(w.running[h]))]
			if err := w.freeze(ctx, h, p, time.Second+time.Duration(w.rng.Int64N(int64(longest)))); err != nil {
				return err
			}
			if err := w.untilMore(ctx, p); err != nil { // it takes part again
				return err
			}
		}
		return nil
	})
	w.evaluate(t, "T25", violations, store)
}

// TestGroupOutages checks consumers of several processes while connections of some become black holes, the server ends sessions, and
// restarts in each mode.
func TestGroupOutages(t *testing.T) {
	pgtest.NeedTime(t)
	groupOutages(t, *seedFlag, 4, time.Time{})
}

func groupOutages(t *testing.T, seed uint64, outages int, until time.Time) {
	s, url := ownServer(t, pgtest.Setting("max_connections", "200"))
	if err := schema.InstallConsumers(t.Context(), connect(t, url)); err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, url)
	w := newGroupWork(url, seed)
	w.injectTo, w.processes, w.pause = until, 6, 25*time.Millisecond // leases have to end
	w.proxies = func(number int) string {
		if number%2 == 0 {
			return p.url()
		}
		return url
	}
	violations, store := w.run(t, func(ctx context.Context) error {
		for w.goesOn(outages) {
			for _, fault := range []func() error{
				func() error { p.blackHoleAll(); return nil },
				func() error { p.cutAll(); return nil },
				func() error { return s.Restart("fast") },
				func() error { return s.Restart("immediate") },
			} {
				for _, h := range w.histories {
					if err := w.untilMore(ctx, w.running[h]...); err != nil {
						return err
					}
				}
				_ = w.sample(ctx)
				if err := fault(); err != nil {
					return err
				}
				w.faults++
			}
		}
		return nil
	})
	w.evaluate(t, "T23", violations, store)
}

// TestPooledGroups checks consumers of several processes, each with one connection and that of its heartbeats, through PgBouncer in
// transaction mode, whose connections to the server are cut.
func TestPooledGroups(t *testing.T) {
	needsCI(t) // and make test does not require PgBouncer
	for _, b := range pgBouncers(t) {
		t.Run(b.Version, func(t *testing.T) { pooledGroups(t, *seedFlag, b, 20, time.Time{}) })
	}
}

func pooledGroups(t *testing.T, seed uint64, b pgtest.PgBouncer, cuts int, until time.Time) {
	s, direct := ownServer(t)
	admin := connect(t, direct)
	if err := schema.InstallConsumers(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	if _, err := schema.PinSearchPath(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, s.URL("postgres"))
	through := b.Start(t, p.url(), "transaction")
	w := newGroupWork(direct, seed)
	w.injectTo, w.pooled, w.conns = until, true, 1
	w.proxies = func(int) string { return through }
	violations, store := w.run(t, func(ctx context.Context) error {
		for ; w.goesOn(cuts); w.faults++ {
			if err := sleepAbout(ctx, w.rng, 200*time.Millisecond); err != nil {
				return err
			}
			p.cutAll()
			if w.faults%5 == 0 {
				h := w.histories[w.rng.IntN(len(w.histories))]
				if err := w.murder(ctx, h, w.rng.IntN(len(w.running[h]))); err != nil {
					return err
				}
			}
		}
		return nil
	})
	w.evaluate(t, "T26", violations, store)
}

// TestPoisonedGroups checks consumers one in twenty of whose messages fails, and which park some streams and replay them later, while
// processes are killed, beside a transaction that is open all the time.
func TestPoisonedGroups(t *testing.T) {
	pgtest.NeedTime(t)
	t.Parallel()
	poisonedGroups(t, *seedFlag, scaled(2, 10), time.Time{})
}

func poisonedGroups(t *testing.T, seed uint64, kills int, until time.Time) {
	url := testdb.Consumers(t)
	w := newGroupWork(url, seed)
	w.streams, w.poisoned, w.injectTo = 2000, 2, until
	long := connect(t, url)
	violations, store := w.run(t, func(ctx context.Context) error {
		tx, err := long.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
		if _, err := tx.Exec(ctx, "SELECT FROM message_store_consumers.checkpoints"); err != nil {
			return err
		}
		if err := w.until(ctx, "SELECT count(DISTINCT consumer) = $1 FROM message_store_consumers.parked", len(w.histories)); err != nil {
			return err
		}
		for ; w.goesOn(kills); w.faults++ {
			h := w.histories[w.faults%len(w.histories)]
			if err := errors.Join(w.replay(ctx), w.murder(ctx, h, w.rng.IntN(len(w.running[h])))); err != nil {
				return err
			}
		}
		return nil
	})
	for _, h := range w.histories {
		replayed := 0
		for i := range h.effects {
			if h.effects[i].replayed {
				replayed++
			}
		}
		t.Logf("%s: %d effects are of replays", h.consumer, replayed)
		if replayed == 0 {
			t.Errorf("%s has replayed nothing", h.consumer)
		}
	}
	w.evaluate(t, "T27", violations, store)
}
