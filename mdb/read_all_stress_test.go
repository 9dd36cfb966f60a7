package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestAllStress checks readers of all categories against the table: while writers of all kinds
// commit and roll back, for short and for long, each reader receives every message that it selects,
// once, in the order of global positions. A reader by plain positions is the proof that the load
// would make one lose messages. The environment variable MDB_TEST_ALL_WRITES is the number of writes
// of each writer.
func TestAllStress(t *testing.T) {
	t.Parallel()
	const writers, categories = 12, 5
	writes := 40
	if n, err := strconv.Atoi(os.Getenv("MDB_TEST_ALL_WRITES")); err == nil {
		writes = n
	}
	pool := newPool(t, testdb.New(t), connections(2*writers))
	readers := map[string][]mdb.AllSubscribeOption{
		"all":        {mdb.WithBatchSize(7)},
		"workers":    {mdb.WithWorkers(3), mdb.WithBatchSize(20)},
		"categories": {mdb.InCategories("c1", "c3")},
		"types":      {mdb.OfTypes("T1"), mdb.WithBatchSize(9)},
		"both":       {mdb.OfTypes("T0", "T2"), mdb.InCategories("c0", "c2", "c4")},
	}
	selects := func(reader string, m *mdb.Message) bool {
		switch reader {
		case "categories":
			return m.Stream.Category() == "c1" || m.Stream.Category() == "c3"
		case "types":
			return m.Type == "T1"
		case "both":
			return m.Type != "T1" && m.Stream.Category() != "c1" && m.Stream.Category() != "c3"
		}
		return true
	}

	var load, reading sync.WaitGroup
	var writing atomic.Bool
	writing.Store(true)
	stores := []*mdb.Store{newStore(t, pool, often), newStore(t, pool, often, mdb.WithDirectSQL())}
	for i := range writers {
		load.Go(func() {
			w := allWriter{stores[i%2], rand.New(rand.NewPCG(uint64(i), 1)), categories}
			for range writes {
				if err := w.write(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}

	var mu sync.Mutex
	received := make(map[string][]int64)
	stop := make(map[string]context.CancelCauseFunc)
	for name, opts := range readers {
		ctx, cancel := context.WithCancelCause(t.Context())
		stop[name] = cancel
		reading.Go(func() {
			err := stores[len(name)%2].SubscribeToAll(ctx, func(_ context.Context, m mdb.Message) error {
				mu.Lock()
				defer mu.Unlock()
				received[name] = append(received[name], m.GlobalPosition)
				return nil
			}, opts...)
			if !errors.Is(err, errStopped) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	plain := 0
	reading.Go(func() {
		for last, more := int64(0), true; more || writing.Load(); {
			var positions []int64
			err := pool.QueryRow(t.Context(), `SELECT coalesce(array_agg(global_position ORDER BY global_position), '{}') FROM message_store.messages WHERE global_position > $1`, last).Scan(&positions)
			if err != nil {
				t.Error(err)
				return
			}
			if more = len(positions) > 0; more {
				plain, last = plain+len(positions), positions[len(positions)-1]
			}
		}
	})
	load.Wait()
	writing.Store(false)

	all := allPages(t, stores[0])
	for name := range readers {
		var want []int64
		for i := range all {
			if selects(name, &all[i]) {
				want = append(want, all[i].GlobalPosition)
			}
		}
		eventually(t, pool, name, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(received[name]) >= len(want)
		})
		stop[name](errStopped)
		defer func() {
			if got := received[name]; name == "workers" && !slices.Equal(slices.Sorted(slices.Values(got)), want) || name != "workers" && !slices.Equal(got, want) {
				t.Errorf("%s: got %d messages, want %d: %d, want %d", name, len(got), len(want), got, want)
			}
		}()
	}
	reading.Wait()
	t.Logf("%d messages, %d of which a reader by positions has lost", len(all), len(all)-plain)
	if count := value[int](t, pool, `SELECT count(*) FROM message_store.messages`); count != len(all) {
		t.Errorf("AllMessages returned %d of %d messages", len(all), count)
	}
}

// An allWriter writes in all ways.
type allWriter struct {
	s          *mdb.Store
	r          *rand.Rand
	categories int
}

func (w *allWriter) stream() mdb.StreamName {
	return mdb.StreamName(fmt.Sprintf("c%d-%d", w.r.IntN(w.categories), w.r.IntN(3)))
}

func (w *allWriter) message() mdb.ProposedMessage {
	return mdb.NewMessage(fmt.Sprintf("T%d", w.r.IntN(3)), nil)
}

func (w *allWriter) write(ctx context.Context) error {
	switch w.r.IntN(5) {
	case 0:
		_, err := w.s.WriteMessage(ctx, w.stream(), w.message())
		return err
	case 1:
		_, err := w.s.WriteMessages(ctx, w.stream(), []mdb.ProposedMessage{w.message(), w.message(), w.message()})
		return err
	}
	return w.transaction(ctx)
}

// transaction stays open for some time, and may be rolled back, as a whole or in part.
func (w *allWriter) transaction(ctx context.Context) error {
	tx, err := w.s.Pool().Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	stream := w.stream()
	for _, step := range []func() error{
		func() error { _, err := w.s.WithTx(tx).WriteMessage(ctx, stream, w.message()); return err },
		func() error { _, err := tx.Exec(ctx, "SAVEPOINT s"); return err },
		func() error { _, err := w.s.WithTx(tx).WriteMessage(ctx, stream, w.message()); return err },
		func() error { _, err := tx.Exec(ctx, []string{"ROLLBACK TO s", "RELEASE s"}[w.r.IntN(2)]); return err },
		func() error { _, err := tx.Exec(ctx, "SELECT pg_sleep($1)", w.r.Float64()*0.02); return err },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	if w.r.IntN(3) == 0 {
		return tx.Rollback(ctx)
	}
	return tx.Commit(ctx)
}
