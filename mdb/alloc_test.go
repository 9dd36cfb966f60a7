package mdb_test

import (
	"context"
	"encoding/json"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// The allocations of a call, and those that a context which can end adds to each.
const (
	readAllocs    = 6
	emptyAllocs   = 4
	writeAllocs   = 6
	versionAllocs = 6
	watchAllocs   = 4

	anchoredAllocs       = 16 // of an empty poll by procedures
	anchoredDirectAllocs = 5
)

// measured runs a test that counts allocations: not in parallel, on a store of each way
// whose statements are prepared, and with both kinds of contexts.
func measured(t *testing.T, test func(t *testing.T, s *mdb.Store, ctx context.Context, watch float64)) {
	t.Helper()
	if raceEnabled {
		t.Skip("under the race detector a sync.Pool drops objects: make test-all runs this without it")
	}
	// A garbage collection does so too.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	// And each processor has its own part of the pool.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		s := newStore(t, newPool(t, testdb.Shared(t), oneConnection), opts...)
		t.Run(way+", background", func(t *testing.T) {
			test(t, s, context.Background(), 0)
		})
		t.Run(way+", cancellable", func(t *testing.T) { test(t, s, t.Context(), watchAllocs) })
	}
}

// allocs returns how many allocations a call of f makes. It counts again if there are more
// than want, because the count includes what the rest of the process does meanwhile.
func allocs(want float64, f func()) float64 {
	const runs, attempts = 20, 3
	least := testing.AllocsPerRun(runs, f)
	for range attempts - 1 {
		if least <= want {
			break
		}
		least = min(least, testing.AllocsPerRun(runs, f))
	}
	return least
}

// TestAllocsOfReads checks that the allocations of a read do not depend on the number of
// rows.
func TestAllocsOfReads(t *testing.T) {
	measured(t, func(t *testing.T, s *mdb.Store, ctx context.Context, watch float64) {
		for _, tt := range []struct {
			rows, size int
			want       float64
		}{
			{0, 10, emptyAllocs},
			{1, 10, readAllocs},
			{10, 10, readAllocs},
			{1000, 10, readAllocs},
			{1000, 200, readAllocs},
			{1000, 900, readAllocs},
		} {
			stream := mdbtest.Category("allocs").Stream("1")
			ms := make([]mdb.ProposedMessage, tt.rows)
			for i := range ms {
				ms[i] = mdb.ProposedMessage{Type: "Happened", Data: i, Metadata: []string{strings.Repeat("x", tt.size)}}
			}
			if _, err := s.WriteMessages(t.Context(), stream, ms); err != nil {
				t.Fatal(err)
			}
			for what, read := range map[string]func() ([]mdb.Message, error){
				"GetStreamMessages":   func() ([]mdb.Message, error) { return s.GetStreamMessages(ctx, stream) },
				"GetCategoryMessages": func() ([]mdb.Message, error) { return s.GetCategoryMessages(ctx, stream.Category()) },
			} {
				want := tt.want + watch
				got := allocs(want, func() {
					if ms, err := read(); err != nil || len(ms) != tt.rows {
						t.Fatalf("%s: got %d messages, error %v", what, len(ms), err)
					}
				})
				if got != want {
					t.Errorf("%s of %d rows of %d bytes: got %v allocations, want %v", what, tt.rows, tt.size, got, want)
				}
			}
		}
	})
}

// TestAllocsOfVersions checks the allocations of StreamVersion.
func TestAllocsOfVersions(t *testing.T) {
	measured(t, func(t *testing.T, s *mdb.Store, ctx context.Context, watch float64) {
		stream := mdbtest.Category("allocs").Stream("1")
		for last := mdb.NoStream; last < 1; last++ {
			want := versionAllocs + watch
			got := allocs(want, func() {
				if version, err := s.StreamVersion(ctx, stream); err != nil || version != last {
					t.Fatalf("got version %d, error %v, want %d", version, err, last)
				}
			})
			if got != want {
				t.Errorf("got %v allocations, want %v", got, want)
			}
			if _, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestAllocsOfBatches checks what each further message of a batch costs: the text of its
// ID, and what pgx allocates for each element of an array.
func TestAllocsOfBatches(t *testing.T) {
	measured(t, func(t *testing.T, s *mdb.Store, ctx context.Context, _ float64) {
		const runs = 20
		stream := mdbtest.Category("allocs").Stream("1")
		var data any = json.RawMessage(`{"amount": 10}`)
		ofBatch := func(n int) float64 {
			batches := make([][]mdb.ProposedMessage, runs+1) // one to warm up
			for i := range batches {
				for range n {
					batches[i] = append(batches[i], mdb.ProposedMessage{ID: uuid.New(), Type: "Happened", Data: data})
				}
			}
			next := 0
			return testing.AllocsPerRun(runs, func() {
				if _, err := s.WriteMessages(ctx, stream, batches[next]); err != nil {
					t.Fatal(err)
				}
				next++
			})
		}
		if got := (ofBatch(200) - ofBatch(100)) / 100; got > 4.1 { // some buffers grow
			t.Errorf("got %v allocations per message, want 4", got)
		}
	})
}

// TestAllocsOfWrites checks that a message of up to a kilobyte goes into a buffer that the
// connection already has, and how many bytes of garbage a larger one costs.
func TestAllocsOfWrites(t *testing.T) {
	measured(t, func(t *testing.T, s *mdb.Store, ctx context.Context, watch float64) {
		stream := mdbtest.Category("allocs").Stream("1")
		for _, size := range []int{2, 100, 700, 2 << 10, 10 << 10, 100 << 10, 1 << 20} {
			var data any = json.RawMessage(`"` + strings.Repeat("x", size-2) + `"`)
			write := func() {
				if _, err := s.WriteMessage(ctx, stream, mdb.ProposedMessage{ID: uuid.New(), Type: "Happened", Data: data}); err != nil {
					t.Fatal(err)
				}
			}
			want := writeAllocs + watch
			if size > 1<<10 {
				want += 2 // for the message, and for a new buffer of 1 KiB after it
			}
			const runs = 20
			collected := 0.0
			if size >= 1<<20 { // its garbage causes collections, which empty pools
				collected = 1
			}
			if got := allocs(want, write); got < want || got > want+collected {
				t.Errorf("%d bytes: got %v allocations, want %v", size, got, want)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range runs {
				write()
			}
			runtime.ReadMemStats(&after)
			most := 4<<10 + uint64(size)*11/10 // a buffer's size is rounded up
			if got := (after.TotalAlloc - before.TotalAlloc) / runs; got > most {
				t.Errorf("%d bytes: got %d bytes allocated per call, want at most %d", size, got, most)
			}
		}
	})
}
