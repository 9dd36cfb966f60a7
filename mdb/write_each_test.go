package mdb_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// onEach runs a test in every exec mode, and in the default one also by direct SQL.
func onEach(t *testing.T, test func(t *testing.T, s *mdb.Store, w *wire)) {
	t.Helper()
	run := func(name string, mode pgx.QueryExecMode, opts ...mdb.StoreOption) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var w wire
			pool := newPool(t, testdb.Shared(t), w.attach, oneConnection, execMode(mode))
			test(t, newStore(t, pool, append(opts, attempts(3))...), &w)
		})
	}
	for _, mode := range execModes {
		run(mode.String(), mode)
	}
	run("direct", pgx.QueryExecModeCacheStatement, mdb.WithDirectSQL())
}

// each writes ws, and fails the test unless all succeed.
func each(t *testing.T, s *mdb.Store, ws []mdb.Write) []mdb.Written {
	t.Helper()
	written := make([]mdb.Written, len(ws))
	for i, r := range s.WriteEach(t.Context(), ws) {
		if r.Err != nil {
			t.Fatalf("write %d: got error %v, want none", i, r.Err)
		}
		written[i] = r.Written
	}
	return written
}

// spread returns n writes, spread over the given number of streams in turn.
func spread(category mdb.Category, n, streams int) []mdb.Write {
	ws := make([]mdb.Write, n)
	for i := range ws {
		ws[i] = mdb.Write{Stream: category.Stream(fmt.Sprint(i % streams)), Message: mdb.NewMessage("Happened", map[string]int{"n": i})}
	}
	return ws
}

// checkStored compares the table with the results of the writes.
func checkStored(t *testing.T, s *mdb.Store, category mdb.Category, ws []mdb.Write, written []mdb.Written) {
	t.Helper()
	stored := make(map[string]mdb.Message)
	for m, err := range s.CategoryMessages(t.Context(), category) {
		if err != nil {
			t.Fatal(err)
		}
		stored[m.ID.String()] = m
	}
	if len(stored) != len(ws) {
		t.Errorf("got %d messages, want %d", len(stored), len(ws))
	}
	next := make(map[mdb.StreamName]int64)
	for i, w := range ws {
		m := stored[w.Message.ID.String()]
		want := mdb.Written{ID: w.Message.ID, Position: m.Position, GlobalPosition: m.GlobalPosition, Time: m.Time}
		if written[i] != want || m.Stream != w.Stream || m.Position != next[w.Stream] || string(m.Data) != fmt.Sprintf(`{"n": %d}`, i) {
			t.Errorf("write %d: got %+v, stored as %+v, want position %d", i, written[i], m, next[w.Stream])
		}
		next[w.Stream]++
	}
}

// TestWriteEach checks that a hundred messages are a hundred transactions, and that the
// client waits once.
func TestWriteEach(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *mdb.Store, w *wire) {
		for _, streams := range []int{100, 10, 1} {
			category := mdbtest.Category("each")
			write(t, s, "warm-1", mdb.NewMessage("Happened", nil))
			ws := spread(category, 100, streams)
			before := w.turns.Load()
			written := each(t, s, ws)
			want := int64(1)
			switch s.Pool().Config().ConnConfig.DefaultQueryExecMode {
			case pgx.QueryExecModeSimpleProtocol:
				want = 100
			}
			if got := w.turns.Load() - before; got != want {
				t.Errorf("%d streams: got %d round trips, want %d", streams, got, want)
			}
			if n := w.dials.Load(); n != 1 {
				t.Errorf("got %d connections, want 1", n)
			}
			checkStored(t, s, category, ws, written)
			if n := value[int](t, s.Pool(), `SELECT count(DISTINCT xmin::text) FROM message_store.messages WHERE message_store.category(stream_name) = $1`, string(category)); n != 100 {
				t.Errorf("%d streams: got %d transactions, want 100", streams, n)
			}
		}
	})
}

