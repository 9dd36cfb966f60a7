package ledger

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// operatorWalk is a member that handles or parks a message of partition 0 while an operator changes the consumer.
type operatorWalk struct {
	*stage
	name  string
	a     Member
	held  Held
	begun bool // the operator's act
	acted bool // and ended
	done  bool // the resize
	fault string
}

// An operatorCase is an act of each of them, and what must be true after both.
type operatorCase struct {
	of      int  // partitions, before it; 0: 2
	parks   bool // the member's act
	asks    bool // it ticks before, and does nothing if the consumer is paused
	passes  bool // it is never refused
	prepare func(w *operatorWalk)
	act     func(ctx context.Context, w *operatorWalk, tx pgx.Tx) error
	check   func(w *operatorWalk, effects int64)
}

const operatorStart = 880

func operatorCases() map[string]operatorCase {
	seek := func(ctx context.Context, w *operatorWalk, tx pgx.Tx) error {
		_, err := Seek(ctx, tx, w.name, SeekParams{Position: new(int64)})
		return err
	}
	resize := func(to int) func(ctx context.Context, w *operatorWalk, tx pgx.Tx) error {
		return func(ctx context.Context, w *operatorWalk, tx pgx.Tx) error {
			r, err := Resize(ctx, tx, w.name, to, time.Minute)
			w.done = r.Done
			return err
		}
	}
	byBarrier := func(from, to int) operatorCase {
		return operatorCase{
			of: from,
			prepare: func(w *operatorWalk) {
				w.exec("INSERT INTO message_store.messages (global_position, position, stream_name, type) VALUES (900, 0, 'a-1', 'Happened') ON CONFLICT DO NOTHING")
				w.confirms(to)
			},
			act: resize(to),
			check: func(w *operatorWalk, effects int64) {
				positions := strings.Repeat(" 880", to)
				if !w.done {
					positions = " 900" + strings.Repeat(" 880", from-1)
				}
				w.want("positions", positions[1:], positionsByPartition)
				if w.done != (effects == 0) {
					w.fault = fmt.Sprintf("%d effects, and the resize is done: %t", effects, w.done)
				}
			},
		}
	}
	parkedByBarrier := func(from, to int) operatorCase {
		return operatorCase{
			of: from, parks: true,
			prepare: func(w *operatorWalk) { w.confirms(to) },
			act:     resize(to),
			check: func(w *operatorWalk, _ int64) {
				if !w.done {
					w.fault = "the resize is not done, although no checkpoint moves"
				}
				w.want("streams in other partitions", "0", fmt.Sprintf("SELECT count(*)::text FROM message_store_consumers.parked WHERE consumer = $1 AND partition <> message_store_consumers.partition_of(key, %d)", to))
			},
		}
	}
	return map[string]operatorCase{
		"seek while a message is handled": {
			act: func(ctx context.Context, w *operatorWalk, tx pgx.Tx) error {
				if _, err := Lock(ctx, tx, w.name); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, "DELETE FROM public.effects WHERE consumer = $1", w.a.Consumer); err != nil {
					return err
				}
				return seek(ctx, w, tx)
			},
			check: func(w *operatorWalk, _ int64) {
				w.want("positions", "{0}", "SELECT array_agg(DISTINCT position)::text FROM message_store_consumers.checkpoints WHERE consumer = $1")
			},
		},
		"seek while a message is parked": {
			parks: true, act: seek,
			check: func(w *operatorWalk, _ int64) {
				w.want("parked streams", "0", "SELECT count(*)::text FROM message_store_consumers.parked WHERE consumer = $1")
			},
		},
		"resize to a multiple while a message is handled": {
			act: resize(4),
			check: func(w *operatorWalk, effects int64) {
				w.want("positions", fmt.Sprintf("%d 880 %[1]d 880", 880+20*effects), positionsByPartition)
			},
		},
		"resize to a multiple while a message is parked": {
			parks: true, act: resize(4),
			check: func(w *operatorWalk, _ int64) {
				w.want("streams in other partitions", "0", "SELECT count(*)::text FROM message_store_consumers.parked WHERE consumer = $1 AND partition <> message_store_consumers.partition_of(key, 4)")
			},
		},
		"resize by a barrier from 2 to 3 while a message is handled": byBarrier(2, 3),
		"resize by a barrier from 4 to 2 while a message is handled": byBarrier(4, 2),
		"resize by a barrier from 3 to 5 while a message is handled": byBarrier(3, 5),
		"resize by a barrier from 4 to 2 while a message is parked":  parkedByBarrier(4, 2),
		"resize by a barrier from 3 to 5 while a message is parked":  parkedByBarrier(3, 5),
		"pause while a message is handled": {
			asks: true, passes: true,
			act: func(ctx context.Context, w *operatorWalk, tx pgx.Tx) error {
				return Pause(ctx, tx, w.name, new(string))
			},
			check: func(w *operatorWalk, effects int64) {
				w.want("positions", fmt.Sprintf("%d 880", 880+20*effects), positionsByPartition)
				if tick, err := Beat(w.t.Context(), w.observer, w.a, "", nil); err != nil || !tick.Paused {
					w.fault = fmt.Sprintf("after the pause, the member gets %+v and error %v", tick, err)
				}
			},
		},
		"fork with a copy while a message is handled": {
			passes: true,
			act: func(ctx context.Context, w *operatorWalk, tx pgx.Tx) error {
				if err := Fork(ctx, tx, w.name, w.name+" fork"); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, `INSERT INTO public.effects SELECT f.id, e.message, 'fork' FROM public.effects AS e
					JOIN message_store_consumers.consumers AS f ON f.name = $2 WHERE e.consumer = $1`, w.a.Consumer, w.name+" fork")
				return err
			},
			check: func(w *operatorWalk, _ int64) {
				w.want("copied effects that differ from the positions", "0", `SELECT count(*)::text FROM message_store_consumers.checkpoints AS c
					JOIN message_store_consumers.consumers AS f ON f.id = c.consumer JOIN message_store_consumers.consumers AS o ON o.id = $1 AND f.name = o.name || ' fork'
					WHERE c.partition = 0 AND (c.position = 900) <> EXISTS (SELECT FROM public.effects AS e WHERE e.consumer = f.id)`)
			},
		},
	}
}

