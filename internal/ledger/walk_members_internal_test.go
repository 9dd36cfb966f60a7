package ledger

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// membersWalk is members that come, go, tick and balance at the same time.
type membersWalk struct {
	*stage
	name  string
	held  map[uuid.UUID]Held // what each member has read last, if it may still have it
	fault string
}

const membersPartitions = 3

func (w *membersWalk) begin() {
	w.name = "members " + uuid.NewString()
	w.held = map[uuid.UUID]Held{}
	w.fault = ""
}

func (w *membersWalk) starts(instance string) Member {
	start := int64(0)
	return w.enter(w.name, instance, membersPartitions, &start, "a", "b")
}

// An act is a program of one member.
func (w *membersWalk) balances(m Member) program {
	return program{func(ctx context.Context, conn *pgx.Conn) error {
		_, held, err := Rebalance(ctx, conn, m)
		if err == nil {
			w.held[m.ID] = held
		}
		if IsGone(err) {
			return nil
		}
		return err
	}}
}

func (w *membersWalk) joins(m Member, categories ...string) program {
	start := int64(0)
	join := func(ctx context.Context, conn *pgx.Conn) error {
		_, err := Join(ctx, conn, joinParams(m, w.name, membersPartitions, &start, append(categories, "a", "b")...))
		return err
	}
	return append(program{join}, w.balances(m)...)
}

func (w *membersWalk) releases(m Member, held Held) program {
	return program{func(ctx context.Context, conn *pgx.Conn) error {
		delete(w.held, m.ID)
		_, err := Release(ctx, conn, m, movesTo(held.Rows[:2], 5))
		return err
	}}
}

func (w *membersWalk) leaves(m Member, held Held) program {
	return program{func(ctx context.Context, conn *pgx.Conn) error {
		delete(w.held, m.ID)
		return Leave(ctx, conn, m, movesTo(held.Rows, 5))
	}}
}

func (w *membersWalk) ticks(m Member, held Held) program {
	return program{func(ctx context.Context, conn *pgx.Conn) error {
		_, err := Beat(ctx, conn, m, "", movesTo(held.Rows, 5))
		return err
	}}
}

func movesTo(rows []Row, to int64) (moves []Move) {
	for _, r := range rows {
		moves = append(moves, Move{Partition: r.Partition, Epoch: r.Epoch, From: r.Position, To: to})
	}
	return moves
}

// check checks that nobody was robbed, and that everything is owned after the members that are
// left have balanced.
func (w *membersWalk) check(consumer int64) {
	for _, a := range w.actors {
		if a.err != nil {
			w.fault = a.err.Error()
			return
		}
	}
	for id, held := range w.held {
		if w.count("SELECT count(*) FROM message_store_consumers.members WHERE id = $1", id.String()) == 0 {
			continue
		}
		for _, r := range held.Rows {
			if w.count("SELECT count(*) FROM message_store_consumers.checkpoints WHERE consumer = $1 AND category = $2 AND partition = $3 AND member = $4 AND epoch = $5",
				consumer, r.Category, r.Number, id.String(), r.Epoch) == 0 {
				w.fault = fmt.Sprintf("a member that lives was robbed of partition %d of category %s", r.Number, r.Category)
				return
			}
		}
	}
	rows, _ := w.observer.Query(w.t.Context(), "SELECT id FROM message_store_consumers.members WHERE consumer = $1 ORDER BY id", consumer)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
	if err != nil {
		w.t.Fatal(err)
	}
	for range 3 {
		for _, id := range ids {
			m := Member{Consumer: consumer, ID: id}
			b, held, err := Rebalance(w.t.Context(), w.observer, m)
			if err != nil {
				w.fault = err.Error()
				return
			}
			for b.Held > b.Quota && len(held.Rows) > 0 {
				number := held.Rows[0].Number
				var surplus []Row
				for len(held.Rows) > 0 && held.Rows[0].Number == number {
					surplus, held.Rows = append(surplus, held.Rows[0]), held.Rows[1:]
				}
				released, err := Release(w.t.Context(), w.observer, m, movesTo(surplus, surplus[0].Position))
				if err != nil || len(released) == 0 {
					w.fault = fmt.Sprintf("release: %v, %v", released, err)
				}
				b.Held--
			}
		}
	}
	if free := w.count(`SELECT count(*) FROM message_store_consumers.checkpoints AS c WHERE c.consumer = $1
		AND NOT EXISTS (SELECT FROM message_store_consumers.members AS m WHERE m.id = c.member)`, consumer); free > 0 && len(ids) > 0 {
		w.fault = fmt.Sprintf("%d checkpoints are free for ever", free)
	}
	if split := w.count(`SELECT count(*) FROM (SELECT FROM message_store_consumers.checkpoints WHERE consumer = $1
		GROUP BY partition HAVING count(DISTINCT member) > 1) AS s`, consumer); split > 0 && len(ids) > 0 {
		w.fault = fmt.Sprintf("%d partitions have two owners", split)
	}
	if n := w.count("SELECT count(*) FROM message_store_consumers.consumers WHERE name = $1", w.name); n != 1 {
		w.fault = fmt.Sprintf("%d consumers", n)
	}
}

