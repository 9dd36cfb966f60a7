package ledger

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// A handoverWalk is an owner that handles messages of a key and then gives their partition away, the next owner, and
// a writer.
type handoverWalk struct {
	*stage
	transactional bool
	bug           string

	category string
	a, b     *handler
	fault    string
}

// A handler is a member that handles the messages of the walk's partition one by one.
type handler struct {
	Member
	*handoverWalk
	row     Row   // epoch 0: it does not have the partition
	done    int64 // everything up to here is handled
	message int64 // that it handles; 0: none
	failed  error // of the transaction
}

const (
	undrained       = "the partition is released while a handler has a message of it"
	releaseThenMove = "the partition is released, and then its checkpoint moved"
)

func (w *handoverWalk) run(choose func(of int) int) bool {
	start := int64(0)
	w.fault, w.category = "", "handover"+uuid.NewString()[:8]
	name := "handover " + uuid.NewString()
	w.a = &handler{Member: w.enter(name, "", 2, &start, w.category), handoverWalk: w}
	w.a.has(w.balance(w.a.Member))
	w.b = &handler{Member: w.enter(name, "", 2, &start, w.category), handoverWalk: w}
	w.exec(writeMessage, w.category+"-1")
	w.walk([]program{w.a.gives(), w.b.takes(3), w.writer()}, choose)
	for range 4 { // the next owner completes what is left
		for _, f := range w.b.takes(1) {
			if err := f(w.t.Context(), w.observer); err != nil {
				w.fault = err.Error()
			}
		}
	}
	for _, a := range w.actors {
		if a.err != nil {
			w.fault = a.err.Error()
		}
	}
	w.check()
	return w.fault == ""
}

const writeMessage = "SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Happened', '{}')"

func (w *handoverWalk) writer() (p program) {
	for range 2 {
		p = append(p, sql("BEGIN"), sql(writeMessage, w.category+"-1"), sql("COMMIT"))
	}
	return p
}

// has sets what the member has of the walk's partition, which is 0.
func (h *handler) has(held Held) {
	if i := slices.IndexFunc(held.Rows, func(r Row) bool { return r.Number == 0 }); i < 0 {
		h.row = Row{}
	} else if r := held.Rows[i]; r.Epoch != h.row.Epoch {
		h.row, h.done = r, r.Position
	}
}

// handles handles the next message, if there is one.
func (h *handler) handles() program {
	effect := func(ctx context.Context, conn *pgx.Conn) error {
		return sql("INSERT INTO public.effects VALUES ($1, $2, $3)", h.Consumer, h.message, h.ID.String())(ctx, conn)
	}
	next := func(ctx context.Context, conn *pgx.Conn) error {
		h.message, h.failed = 0, nil
		if h.row.Epoch == 0 {
			return nil
		}
		return conn.QueryRow(ctx, `SELECT coalesce(min(global_position), 0) FROM message_store.messages
			WHERE message_store.category(stream_name) = $1 AND global_position > $2`, h.category, h.done).Scan(&h.message)
	}
	if !h.transactional {
		return program{next, h.unless(effect), h.unless(func(context.Context, *pgx.Conn) error { h.done = h.message; return nil })}
	}
	step := func(do func(context.Context, *pgx.Conn) error) func(context.Context, *pgx.Conn) error {
		return h.unless(func(ctx context.Context, conn *pgx.Conn) error {
			if h.failed == nil {
				h.failed = do(ctx, conn)
			}
			return nil
		})
	}
	return program{next, step(sql("BEGIN")), step(effect), step(func(ctx context.Context, conn *pgx.Conn) error {
		return sendMove(h.Member, h.row, h.message)(ctx, conn)
	}), h.unless(func(ctx context.Context, conn *pgx.Conn) error {
		if h.row.Position, h.done = h.message, h.message; h.failed != nil {
			h.row = Row{}
		}
		return sql("COMMIT")(ctx, conn) // which is a rollback after an error
	})}
}

