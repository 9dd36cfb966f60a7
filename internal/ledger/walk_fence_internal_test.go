package ledger

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

func walkDatabase(t testing.TB, key string, changes ...change) string {
	t.Helper()
	return consumersDatabase(t, "walk "+key, func() string { return withPauses(consumersSQL(t, changes...)) })
}

// enter joins a member to the walk's consumer.
func (s *stage) enter(name, instance string, partitions int, start *int64, categories ...string) Member {
	s.t.Helper()
	m := Member{ID: uuid.New(), Instance: instance}
	j, err := Join(s.t.Context(), s.observer, joinParams(m, name, partitions, start, categories...))
	if err != nil {
		s.t.Fatal(err)
	}
	m.Consumer, m.Layout = j.Consumer, j.Layout
	return m
}

func joinParams(m Member, name string, partitions int, start *int64, categories ...string) JoinParams {
	return JoinParams{Name: name, Member: m.ID, Instance: m.Instance, Info: "i", Lease: time.Minute, Categories: categories, Partitions: partitions, Start: start}
}

func (s *stage) balance(m Member) Held {
	s.t.Helper()
	_, held, err := Rebalance(s.t.Context(), s.observer, m)
	if err != nil {
		s.t.Fatal(err)
	}
	return held
}

func (s *stage) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.observer.Exec(s.t.Context(), sql, args...); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) count(sql string, args ...any) (n int64) {
	s.t.Helper()
	if err := s.observer.QueryRow(s.t.Context(), sql, args...).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

const endLease = "UPDATE message_store_consumers.members SET seen = seen - interval '1 hour', woke = woke - interval '1 hour' WHERE id = $1"

// dies makes the member's lease end.
func (s *stage) dies(m Member) { s.exec(endLease, m.ID.String()) }

func sql(text string, args ...any) func(context.Context, *pgx.Conn) error {
	return func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, text, args...)
		return err
	}
}

// fenceWalk is the old owner's transaction against the claim of the next one.
type fenceWalk struct {
	*stage
	readFirst bool // a mutant
	a, b      Member
	committed bool  // A's transaction
	claimed   bool  // by B, when A committed
	begins    int64 // where B begins, or -1
	fault     string
}

func (w *fenceWalk) run(choose func(of int) int) bool {
	start := int64(880)
	w.a = w.enter("fence "+uuid.NewString(), "", 1, &start, "a")
	row := w.balance(w.a).Rows[0]
	w.b = w.enter(w.name(), "", 1, &start, "a")
	w.dies(w.a)
	w.committed, w.claimed, w.begins, w.fault = false, false, -1, ""
	w.walk([]program{w.transaction(row), w.takeover()}, choose)
	for _, a := range w.actors {
		if a.err != nil && !IsFenced(a.err) && !retried(a.err) {
			w.fault = a.err.Error()
		}
	}
	w.check()
	return w.fault == ""
}

func (w *fenceWalk) name() (name string) {
	w.t.Helper()
	if err := w.observer.QueryRow(w.t.Context(), "SELECT name FROM message_store_consumers.consumers WHERE id = $1", w.a.Consumer).Scan(&name); err != nil {
		w.t.Fatal(err)
	}
	return name
}

// transaction handles a message as A, in a transaction that moves the checkpoint.
func (w *fenceWalk) transaction(row Row) program {
	return inTransaction(func(ctx context.Context, conn *pgx.Conn) error {
		claimed := w.begins >= 0
		err := sql("COMMIT")(ctx, conn)
		w.committed, w.claimed = err == nil, claimed
		return err
	}, sql("INSERT INTO public.effects VALUES ($1, 900, 'A')", w.a.Consumer), sendMove(w.a, row, 900))
}

// inTransaction returns statements in a transaction, which commit ends unless one of them fails.
func inTransaction(commit func(context.Context, *pgx.Conn) error, statements ...func(context.Context, *pgx.Conn) error) (p program) {
	var failed error
	for _, do := range slices.Insert(statements, 0, sql("BEGIN")) {
		p = append(p, func(ctx context.Context, conn *pgx.Conn) error {
			if failed == nil {
				failed = do(ctx, conn)
			}
			return failed
		})
	}
	return append(p, func(ctx context.Context, conn *pgx.Conn) error {
		if failed != nil {
			return sql("ROLLBACK")(ctx, conn)
		}
		return commit(ctx, conn)
	})
}