// memberships returns the walks: each has a start, and programs of two or three members.
func memberships() map[string]func(w *membersWalk) (consumer int64, programs []program) {
	newcomer := func(like Member, instance string) Member {
		return Member{Consumer: like.Consumer, ID: uuid.New(), Instance: instance}
	}
	return map[string]func(w *membersWalk) (int64, []program){
		"one leaves, one balances, one joins": func(w *membersWalk) (int64, []program) {
			a, b := w.starts(""), w.starts("")
			held := w.balance(a)
			return a.Consumer, []program{w.leaves(a, held), w.balances(b), w.joins(newcomer(a, ""))}
		},
		"one releases, one balances, one joins": func(w *membersWalk) (int64, []program) {
			a := w.starts("")
			held := w.balance(a)
			b := w.starts("")
			return a.Consumer, []program{w.releases(a, held), w.balances(b), w.joins(newcomer(a, ""))}
		},
		"one ticks after its lease, one balances": func(w *membersWalk) (int64, []program) {
			a := w.starts("")
			held := w.balance(a)
			b := w.starts("")
			w.dies(a)
			return a.Consumer, []program{w.ticks(a, held), w.balances(b)}
		},
		"one ticks, one balances, its instance joins again": func(w *membersWalk) (int64, []program) {
			a := w.starts("pod")
			held := w.balance(a)
			b := w.starts("")
			return a.Consumer, []program{w.ticks(a, held), w.balances(b), w.joins(newcomer(a, "pod"))}
		},
		"two balance after the death of one": func(w *membersWalk) (int64, []program) {
			a := w.starts("")
			w.balance(a)
			b, c := w.starts(""), w.starts("")
			w.dies(a)
			return a.Consumer, []program{w.balances(b), w.balances(c)}
		},
		"one adds a category, two balance": func(w *membersWalk) (int64, []program) {
			a := w.starts("")
			w.held[a.ID] = w.balance(a)
			b := w.starts("")
			return a.Consumer, []program{w.joins(newcomer(a, ""), "c"), w.balances(b), w.balances(a)}
		},
	}
}

func (w *membersWalk) run(start func(*membersWalk) (int64, []program)) func(choose func(of int) int) bool {
	return func(choose func(of int) int) bool {
		w.begin()
		consumer, programs := start(w)
		for len(programs) < len(w.actors) {
			programs = append(programs, nil)
		}
		w.walk(programs, choose)
		w.check(consumer)
		return w.fault == ""
	}
}

// TestWalkMembers checks that in the orders of [stage.orders] in which members come, go, tick and balance, no
// living member is robbed, no partition has two owners, and none is free for ever. There are too many orders to walk all.
func TestWalkMembers(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for name, start := range memberships() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &membersWalk{stage: newStage(t, walkDatabase(t, ""), 3, pgx.ReadCommitted)}
			n := w.orders(1, w.run(start))
			if w.fault != "" {
				t.Errorf("order %d: %s", n, w.fault)
			}
			t.Logf("%d orders", n)
		})
	}
}

// TestWalkMembersMutants checks that TestWalkMembers can fail.
func TestWalkMembersMutants(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	mutex := change{"c.id = $1 FOR NO KEY UPDATE", "c.id = $1", 3}
	for _, test := range []struct {
		name    string
		walk    string // that catches it
		changes []change
	}{
		{"balance, release and leave do without the mutex", "one leaves, one balances, one joins", []change{mutex}},
		{"a partition is free if one of its rows is", "one adds a category, two balance", []change{
			{"n.position, o.member,", "n.position, NULL,", 1},
			{"HAVING pg_catalog.count(m.id) = 0", "HAVING pg_catalog.count(m.id) < pg_catalog.count(*)", 1},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := &membersWalk{stage: newStage(t, walkDatabase(t, test.name, test.changes...), 3, pgx.ReadCommitted)}
			if n := w.orders(1, w.run(memberships()[test.walk])); w.fault != "" {
				t.Logf("order %d: %s", n, w.fault)
				return
			}
			t.Error("no order fails, want the mutant to be caught")
		})
	}
}