// unless lets a step do nothing if there is no message.
func (h *handler) unless(do func(context.Context, *pgx.Conn) error) func(context.Context, *pgx.Conn) error {
	return func(ctx context.Context, conn *pgx.Conn) error {
		if h.message == 0 {
			return nil
		}
		return do(ctx, conn)
	}
}

// gives handles two messages, and releases the partition.
func (h *handler) gives() program {
	release := func(ctx context.Context, conn *pgx.Conn) error {
		mv := Move{Partition: h.row.Partition, Epoch: h.row.Epoch, From: h.row.Position, To: h.done}
		if h.bug == releaseThenMove {
			mv.To = mv.From
		}
		released, err := Release(ctx, conn, h.Member, []Move{mv})
		if err == nil && len(released) != 1 {
			err = fmt.Errorf("released %v", released)
		}
		return err
	}
	p := append(h.handles(), h.handles()...)
	p = append(p, func(ctx context.Context, conn *pgx.Conn) error { // flush
		mv := Move{Partition: h.row.Partition, Epoch: h.row.Epoch, From: h.row.Position, To: h.done}
		if h.transactional || h.bug != "" {
			return nil
		}
		tick, err := Beat(ctx, conn, h.Member, "", []Move{mv})
		if len(tick.Moved) == 1 {
			h.row.Position = mv.To
		}
		return err
	})
	switch h.bug {
	case undrained: // between the reading of the last message and its effect
		return slices.Insert(slices.Clone(p), len(h.handles())+1, release)
	case releaseThenMove:
		return append(p, release, func(ctx context.Context, conn *pgx.Conn) error {
			_, err := Beat(ctx, conn, h.Member, "", []Move{{Partition: h.row.Partition, Epoch: h.row.Epoch, From: h.row.Position, To: h.done}})
			return err
		})
	}
	return append(p, append(h.handles(), release)...)
}

// takes balances and handles the next message, several times.
func (h *handler) takes(times int) (p program) {
	for range times {
		p = append(p, func(ctx context.Context, conn *pgx.Conn) error {
			_, held, err := Rebalance(ctx, conn, h.Member)
			h.has(held)
			return err
		})
		p = append(p, h.handles()...)
	}
	return p
}

// check checks that each message has one effect, in order.
func (w *handoverWalk) check() {
	rows, _ := w.observer.Query(w.t.Context(), "SELECT message FROM public.effects WHERE consumer = $1 ORDER BY n", w.a.Consumer)
	got, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		w.t.Fatal(err)
	}
	rows, _ = w.observer.Query(w.t.Context(), "SELECT global_position FROM message_store.messages WHERE message_store.category(stream_name) = $1 ORDER BY 1", w.category)
	want, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		w.t.Fatal(err)
	}
	if w.fault == "" && !slices.Equal(got, want) {
		w.fault = fmt.Sprintf("handled are %d of the messages %d", got, want)
	}
}

// TestWalkHandover checks that in the orders of [stage.orders] of an owner that handles messages and gives their partition away, of the
// next owner, and of a writer, each message is handled once, and in order. There are too many orders to walk all.
func TestWalkHandover(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for _, transactional := range []bool{false, true} {
		t.Run(fmt.Sprint("transactional ", transactional), func(t *testing.T) {
			t.Parallel()
			w := &handoverWalk{stage: newStage(t, walkDatabase(t, ""), 3, pgx.ReadCommitted), transactional: transactional}
			n := w.orders(1, w.run)
			if w.fault != "" {
				t.Errorf("order %d: %s", n, w.fault)
			}
			t.Logf("%d orders", n)
		})
	}
}

// TestWalkHandoverMutants checks that TestWalkHandover can fail.
func TestWalkHandoverMutants(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for _, bug := range []string{undrained, releaseThenMove} {
		t.Run(bug, func(t *testing.T) {
			t.Parallel()
			w := &handoverWalk{stage: newStage(t, walkDatabase(t, ""), 3, pgx.ReadCommitted), bug: bug}
			n := w.orders(1, w.run)
			if w.fault == "" {
				t.Errorf("none of %d orders fails, want the mutant to be caught", n)
			}
			t.Logf("order %d: %s", n, w.fault)
		})
	}
}
