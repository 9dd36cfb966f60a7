package ledger

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// resizeWalk is a member whose handler has a message after the barrier, one that has nothing, and an operator who changes the
// number of partitions by a barrier.
type resizeWalk struct {
	*stage
	name  string
	from  int // partitions
	to    int
	a, b  *resized
	done  int  // changes
	gone  bool // the process of a does nothing more
	fault string
}

// A resized is a member that does what the client does when the number of partitions changes.
type resized struct {
	Member
	handles  bool // a handler has a message, of any partition
	resizing bool // and was called for another number of partitions
	held     Held
}

func (w *resizeWalk) ticks(m *resized, answered bool) program {
	return program{func(ctx context.Context, conn *pgx.Conn) error {
		t, err := Beat(ctx, conn, m.Member, "", nil)
		if err == nil && answered && t.Alive && (t.Partitions != m.Partitions || t.Layout != m.Layout) {
			m.Partitions, m.Layout, m.resizing, m.held = t.Partitions, t.Layout, m.handles, Held{}
		}
		return err
	}}
}

func (w *resizeWalk) balances(m *resized) program {
	return program{func(ctx context.Context, conn *pgx.Conn) error {
		if m.resizing = m.resizing && m.handles; m.resizing {
			return nil
		}
		_, held, err := Rebalance(ctx, conn, m.Member)
		switch {
		case IsGone(err), isCode(err, Partitions):
			return nil
		case err != nil:
			return err
		}
		m.held = held
		if m == w.b && len(held.Rows) > 0 && w.a.handles {
			var alive bool
			if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM message_store_consumers.members WHERE id = $1)", pgUUID(w.a.ID)).Scan(&alive); err != nil {
				return err
			}
			if alive {
				w.fault = fmt.Sprintf("%d partitions are claimed while a handler of another member runs that was called for other partitions", len(held.Rows))
			}
		}
		return nil
	}}
}

func (w *resizeWalk) returns(m *resized) program {
	return program{func(context.Context, *pgx.Conn) error { m.handles = false; return nil }}
}

// sets sets a barrier. The second call knows that it is committed.
func (s *stage) sets(name string, partitions int) {
	s.t.Helper()
	for range 2 {
		s.exec("SELECT message_store_consumers.resize($1, $2, '1 hour')", name, partitions)
	}
}

func (w *resizeWalk) resizes(to int) program {
	return program{func(ctx context.Context, conn *pgx.Conn) error {
		r, err := Resize(ctx, conn, w.name, to, time.Hour)
		if err == nil && r.Done {
			w.done++
		}
		return err
	}}
}

func join(ps ...program) (all program) {
	for _, p := range ps {
		all = append(all, p...)
	}
	return all
}

// resizeCases returns what the member with the message does. It has ticked since the barrier was set.
func resizeCases() map[string]func(w *resizeWalk) program {
	return map[string]func(w *resizeWalk) program{
		"it goes on": func(w *resizeWalk) program {
			lost := w.ticks(w.a, false)
			looks := join(w.ticks(w.a, true), w.balances(w.a))
			return join(lost, lost, lost, lost, looks, looks, w.returns(w.a), looks)
		},
		"it leaves": func(w *resizeWalk) program {
			leave := func(ctx context.Context, conn *pgx.Conn) error { return Leave(ctx, conn, w.a.Member, nil) }
			return join(w.ticks(w.a, true), w.balances(w.a), w.returns(w.a), program{leave})
		},
		"it is stopped": func(w *resizeWalk) program {
			w.gone = true
			return join(w.ticks(w.a, false), w.balances(w.a), program{sql(endLease, w.a.ID.String())})
		},
	}
}