// TestWriteEachNothing checks calls that have nothing to send.
func TestWriteEachNothing(t *testing.T) {
	t.Parallel()
	var w wire
	s := newStore(t, newPool(t, testdb.Shared(t), w.attach))
	if got := s.WriteEach(t.Context(), nil); len(got) != 0 {
		t.Errorf("got %d results, want none", len(got))
	}
	for _, r := range s.WriteEach(t.Context(), make([]mdb.Write, 3)) {
		if n := len(wantError[*mdb.ArgumentError](t, r.Err).Faults); n != 2 {
			t.Errorf("got %d faults, want those of the name and the type", n)
		}
	}
	if n := w.dials.Load(); n != 0 {
		t.Errorf("got %d connections, want none", n)
	}
}

// TestWriteEachMixed checks every kind of failure among writes that succeed. Only later
// writes to the same stream are skipped.
func TestWriteEachMixed(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *mdb.Store, _ *wire) {
		s = newStore(t, s.Pool(), mdb.WithMaxMessageSize(1000), attempts(3))
		category := mdbtest.Category("mixed")
		old := mdb.NewMessage("Happened", 1)
		write(t, s, category.Stream("old"), old)
		failures := map[string]struct {
			write mdb.Write
			is    func(error) bool
		}{
			"version":   {mdb.Write{Message: mdb.NewMessage("Happened", 1), Options: []mdb.WriteOption{mdb.ExpectVersion(7)}}, is[*mdb.WrongVersionError]},
			"duplicate": {mdb.Write{Message: old}, is[*mdb.DuplicateIDError]},
			"foreign":   {mdb.Write{Message: old, Options: []mdb.WriteOption{mdb.Idempotent()}}, is[*mdb.DuplicateIDError]},
			"large":     {mdb.Write{Message: mdb.NewMessage("Happened", strings.Repeat("x", 1000))}, is[*mdb.ArgumentError]},
			"untyped":   {mdb.Write{Message: mdb.NewMessage("", 1)}, is[*mdb.ArgumentError]},
			"number":    {mdb.Write{Message: mdb.NewMessage("Happened", json.RawMessage(`1e1000000`))}, isPgError("22003")},
		}
		// Each stream gets two writes before the failure, and two after it.
		var ws []mdb.Write
		for i := range 5 {
			for name, failure := range failures {
				w := mdb.Write{Stream: category.Stream(name), Message: mdb.NewMessage("Happened", i)}
				if i == 2 {
					w = failure.write
					w.Stream = category.Stream(name)
				}
				ws = append(ws, w)
			}
			ws = append(ws, mdb.Write{Stream: category.Stream(fmt.Sprint("alone", i)), Message: mdb.NewMessage("Happened", i)},
				mdb.Write{Stream: category.Stream("good"), Message: mdb.NewMessage("Happened", i)})
		}
		seen := make(map[mdb.StreamName]int)
		failed := make(map[mdb.StreamName]int)
		for i, r := range s.WriteEach(t.Context(), ws) {
			stream := ws[i].Stream
			n := seen[stream]
			seen[stream]++
			failure, fails := failures[stream.ID()]
			var skipped *mdb.SkippedError
			switch {
			case !fails || n < 2:
				if r.Err != nil || r.Written.Position != int64(n) || r.Written.ID != ws[i].Message.ID || r.Written.Duplicate {
					t.Errorf("%s, write %d: got %+v, error %v", stream, n, r.Written, r.Err)
				}
			case n == 2:
				failed[stream] = i
				if !failure.is(r.Err) || errors.As(r.Err, &skipped) || r.Written != (mdb.Written{}) {
					t.Errorf("%s: got %+v, error %v", stream, r.Written, r.Err)
				}
			default:
				if !errors.As(r.Err, &skipped) || !failure.is(r.Err) || skipped.Failed != failed[stream] || skipped.Stream != stream {
					t.Errorf("%s, write %d: got error %v, want it skipped after %d", stream, n, r.Err, failed[stream])
				}
			}
			if r.Err != nil {
				checkNoCanary(t, r.Err)
			}
		}
		for name := range failures {
			if got := positions(t, s.Pool(), category.Stream(name)); len(got) != 2 {
				t.Errorf("%s: got %d messages, want 2", name, len(got))
			}
		}
		if got := positions(t, s.Pool(), category.Stream("good")); len(got) != 5 {
			t.Errorf("got %d messages, want 5", len(got))
		}
	})
}

