package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// A crew is a consumer that two processes run, while operators change it.
type crew struct {
	*testing.T

	store   *mdb.Store
	name    string
	runs    []*shift
	begun   record        // the calls of handlers
	exact   bool          // effects happen exactly once
	written []int64       // the positions of all messages
	again   map[int64]int // how often they are handled beside the first time, because of seeks
}

const insertEffect = `INSERT INTO public.effects (gp) VALUES ($1)`

// crewForms returns a handler of each form that records the message as an effect. begins is called before.
func crewForms(s *mdb.Store, begins func(mdb.Message)) map[string]consumer.Handler {
	inTx := func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
		begins(m)
		_, err := tx.Exec(ctx, insertEffect, m.GlobalPosition)
		return err
	}
	alone := func(ctx context.Context, m mdb.Message) error {
		begins(m)
		_, err := s.Pool().Exec(ctx, insertEffect, m.GlobalPosition)
		return err
	}
	return map[string]consumer.Handler{
		"Each":   consumer.Each(alone),
		"EachTx": consumer.EachTx(inTx),
		"Batch": consumer.Batch(func(ctx context.Context, ms []mdb.Message) error {
			for _, m := range ms {
				if err := alone(ctx, m); err != nil {
					return err
				}
			}
			return nil
		}),
		"BatchTx": consumer.BatchTx(func(ctx context.Context, tx pgx.Tx, ms []mdb.Message) error {
			for _, m := range ms {
				if err := inTx(ctx, tx, m); err != nil {
					return err
				}
			}
			return nil
		}),
		"EachQueued": consumer.EachQueued(func(b *pgx.Batch, m mdb.Message) error {
			begins(m)
			b.Queue(insertEffect, m.GlobalPosition)
			return nil
		}),
	}
}

// act runs a function of operators.
func (f *crew) act(what string, act func(ctx context.Context, q ledger.Querier) error) {
	f.Helper()
	if err := act(f.Context(), f.store.Pool()); err != nil {
		f.Fatalf("%s: %v", what, err)
	}
}

func (f *crew) pause(why *string) {
	f.Helper()
	f.act("pause", func(ctx context.Context, q ledger.Querier) error { return ledger.Pause(ctx, q, f.name, why) })
}

func (f *crew) write(n int) {
	f.Helper()
	f.written = append(f.written, signUp(f.T, f.store, n)...)
}

// ticked waits until all processes have sent some heartbeats.
func (f *crew) ticked() {
	f.Helper()
	for _, r := range f.runs {
		from := r.Stats().Ticks
		eventually(f.T, "heartbeats", func() bool { return r.Stats().Ticks >= from+3 })
	}
}

// effects returns how often each message had an effect.
func (f *crew) effects() map[int64]int {
	f.Helper()
	rows, _ := f.store.Pool().Query(f.Context(), `SELECT gp, count(*) FROM public.effects GROUP BY gp`)
	n := make(map[int64]int)
	var gp int64
	var count int
	if _, err := pgx.ForEachRow(rows, []any{&gp, &count}, func() error { n[gp] = count; return nil }); err != nil {
		f.Fatal(err)
	}
	return n
}

// settled waits until all messages are handled and all checkpoints are stored, and checks how often they were handled.
func (f *crew) settled(what string) {
	f.Helper()
	var got map[int64]int
	eventually(f.T, what, func() bool {
		got = f.effects()
		for _, gp := range f.written {
			if got[gp] < 1+f.again[gp] {
				return false
			}
		}
		var rest int
		if err := f.store.Pool().QueryRow(f.Context(), `
			SELECT count(*) FROM message_store_consumers.checkpoints AS c JOIN message_store_consumers.consumers AS o ON o.id = c.consumer
			WHERE o.name = $1 AND c.position < $2`, f.name, f.written[len(f.written)-1]).Scan(&rest); err != nil {
			f.Fatal(err)
		}
		return rest == 0
	})
	for _, gp := range f.written {
		if want := 1 + f.again[gp]; f.exact && got[gp] != want {
			f.Errorf("%s: message %d had %d effects, want %d", what, gp, got[gp], want)
		}
	}
	if !f.exact { // what is not stored at a seek or resize is repeated
		for gp, n := range got {
			f.again[gp] = n - 1
		}
	}
}

// still checks that no handler is called while a function runs.
func (f *crew) still(what string, do func()) {
	f.Helper()
	eventually(f.T, "all know the pause, and calls from before have returned", func() bool {
		return !slices.ContainsFunc(f.runs, func(r *shift) bool { s := r.Stats(); return !s.Paused || s.Running > 0 })
	})
	before := len(f.begun.sorted())
	do()
	f.ticked()
	for _, r := range f.runs {
		if !r.Stats().Paused {
			f.Errorf("%s: Stats does not say so", what)
		}
	}
	if n := len(f.begun.sorted()) - before; n != 0 {
		f.Errorf("%s: %d handlers were called", what, n)
	}
}

// shared waits until the processes have all partitions.
func (f *crew) shared(n int) {
	f.Helper()
	eventually(f.T, fmt.Sprintf("%d partitions", n), func() bool {
		sum := 0
		for _, r := range f.runs {
			p := r.Stats().Partitions
			if p == 0 {
				return false
			}
			sum += p
		}
		return sum == n
	})
}

