package chaos

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
)

// newGroupedWorkload returns a workload of many writers to one category, whose writes wait for
// each other and so are sent together.
func newGroupedWorkload(direct, through string, opts ...mdb.StoreOption) *workload {
	w := newWorkload(direct, through, *seedFlag)
	w.categories, w.writers, w.chain = 1, 16, false
	w.options = append(opts, mdb.WithGroupCommit())
	w.subscribe = func(w *workload, category mdb.Category) []*subscriber {
		return []*subscriber{{Name: "category", Category: category, Batch: w.batch}}
	}
	return w
}

// TestCutGroupedWrites checks writes that are sent together, on connections that break before or
// after any message of either side.
func TestCutGroupedWrites(t *testing.T) {
	pgtest.NeedTime(t)
	for name, way := range map[string][]mdb.StoreOption{"procedures": nil, "direct SQL": {mdb.WithDirectSQL()}} {
		t.Run(name, func(t *testing.T) {
			url := database(t)
			p := newProxy(t, url)
			w := newGroupedWorkload(url, p.url(), way...)
			w.messages = scaled(3000, 30_000)
			rng := rand.New(rand.NewPCG(*seedFlag, 31))
			ways := []verdict{{cut, false}, {cut, true}, {reset, false}, {halfClose, false}, {halfClose, true}}
			left := 1
			p.onMessage(func(side, string) verdict {
				if left--; left > 0 {
					return verdict{}
				}
				left = 20 + rng.IntN(200)
				return ways[rng.IntN(len(ways))]
			})
			violations := w.run(t, nil)
			p.onMessage(nil)
			w.evaluate(t, "T31", int(p.injected.Load()), violations)
		})
	}
}

// TestGroupedRestarts checks writes that are sent together while the server is restarted or killed.
func TestGroupedRestarts(t *testing.T) {
	pgtest.NeedTime(t)
	s, url := ownServer(t, pgtest.Setting("max_connections", "60"))
	w := newGroupedWorkload(url, url, mdb.WithDirectSQL(), persistent)
	w.messages = 0
	faults := 0
	violations := w.run(t, func(ctx context.Context) error {
		for range scaled(1, 3) {
			n, err := w.restart(ctx, s, "fast", "kill", "immediate", "kill")
			if faults += n; err != nil {
				return err
			}
		}
		return w.untilAcked(ctx, 200)
	})
	w.evaluate(t, "T31", faults, violations)
}

// TestGroupedOutages checks writes that are sent together, with deadlines, during outages, after
// which the same connections go on.
func TestGroupedOutages(t *testing.T) {
	pgtest.NeedTime(t)
	url := database(t)
	p := newProxy(t, url)
	w := newGroupedWorkload(url, p.url())
	w.messages, w.deadline = 0, 100*time.Millisecond
	violations := w.run(t, func(ctx context.Context) error { return w.outages(ctx, p) })
	w.evaluate(t, "T31", int(p.injected.Load()), violations)
}

// TestGroupedBlackHole checks that writes that are sent together recover when all connections
// become black holes.
func TestGroupedBlackHole(t *testing.T) {
	needsCI(t) // it waits until the silence is noticed
	url := database(t)
	p := newProxy(t, url)
	w := newGroupedWorkload(url, p.url(), mdb.WithDirectSQL())
	w.messages, w.timeout = 20_000, 5*time.Minute
	violations := w.run(t, func(ctx context.Context) error { return w.blackHole(ctx, p) })
	w.evaluate(t, "T31", int(p.injected.Load()), violations)
}
