package chaos

import (
	"context"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestPromotedGroups checks consumers of several processes, of which some are killed around it, while the primary is killed and its
// standby promoted, with all that was committed and without the last transactions in turn.
func TestPromotedGroups(t *testing.T) {
	pgtest.NeedTime(t)
	t.Parallel()
	promotedGroups(t, *seedFlag, scaled(1, 2), time.Time{})
}

func promotedGroups(t *testing.T, seed uint64, promotions int, until time.Time) {
	x := newPromotions(t)
	w := newGroupWork(x.relay.URL("postgres"), seed)
	w.injectTo = until
	violations, store := w.run(t, func(ctx context.Context) error {
		for ; w.goesOn(promotions); w.faults++ {
			if err := x.promote(ctx, t, w, w.faults%2 == 1); err != nil {
				return err
			}
		}
		return nil
	})
	w.evaluate(t, "T30", violations, store)
}

// A promotions is a primary and its standby, which takes its place again and again.
type promotions struct {
	*pgtest.Pair

	relay *pgtest.Relay // leads to the primary
}

func newPromotions(t *testing.T) *promotions {
	t.Helper()
	x := &promotions{Pair: testdb.Pair(t, pgtest.Setting("max_connections", "200"))}
	x.relay = pgtest.NewRelay(t, x.Primary)
	if err := schema.InstallConsumers(t.Context(), connect(t, x.relay.URL("postgres"))); err != nil {
		t.Fatal(err)
	}
	return x
}

// promote promotes the standby after the primary has failed, and gives it a standby of its own. Without the tail, the standby has
// nothing of what each process has done last.
func (x *promotions) promote(ctx context.Context, t *testing.T, w *durableWork, tail bool) error {
	t.Helper()
	murders := func() error {
		for _, h := range w.histories {
			if err := w.kill(ctx, h, w.rng.IntN(len(w.running[h]))); err != nil {
				return err
			}
		}
		return nil
	}
	x.Synchronous(t, tail)
	if !tail {
		x.Hold(t)
	}
	for _, h := range w.histories {
		if err := w.untilMore(ctx, w.running[h]...); err != nil {
			return err
		}
	}
	if err := murders(); err != nil {
		return err
	}
	if err := x.Primary.Kill(); err != nil {
		return err
	}
	x.Promote(t)
	for _, h := range w.histories {
		// Heartbeats do not wait for the standby, so what they have stored may be lost with the tail, too.
		h.samples, h.looked = nil, 0
	}
	x.relay.Switch(x.Standby)
	w.pool.Reset()
	x.Pair = &pgtest.Pair{Primary: x.Standby, Standby: pgtest.Follow(t, x.Standby)}
	for _, h := range w.histories {
		if err := w.untilMore(ctx, w.running[h]...); err != nil {
			return err
		}
	}
	// Others continue with what those had begun that had survived the promotion.
	if err := murders(); err != nil {
		return err
	}
	return w.sample(ctx)
}