func is[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

func isPgError(code string) func(error) bool {
	return func(err error) bool {
		var pgErr *pgconn.PgError
		return errors.As(err, &pgErr) && pgErr.Code == code
	}
}

// TestWriteEachIdempotent checks that messages which are already in their streams do not
// affect the writes after them.
func TestWriteEachIdempotent(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *mdb.Store, _ *wire) {
		ws := spread(mdbtest.Category("again"), 12, 4)
		for i := range ws {
			ws[i].Options = []mdb.WriteOption{mdb.Idempotent(), mdb.ExpectVersion(int64(i/4 - 1))}
		}
		first := each(t, s, ws[:7])
		again := each(t, s, ws)
		for i, w := range again {
			if w.Position != int64(i/4) || w.Duplicate != (i < 7) || i < 7 && w.GlobalPosition != first[i].GlobalPosition {
				t.Errorf("write %d: got %+v", i, w)
			}
		}
	})
}

// TestWriteEachRepeated checks that writes which were all stored before are looked up and
// not sent again.
func TestWriteEachRepeated(t *testing.T) {
	t.Parallel()
	const n = 50
	onEach(t, func(t *testing.T, s *mdb.Store, w *wire) {
		ws := spread(mdbtest.Category("repeated"), n, 1)
		for i := range ws {
			ws[i].Options = []mdb.WriteOption{mdb.Idempotent()}
		}
		first := each(t, s, ws)
		each(t, s, ws[:2]) // prepares the query
		before := w.turns.Load()
		for i, again := range each(t, s, ws) {
			first[i].Duplicate = true
			if again != first[i] {
				t.Errorf("write %d: got %+v, want %+v", i, again, first[i])
			}
		}
		turns, want := w.turns.Load()-before, int64(1+n)
		switch s.Pool().Config().ConnConfig.DefaultQueryExecMode {
		case pgx.QueryExecModeDescribeExec:
			want = 1 + 2*n // the query is described each time
		case pgx.QueryExecModeSimpleProtocol:
			want = 2 * n // writes are sent one by one
		}
		if turns != want {
			t.Errorf("got %d waits, want %d", turns, want)
		}
	})
}

// TestWriteEachMany checks that with more writes than fit into any buffer, many of which
// fail, client and server never wait for each other. All writes to the longest stream are
// sent together.
func TestWriteEachMany(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t), oneConnection))
	category := mdbtest.Category("many")
	const n = 10_000
	ws := make([]mdb.Write, n)
	data := json.RawMessage(`"` + strings.Repeat("x", 500) + `"`)
	for i := range ws {
		ws[i] = mdb.Write{Stream: category.Stream(fmt.Sprint(i)), Message: mdb.NewMessage("Happened", data)}
		switch i % 4 {
		case 0:
			ws[i].Options = []mdb.WriteOption{mdb.ExpectVersion(5)}
		case 1:
			ws[i].Stream = category.Stream("long")
		}
	}
	for i, r := range s.WriteEach(t.Context(), ws) {
		switch i % 4 {
		case 0:
			wantError[*mdb.WrongVersionError](t, r.Err)
		case 1:
			if r.Err != nil || r.Written.Position != int64(i/4) {
				t.Fatalf("write %d: got %+v, error %v", i, r.Written, r.Err)
			}
		default:
			if r.Err != nil || r.Written.Position != 0 {
				t.Fatalf("write %d: got %+v, error %v", i, r.Written, r.Err)
			}
		}
	}
	if got := value[int](t, s.Pool(), `SELECT count(*) FROM message_store.messages WHERE message_store.category(stream_name) = $1`, string(category)); got != n*3/4 {
		t.Errorf("got %d messages, want %d", got, n*3/4)
	}
}
