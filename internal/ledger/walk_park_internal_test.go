package ledger

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// A parkWalk is an owner that parks a message, and at the same time the claim of the next owner, or an attempt of the
// same owner to handle the message. The first attempt hangs then, its answer is lost, and it may still be executed.
type parkWalk struct {
	*stage
	transactional bool // the transaction that parks also moves the checkpoint
	bug           string

	a, b    Member
	claims  int   // of B, before the walk has ended
	begins  int64 // where B begins
	knows   int   // what it knows to be parked
	commits int   // of A's transactions
	fault   string
}

const (
	parkAlone    = "the transaction that parks does not move the checkpoint"
	passFirst    = "the checkpoint passes the message before it is parked"
	knownEarlier = "what is parked is read before the claim"
)

func (w *parkWalk) start(partitions int) Row {
	start := int64(880)
	name := "park " + uuid.NewString()
	w.a = w.enter(name, "", partitions, &start, "a")
	row := w.balance(w.a).Rows[0]
	w.b = w.enter(name, "", partitions, &start, "a")
	w.claims, w.begins, w.knows, w.commits, w.fault = 0, 0, 0, 0, ""
	return row
}

// claim runs the walk of A's parking and B's claim.
func (w *parkWalk) claim(choose func(of int) int) bool {
	row := w.start(1)
	w.walk([]program{w.parks(row), w.takeover()}, choose)
	w.failures()
	if w.claims == 0 {
		w.dies(w.a) // it has ticked
		if err := w.take(w.t.Context(), w.observer); err != nil || w.claims == 0 {
			w.fault = fmt.Sprintf("the partition is free for ever, %v", err)
		}
	}
	parked := w.count("SELECT count(*) FROM message_store_consumers.parked WHERE consumer = $1", w.a.Consumer)
	position := w.count("SELECT position FROM message_store_consumers.checkpoints WHERE consumer = $1", w.a.Consumer)
	switch {
	case w.fault != "":
	case w.begins != position:
		w.fault = fmt.Sprintf("the next owner begins at %d, and the checkpoint is at %d", w.begins, position)
	case position == 900 && parked == 0:
		w.fault = "the checkpoint has passed the message, and it is not parked"
	case w.transactional && position == 880 && parked == 1:
		w.fault = "the message is parked, and the checkpoint has not passed it"
	case w.knows != int(parked):
		w.fault = fmt.Sprintf("the next owner knows of %d parked streams, and there are %d", w.knows, parked)
	}
	return w.fault == ""
}

// repeat runs the walk of A's parking, of which the answer is lost, and of A's next attempt, which succeeds.
func (w *parkWalk) repeat(choose func(of int) int) bool {
	row := w.start(1)
	handles := inTransaction(w.commit, sql("INSERT INTO public.effects VALUES ($1, 900, 'A')", w.a.Consumer), sendMove(w.a, row, 900))
	w.walk([]program{w.parks(row), handles}, choose)
	w.failures()
	parked := w.count("SELECT count(*) FROM message_store_consumers.parked WHERE consumer = $1", w.a.Consumer)
	effects := w.count("SELECT count(*) FROM public.effects WHERE consumer = $1", w.a.Consumer)
	position := w.count("SELECT min(position) FROM message_store_consumers.checkpoints WHERE consumer = $1", w.a.Consumer)
	if w.fault == "" && (parked+effects != 1 || position != 900 || w.commits != 1) {
		w.fault = fmt.Sprintf("the message is parked %d times and has %d effects, the checkpoint is at %d, and %d transactions were committed", parked, effects, position, w.commits)
	}
	return w.fault == ""
}

func (w *parkWalk) failures() {
	for _, a := range w.actors {
		if a.err != nil && !IsFenced(a.err) {
			w.fault = a.err.Error()
		}
	}
}

func (w *parkWalk) commit(ctx context.Context, conn *pgx.Conn) error {
	err := sql("COMMIT")(ctx, conn)
	if err == nil {
		w.commits++
	}
	return err
}