func (w *resizeWalk) run(does func(w *resizeWalk) program) func(choose func(of int) int) bool {
	return func(choose func(of int) int) bool {
		start := int64(0)
		w.name, w.done, w.gone, w.fault = "resize "+uuid.NewString(), 0, false, ""
		begins := func() *resized {
			m := &resized{Member: w.enter(w.name, "", w.from, &start, "a")}
			m.Partitions = w.from
			return m
		}
		w.a = begins()
		w.a.held, w.a.handles = w.balance(w.a.Member), true
		w.b = begins()
		w.sets(w.name, w.to)
		for _, m := range []*resized{w.a, w.b} {
			if _, err := Beat(w.t.Context(), w.observer, m.Member, "", nil); err != nil {
				w.t.Fatal(err)
			}
		}
		looks := join(w.ticks(w.b, true), w.balances(w.b))
		back := w.resizes(w.from) // as soon as both have ticked
		sets := program{func(ctx context.Context, conn *pgx.Conn) error {
			return errors.Join(back[0](ctx, conn), back[0](ctx, conn))
		}}
		w.walk([]program{does(w), join(looks, looks, looks), join(w.resizes(w.to), sets, back, back)}, choose)
		for _, a := range w.actors {
			if a.err != nil {
				w.fault = a.err.Error()
			}
		}
		w.heals()
		return w.fault == ""
	}
}

// heals checks that nobody waits for ever.
func (w *resizeWalk) heals() {
	w.a.handles = false
	for range 4 {
		for _, m := range []*resized{w.b, w.a} {
			if m == w.a && w.gone {
				continue
			}
			for _, step := range join(w.ticks(m, true), w.balances(m)) {
				if err := step(w.t.Context(), w.observer); err != nil {
					w.fault = err.Error()
					return
				}
			}
		}
	}
	if free := w.count(`SELECT count(*) FROM message_store_consumers.checkpoints AS c WHERE c.consumer = $1
		AND NOT EXISTS (SELECT FROM message_store_consumers.members AS m WHERE m.id = c.member)`, w.a.Consumer); free > 0 {
		w.fault = fmt.Sprintf("%d partitions are free for ever", free)
	}
}

// resizeFirst is the first random order, shortly before one that shows the rarest mutant.
const resizeFirst = 485

// TestWalkResize checks in the orders of [stage.orders] that after a change by a barrier, also if the number is changed back before the member has seen
// that, nobody claims a partition while another member has a message of one. The barrier does not keep handlers from running that were called
// before, and the key of such a message is in another member's partition then. It also checks that nobody waits for ever. There are too many
// orders to walk all.
func TestWalkResize(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		does     string
		from, to int
	}{{"it goes on", 4, 3}, {"it goes on", 4, 2}, {"it goes on", 3, 5}, {"it leaves", 4, 3}, {"it is stopped", 4, 3}} {
		t.Run(fmt.Sprintf("%s, %d to %d", test.does, test.from, test.to), func(t *testing.T) {
			t.Parallel()
			w := &resizeWalk{stage: newStage(t, walkDatabase(t, ""), 3, pgx.ReadCommitted), from: test.from, to: test.to}
			w.first = resizeFirst
			twice := 0
			n := w.orders(0, func(choose func(of int) int) bool {
				ok := w.run(resizeCases()[test.does])(choose)
				if w.done > 1 {
					twice++
				}
				return ok
			})
			if w.fault != "" {
				t.Errorf("order %d: %s", n, w.fault)
			}
			t.Logf("%d orders, the number is changed back in %d", n, twice)
		})
	}
}