// TestSteered checks with handlers of all forms that processes obey what operators do while they run: a pause, also one that begins
// before they do, seeks, changes of the number of partitions, another name, and the end of the consumer. No message is
// lost, none has an effect too often where effects happen exactly once, and nothing is counted as lost or rewound.
func TestSteered(t *testing.T) {
	t.Parallel()
	for _, form := range slices.Sorted(maps.Keys(crewForms(nil, nil))) {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			if form != "Each" && form != "EachQueued" {
				pgtest.NeedTime(t)
			}
			f := &crew{T: t, store: withConsumers.Store(t), name: "mailer", again: make(map[int64]int)}
			f.exact = form != "Each" && form != "Batch"
			if _, err := f.store.Pool().Exec(t.Context(), `CREATE TABLE public.effects (gp bigint NOT NULL)`); err != nil {
				t.Fatal(err)
			}
			why := "a test"
			if _, err := ledger.Join(t.Context(), f.store.Pool(), ledger.JoinParams{
				Name: f.name, Member: [16]byte{1}, Info: "test", Lease: time.Hour, Categories: []string{"signup"}, Partitions: 2, Start: new(int64),
			}); err != nil {
				t.Fatal(err)
			}
			f.pause(&why)
			f.act("leave", func(ctx context.Context, q ledger.Querier) error {
				_, err := f.store.Pool().Exec(ctx, `DELETE FROM message_store_consumers.members`)
				return err
			})
			f.write(20)
			for range 2 {
				p := plantOn(t, f.store)
				h := crewForms(p.Store, f.begun.add)[form]
				f.runs = append(f.runs, start(t, p.Store, h, consumer.WithPartitions(2), consumer.WithWorkers(4), consumer.WithLease(5*time.Second)))
			}
			f.shared(2)
			f.still("a pause before", func() { f.write(10) })
			f.pause(nil)
			f.settled("the pause before has ended")

			f.write(200)
			f.pause(&why)
			f.still("a pause", func() { f.write(20) })
			f.pause(nil)
			f.settled("the pause has ended")

			f.write(100)
			f.resize(6)
			f.write(100)
			f.shared(6)
			f.settled("a multiple of the partitions")
			f.write(100)
			f.resize(5)
			f.write(100)
			f.shared(5)
			f.settled("another number of partitions")

			half := f.written[len(f.written)/2]
			for _, gp := range f.written {
				if gp > half {
					f.again[gp]++
				}
			}
			f.act("seek", func(ctx context.Context, q ledger.Querier) error {
				_, err := ledger.Seek(ctx, q, f.name, ledger.SeekParams{Position: &half})
				return err
			})
			f.write(50)
			f.settled("a seek")

			f.act("rename", func(ctx context.Context, q ledger.Querier) error {
				return ledger.Rename(ctx, q, f.name, "renamed", ledger.Guard{Force: true})
			})
			f.name = "renamed"
			f.act("evict", func(ctx context.Context, q ledger.Querier) error {
				_, err := f.store.Pool().Exec(ctx, `DELETE FROM message_store_consumers.members`)
				return err
			})
			f.write(50)
			f.settled("another name")
			// One process may have handled all of them before the other one has joined again, by which it learns the name.
			eventually(t, "processes that join again", func() bool {
				return !slices.ContainsFunc(f.runs, func(r *shift) bool { s := r.Stats(); return s.Losses == 0 || s.Partitions == 0 })
			})
			if err := f.runs[0].Replay(t.Context()); err != nil {
				t.Errorf("Replay returned %v", err)
			}
			if n := f.consumers(); n != 1 {
				t.Errorf("got %d consumers", n)
			}
			for _, r := range f.runs {
				if s := r.Stats(); s.Rewound != 0 || s.Forks != 0 || s.Parked != 0 || s.Losses != 1 {
					t.Errorf("got %+v", s)
				}
			}

			f.write(50)
			f.act("remove", func(ctx context.Context, q ledger.Querier) error {
				return ledger.Remove(ctx, q, f.name, ledger.Guard{Force: true})
			})
			for _, r := range f.runs {
				if err := r.wait(); !errors.Is(err, consumer.ErrDeleted) {
					t.Errorf("Run returned %v", err)
				}
			}
			if n := f.consumers(); n != 0 {
				t.Errorf("got %d consumers", n)
			}
		})
	}
}

func (f *crew) consumers() int {
	return f.count(`SELECT count(*) FROM message_store_consumers.consumers`)
}

// resize changes the number of partitions.
func (f *crew) resize(n int) {
	f.Helper()
	eventually(f.T, fmt.Sprintf("a change to %d partitions", n), func() bool {
		tx, err := f.store.Pool().Begin(f.Context())
		if err != nil {
			f.Fatal(err)
		}
		r, err := ledger.Resize(f.Context(), tx, f.name, n, time.Minute)
		if err == nil {
			err = tx.Commit(f.Context())
		}
		if err != nil {
			f.Fatal(err)
		}
		return r.Done
	})
}
