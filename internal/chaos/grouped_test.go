package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"

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

// TestKilledGroups checks that of the writes of a process of 16 writers, which are sent together, those that were
// acknowledged are there when it is killed, and that each of the others is there as a whole or not at all.
func TestKilledGroups(t *testing.T) {
	pgtest.NeedTime(t)
	for name, direct := range map[string]bool{"procedures": false, "direct SQL": true} {
		t.Run(name, func(t *testing.T) {
			url := database(t)
			w := newGroupedWorkload(url, url)
			w.messages, w.writers = 0, 1
			pool := openPool(t, url, 1)
			defer pool.Close()
			if err := pool.Ping(t.Context()); err != nil { // so that its connection is there before the workload, too
				t.Fatal(err)
			}
			kills, together, interrupted := 0, 0, 0
			violations := w.run(t, func(ctx context.Context) error {
				task := childTask{URL: url, Writers: 16}
				task.Options.Grouped, task.Options.Direct = true, direct
				for n := range 8 {
					task.Writes = append(task.Writes, w.names[0].Stream(fmt.Sprint(n)))
				}
				for ; kills < scaled(10, 100); kills++ {
					ops, err := w.killWriters(ctx, task, 100+w.rng.IntN(300))
					if err != nil {
						return err
					}
					together += writtenTogether(ops)
					for _, o := range ops {
						if o.unknown {
							interrupted++
						}
					}
					store, err := readStore(ctx, pool, []string{string(w.names[0])})
					if err != nil {
						return err
					}
					for _, violation := range torn(ops, store) {
						t.Error(violation)
					}
				}
				return nil
			})
			if together == 0 || interrupted == 0 {
				t.Errorf("%d writes in groups, %d interrupted by the end of the process, want some of both", together, interrupted)
			}
			t.Logf("%d writes in groups, %d interrupted", together, interrupted)
			w.evaluate(t, "T31", kills, violations)
		})
	}
}

// torn returns the writes of which only a part is in the store, or nothing although they were acknowledged.
func torn(ops []*op, store []stored) (violations []string) {
	there := make(map[uuid.UUID]bool)
	for _, m := range store {
		there[m.id] = true
	}
	for _, o := range ops {
		n := 0
		for _, id := range o.ids {
			if there[id] {
				n++
			}
		}
		if n != len(o.ids) && (n > 0 || o.outcome == acked) {
			violations = append(violations, fmt.Sprintf("%s, outcome %d: %d of %d messages are in the store", o.name, o.outcome, n, len(o.ids)))
		}
	}
	return violations
}

// writtenTogether returns how many of the writes have the time of another one, which is that of their transaction.
func writtenTogether(ops []*op) (n int) {
	times := make(map[time.Time]int)
	for _, o := range ops {
		if o.outcome == acked {
			times[o.written[0].Time]++
		}
	}
	for _, writes := range times {
		if writes > 1 {
			n += writes
		}
	}
	return n
}