// sendMove moves the checkpoint of a row.
func sendMove(m Member, row Row, to int64) func(context.Context, *pgx.Conn) error {
	return func(ctx context.Context, conn *pgx.Conn) error {
		var b pgx.Batch
		QueueMove(&b, m, Move{Partition: row.Partition, Epoch: row.Epoch, From: row.Position, To: to})
		return conn.SendBatch(ctx, &b).Close()
	}
}

// takeover claims as B, and reads where to begin.
func (w *fenceWalk) takeover() program {
	var early Held
	read := func(ctx context.Context, conn *pgx.Conn) (err error) {
		early, err = Read(ctx, conn, w.a)
		return err
	}
	claim := func(ctx context.Context, conn *pgx.Conn) error {
		b, held, err := Rebalance(ctx, conn, w.b)
		if err != nil || b.Claimed == 0 {
			return err
		}
		if w.begins = held.Rows[0].Position; w.readFirst {
			w.begins = early.Rows[0].Position
		}
		return nil
	}
	if w.readFirst {
		return program{read, claim}
	}
	return program{claim}
}

// check lets B finish alone. It must begin exactly after A's effect.
func (w *fenceWalk) check() {
	if w.claimed && w.committed {
		w.fault = "the old owner has moved the checkpoint after the claim"
	}
	if w.begins < 0 {
		held := w.balance(w.b)
		if len(held.Rows) == 0 {
			w.fault = "the partition is free for ever"
			return
		}
		w.begins = held.Rows[0].Position
	}
	effects := w.count("SELECT count(*) FROM public.effects WHERE consumer = $1", w.a.Consumer)
	position := w.count("SELECT position FROM message_store_consumers.checkpoints WHERE consumer = $1", w.a.Consumer)
	switch {
	case effects == 1 != w.committed, effects == 1 != (position == 900):
		w.fault = fmt.Sprintf("%d effects and position %d, committed %t", effects, position, w.committed)
	case w.begins != position:
		w.fault = fmt.Sprintf("the next owner begins at %d, and the checkpoint is at %d", w.begins, position)
	}
}

// TestWalkFence checks the fence: in every order of a transaction of the old owner and of the
// claim of the next one, the effect is there if and only if the checkpoint has passed it, and the
// next owner begins after it.
func TestWalkFence(t *testing.T) {
	t.Parallel()
	for _, isolation := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
		t.Run(string(isolation), func(t *testing.T) {
			t.Parallel()
			if isolation != pgx.ReadCommitted {
				pgtest.NeedTime(t)
			}
			w := &fenceWalk{stage: newStage(t, walkDatabase(t, ""), 2, isolation)}
			var commits, fenced int
			n := w.orders(unlimited, func(choose func(of int) int) bool {
				ok := w.run(choose)
				if w.committed {
					commits++
				} else {
					fenced++
				}
				return ok
			})
			if w.fault != "" {
				t.Errorf("order %d: %s", n, w.fault)
			}
			t.Logf("%d orders: %d commits, %d refused", n, commits, fenced)
			if commits == 0 || fenced == 0 {
				t.Error("want some of each: otherwise the test proves nothing")
			}
		})
	}
}

// TestWalkFenceMutants checks that TestWalkFence can fail.
func TestWalkFenceMutants(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for _, test := range []struct {
		name      string
		readFirst bool
		changes   []change
	}{
		{"the fence looks at another row", false, []change{{
			"c.partition = $3 AND c.member = $4 AND c.epoch = $5 AND c.position = $6",
			"c.partition = $3 AND c.position = $6 AND EXISTS (SELECT FROM message_store_consumers.checkpoints AS o WHERE o.consumer = $1 AND o.category = $2 AND o.partition = $3 AND o.member = $4 AND o.epoch = $5)", 1,
		}}},
		{"the position is read before the claim", true, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := &fenceWalk{stage: newStage(t, walkDatabase(t, test.name, test.changes...), 2, pgx.ReadCommitted), readFirst: test.readFirst}
			n := w.orders(1, w.run)
			if w.fault == "" {
				t.Errorf("none of %d orders fails, want the mutant to be caught", n)
			}
			t.Logf("order %d: %s", n, w.fault)
		})
	}
}