// TestWalkResizeMutants checks that TestWalkResize can fail.
func TestWalkResizeMutants(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for _, test := range []struct {
		name, walk string
		changes    []change
	}{
		{"balance does not look at the other members' layouts", "it goes on", []change{{" AND free IS NOT NULL AND ready THEN", " AND free IS NOT NULL THEN", 1}}},
		{"the layout is the number of partitions", "it goes on", []change{
			{"layout     bigint NOT NULL DEFAULT 0,", "layout     bigint NOT NULL DEFAULT 4,", 1},
			{"ELSE fresh END,\n", "ELSE $2 END,\n", 1},
		}},
		{"members confirm a layout when they tick", "it goes on", []change{{
			"AS m SET info = coalesce($4, m.info),",
			"AS m SET layout = (SELECT c.layout FROM message_store_consumers.consumers AS c WHERE c.id = m.consumer), info = coalesce($4, m.info),", 1,
		}}},
		{"a dead member is waited for", "it is stopped", []change{{
			"  WHERE m.consumer = $1 AND m.id <> $2 AND m.seen <", "  WHERE m.consumer = $1 AND m.id <> $2 AND m.layout = current AND m.seen <", 1,
		}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := &resizeWalk{stage: newStage(t, walkDatabase(t, test.name, test.changes...), 3, pgx.ReadCommitted), from: 4, to: 3}
			w.first = resizeFirst
			n := w.orders(0, w.run(resizeCases()[test.walk]))
			if w.fault == "" {
				t.Errorf("none of %d orders fails, want the mutant to be caught", n)
			}
			t.Logf("order %d: %s", n, w.fault)
		})
	}
}

// TestWalkBarrier checks in every order that a resize is done only after the last tick of the member has returned the barrier: also if it ticks
// between the statement that sets the barrier and its COMMIT.
func TestWalkBarrier(t *testing.T) {
	t.Parallel()
	s := newBarrierStage(t, "")
	done := 0
	n := allOrders(func(choose func(of int) int) bool {
		isDone, fault := s.barrier(choose)
		if fault != "" {
			t.Error(fault)
		}
		if isDone {
			done++
		}
		return fault == ""
	})
	t.Logf("%d orders, the resize is done in %d", n, done)
	if done == 0 || done == n {
		t.Errorf("the resize is done in %d of %d orders, want some of them", done, n)
	}
}

// TestWalkBarrierMutants checks that TestWalkBarrier can fail.
func TestWalkBarrierMutants(t *testing.T) {
	t.Parallel()
	s := newBarrierStage(t, "barrier that is known before it is committed", change{
		"WHEN former = resize.barrier THEN coalesce(since, pg_catalog.clock_timestamp()) END",
		"WHEN former = resize.barrier THEN since ELSE pg_catalog.clock_timestamp() END", 1,
	})
	caught := ""
	n := allOrders(func(choose func(of int) int) bool {
		_, caught = s.barrier(choose)
		return caught == ""
	})
	if caught == "" {
		t.Errorf("none of %d orders fails, want the mutant to be caught", n)
	}
}

// newBarrierStage returns sessions that pause only between statements.
func newBarrierStage(t testing.TB, key string, changes ...change) *stage {
	t.Helper()
	url := consumersDatabase(t, "unpaused "+key, func() string { return consumersSQL(t, changes...) })
	return newStage(t, url, 2, pgx.ReadCommitted)
}

// barrier runs a resize by a barrier, for which no checkpoint has to move, and a member that ticks.
func (s *stage) barrier(choose func(of int) int) (done bool, fault string) {
	w := &resizeWalk{stage: s, name: "barrier " + uuid.NewString()}
	m := w.enter(w.name, "", 4, new(int64), "a")
	var last Tick
	tick := func(ctx context.Context, conn *pgx.Conn) (err error) {
		last, err = Beat(ctx, conn, m, "", nil)
		return err
	}
	resizes := func(ctx context.Context, conn *pgx.Conn) error {
		knew := last.Barrier != nil
		r, err := Resize(ctx, conn, w.name, 3, time.Hour)
		if r.Done && !done && !knew {
			fault = "the resize is done although the member's last tick has not returned the barrier"
		}
		done = done || r.Done
		return err
	}
	step := program{sql("BEGIN"), resizes, sql("COMMIT")}
	w.walk([]program{join(step, step, step), {tick, tick, tick}}, choose)
	for _, a := range s.actors {
		if a.err != nil {
			fault = a.err.Error()
		}
	}
	return done, fault
}