const positionsByPartition = "SELECT string_agg(position::text, ' ' ORDER BY partition) FROM message_store_consumers.checkpoints WHERE consumer = $1"

// want compares the result of a query with what is wanted.
func (w *operatorWalk) want(what, want, query string) {
	w.t.Helper()
	var got string
	if err := w.observer.QueryRow(w.t.Context(), query, w.a.Consumer).Scan(&got); err != nil {
		w.t.Fatal(err)
	}
	if got != want {
		w.fault = fmt.Sprintf("%s: %s, want %s", what, got, want)
	}
}

// confirms sets a barrier for another number of partitions, and lets the member confirm it.
func (w *operatorWalk) confirms(to int) {
	w.t.Helper()
	w.sets(w.name, to)
	if _, err := Beat(w.t.Context(), w.observer, w.a, "", nil); err != nil {
		w.t.Fatal(err)
	}
}

func (w *operatorWalk) run(c operatorCase) func(choose func(of int) int) bool {
	return func(choose func(of int) int) bool {
		start := int64(operatorStart)
		w.name, w.begun, w.acted, w.done, w.fault = "operator "+uuid.NewString(), false, false, false, ""
		partitions := cmp.Or(c.of, 2)
		w.a = w.enter(w.name, "", partitions, &start, "a")
		w.held = w.balance(w.a)
		if c.prepare != nil {
			c.prepare(w)
		}
		row := w.held.Rows[0]
		member := inTransaction(sql("COMMIT"), sql("INSERT INTO public.effects VALUES ($1, 900, 'A')", w.a.Consumer), sendMove(w.a, row, 900))
		if c.parks {
			row := w.held.Rows[w.count("SELECT message_store_consumers.partition_of($1, $2)", keyOfTwo, partitions)]
			member = inTransaction(sql("COMMIT"), func(ctx context.Context, conn *pgx.Conn) error {
				return Park(ctx, conn, w.a, row.Epoch, Parked{Partition: row.Partition, Key: keyOfTwo, Stream: "a-" + keyOfTwo, Position: 3, GlobalPosition: 900, Attempts: 1}, "")
			})
		}
		if c.asks {
			member = w.asks(member)
		}
		w.walk([]program{member, {func(ctx context.Context, conn *pgx.Conn) error {
			w.begun = true
			err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return c.act(ctx, w, tx) })
			w.acted = true
			return err
		}}}, choose)
		for _, a := range w.actors {
			if a.err != nil && !IsFenced(a.err) {
				w.fault = a.err.Error()
				return false
			}
		}
		effects := w.count("SELECT count(*) FROM public.effects WHERE consumer = $1", w.a.Consumer)
		if c.check(w, effects); w.actors[0].err != nil && c.passes {
			w.fault = w.actors[0].err.Error()
		}
		w.balance(w.a)
		if n := w.count("SELECT count(*) FROM message_store_consumers.checkpoints WHERE consumer = $1 AND member IS DISTINCT FROM $2", w.a.Consumer, w.a.ID.String()); n > 0 {
			w.fault = fmt.Sprintf("the member lacks %d partitions", n)
		}
		return w.fault == ""
	}
}

// asks lets a program begin with a tick, and end there if the consumer is paused. A tick that is sent after the operator's act
// returns the pause, and one that is answered before it does not.
func (w *operatorWalk) asks(p program) program {
	paused := false
	for i, step := range p {
		p[i] = func(ctx context.Context, conn *pgx.Conn) error {
			if paused {
				return nil
			}
			return step(ctx, conn)
		}
	}
	return append(program{func(ctx context.Context, conn *pgx.Conn) error {
		acted := w.acted
		tick, err := Beat(ctx, conn, w.a, "", nil)
		if paused = tick.Paused; acted && !paused || !w.begun && paused {
			w.fault = fmt.Sprintf("the tick says that the consumer is paused: %t", paused)
		}
		return err
	}}, p...)
}