// parks parks a message as A.
func (w *parkWalk) parks(row Row) program {
	park := func(ctx context.Context, conn *pgx.Conn) error {
		return Park(ctx, conn, w.a, row.Epoch, Parked{Partition: row.Partition, Key: "1", Stream: "a-1", GlobalPosition: 900, Attempts: 1}, "")
	}
	pass := func(ctx context.Context, conn *pgx.Conn) error {
		_, err := Beat(ctx, conn, w.a, "", movesTo([]Row{row}, 900))
		return err
	}
	switch {
	case w.bug == parkAlone:
		return inTransaction(w.commit, park)
	case w.transactional:
		return inTransaction(w.commit, sendMove(w.a, row, 900), park)
	case w.bug == passFirst:
		return program{pass, park}
	default:
		var failed error
		return program{func(ctx context.Context, conn *pgx.Conn) error {
			failed = park(ctx, conn)
			return failed
		}, func(ctx context.Context, conn *pgx.Conn) error {
			if failed != nil {
				return failed
			}
			return pass(ctx, conn)
		}}
	}
}

// takeover ends A's lease, and claims as B.
func (w *parkWalk) takeover() program {
	ends := sql(endLease, w.a.ID.String())
	if w.bug != knownEarlier {
		return program{ends, w.take}
	}
	early := func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT count(*) FROM message_store_consumers.parked WHERE consumer = $1", w.a.Consumer).Scan(&w.knows)
	}
	return program{ends, early, func(ctx context.Context, conn *pgx.Conn) error {
		knows := w.knows
		err := w.take(ctx, conn)
		w.knows = knows
		return err
	}}
}

func (w *parkWalk) take(ctx context.Context, conn *pgx.Conn) error {
	b, held, err := Rebalance(ctx, conn, w.b)
	if err != nil || b.Claimed == 0 {
		return err
	}
	w.claims++
	w.begins, w.knows = held.Rows[0].Position, len(held.Parked)
	return nil
}

// TestWalkPark checks that in the orders of [stage.orders] of a parking and a claim, which are too many to walk all, the checkpoint has
// passed a message only if it is parked, and the next owner knows of it; and that in every order of a parking whose answer is lost and
// of the next attempt, which handles the message, one of both has happened.
func TestWalkPark(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for _, test := range []struct {
		name          string
		transactional bool
		most          int // interruptions
		run           func(w *parkWalk) func(choose func(of int) int) bool
	}{
		{"a claim", false, 2, func(w *parkWalk) func(func(int) int) bool { return w.claim }},
		{"a claim, in a transaction", true, 2, func(w *parkWalk) func(func(int) int) bool { return w.claim }},
		{"the next attempt, in a transaction", true, unlimited, func(w *parkWalk) func(func(int) int) bool { return w.repeat }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := &parkWalk{stage: newStage(t, walkDatabase(t, ""), 2, pgx.ReadCommitted), transactional: test.transactional}
			n := w.orders(test.most, test.run(w))
			if w.fault != "" {
				t.Errorf("order %d: %s", n, w.fault)
			}
			t.Logf("%d orders", n)
		})
	}
}

// TestWalkParkMutants checks that TestWalkPark can fail.
func TestWalkParkMutants(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for _, test := range []struct {
		name, bug     string
		transactional bool
		run           func(w *parkWalk) func(choose func(of int) int) bool
		changes       []change
	}{
		{parkAlone, parkAlone, true, func(w *parkWalk) func(func(int) int) bool { return w.repeat }, nil},
		{passFirst, passFirst, false, func(w *parkWalk) func(func(int) int) bool { return w.claim }, nil},
		{knownEarlier, knownEarlier, false, func(w *parkWalk) func(func(int) int) bool { return w.claim }, nil},
		{"parks are not fenced", "", false, func(w *parkWalk) func(func(int) int) bool { return w.claim }, []change{
			{"AND c.member = $4 AND c.epoch = $5\n", "\n", 1},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := &parkWalk{stage: newStage(t, walkDatabase(t, test.name, test.changes...), 2, pgx.ReadCommitted), transactional: test.transactional, bug: test.bug}
			n := w.orders(1, test.run(w))
			if w.fault == "" {
				t.Errorf("none of %d orders fails, want the mutant to be caught", n)
			}
			t.Logf("order %d: %s", n, w.fault)
		})
	}
}