// keyOfTwo is in partition 0 of two and in partition 2 of four.
const keyOfTwo = "1"

// TestWalkOperator checks changes by operators in every order with the statements of a member: what it does is a part of
// the state that is changed, or is refused.
func TestWalkOperator(t *testing.T) {
	t.Parallel()
	for name, c := range operatorCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &operatorWalk{stage: newStage(t, walkDatabase(t, ""), 2, pgx.ReadCommitted)}
			fenced := 0
			n := w.orders(unlimited, func(choose func(of int) int) bool {
				ok := w.run(c)(choose)
				if w.actors[0].err != nil {
					fenced++
				}
				return ok
			})
			if w.fault != "" {
				t.Errorf("order %d: %s", n, w.fault)
			}
			if t.Logf("the member is refused in %d of %d orders", fenced, n); fenced == n || fenced == 0 && !c.passes {
				t.Error("want some of each: otherwise the test proves nothing")
			}
		})
	}
}

// TestWalkOperatorMutants checks that TestWalkOperator can fail.
func TestWalkOperatorMutants(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for _, test := range []struct {
		name, walk string
		changes    []change
	}{
		{"a seek leaves the epochs", "seek while a message is parked", []change{{"SET position = seek.position, epoch = fresh,", "SET position = seek.position,", 1}}},
		{"a resize leaves the epochs", "resize to a multiple while a message is handled", []change{{"AS c SET epoch = fresh WHERE", "AS c SET epoch = c.epoch WHERE", 1}}},
		{"a resize does not wait for checkpoints", "resize to a multiple while a message is parked", []change{
			{"    PERFORM message_store_consumers.lock_state(own, NULL);\n  END IF;\n\n  fresh", "  END IF;\n\n  fresh", 1},
			{"AS c SET epoch = fresh WHERE", "AS c SET epoch = c.epoch WHERE", 1},
		}},
		{"parked streams keep their partitions", "resize to a multiple while a message is parked", []change{{"SET partition = message_store_consumers.partition_of(p.key, $2) WHERE", "SET partition = p.partition WHERE", 1}}},
		{"new partitions begin at 0", "resize to a multiple while a message is handled", []change{{"c.epoch, c.gone, c.gone_times, c.position, c.moved, c.anchor_time, c.anchor\n  FROM pg_catalog", "c.epoch, c.gone, c.gone_times, 0, c.moved, c.anchor_time, c.anchor\n  FROM pg_catalog", 1}}},
		{"a resize does not look again after its locks", "resize by a barrier from 4 to 2 while a message is handled", []change{{
			"      PERFORM message_store_consumers.lock_state(own, NULL);\n      SELECT u.checkpoints, u.categories INTO waiting, uneven FROM message_store_consumers.uneven(own) AS u;\n      done := waiting = 0;\n",
			"      PERFORM message_store_consumers.lock_state(own, NULL);\n", 1,
		}}},
		{"parked streams keep their partitions after a barrier", "resize by a barrier from 4 to 2 while a message is parked", []change{{"SET partition = message_store_consumers.partition_of(p.key, $2) WHERE", "SET partition = p.partition WHERE", 1}}},
		{"a resize by a barrier keeps owners and epochs", "resize by a barrier from 3 to 5 while a message is parked", []change{{"SET member = NULL, timeline = NULL, epoch = fresh, position = l.position", "SET position = l.position", 1}}},
		{"a tick does not say that the consumer is paused", "pause while a message is handled", []change{{"SELECT c.changes, c.paused IS NOT NULL, message_store_consumers.barrier_of(c), c.partitions, c.layout", "SELECT c.changes, false, message_store_consumers.barrier_of(c), c.partitions, c.layout", 1}}},
		{"a pause takes the partitions", "pause while a message is handled", []change{{"SET paused = $2 WHERE c.id = own;\n", "SET paused = $2 WHERE c.id = own;\n  UPDATE message_store_consumers.checkpoints AS c SET member = NULL WHERE c.consumer = own;\n", 1}}},
		{"a fork does not lock checkpoints", "fork with a copy while a message is handled", []change{{"INTO other;\n  PERFORM message_store_consumers.lock_state(own, NULL);", "INTO other;", 1}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := &operatorWalk{stage: newStage(t, walkDatabase(t, test.name, test.changes...), 2, pgx.ReadCommitted)}
			n := w.orders(1, w.run(operatorCases()[test.walk]))
			if w.fault == "" {
				t.Errorf("none of %d orders fails, want the mutant to be caught", n)
			}
			t.Logf("order %d: %s", n, w.fault)
		})
	}
}
