package consumer

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// A writer is a process's part of a position stream on a server.
type writer struct {
	*positionStream

	conn *pgx.Conn
	db   positionDB
}

func newWriter(t *testing.T, url, category string) *writer {
	t.Helper()
	start := int64(0)
	conn := testdb.Session(t, url)
	return &writer{conn: conn, db: onConn{conn}, positionStream: &positionStream{
		consumer: "consumer", category: category, name: category + ":position-x", partitions: 1, start: &start,
		flushing: flushing{time.Nanosecond, 1}, logger: slog.New(slog.DiscardHandler), run: uuid.New(),
		handled: func() int64 { return 0 }, released: make(map[int]ledger.Move),
	}}
}

func (w *writer) join(t *testing.T) {
	t.Helper()
	if _, err := w.on(w.db).join(t.Context(), ledger.JoinParams{}); err != nil {
		t.Error(err)
	}
}

// move offers a position, and returns the answer.
func (w *writer) move(t *testing.T, to int64) ledger.Tick {
	t.Helper()
	tick, err := w.on(w.db).beat(t.Context(), ledger.Member{}, "", []ledger.Move{{Partition: partition{Category: w.category}, To: to}})
	if err != nil {
		t.Error(err)
	}
	return tick
}

// stored returns the positions that a stream says.
func (w *writer) stored(t *testing.T) string {
	t.Helper()
	rows, _ := w.conn.Query(t.Context(), "SELECT (m.data ->> 'position')::bigint FROM message_store.messages AS m WHERE m.stream_name = $1 ORDER BY m.position", w.name)
	got, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(got)
}

// A turnstile lets a process send one statement at a time, when it is its turn.
type turnstile struct {
	positionDB

	turns, done chan struct{}
}

func (g *turnstile) pass(f func()) {
	<-g.turns
	f()
	g.done <- struct{}{}
}

func (g *turnstile) last(ctx context.Context, stream string, blind bool) (r positionRecord, timeline string, err error) {
	g.pass(func() { r, timeline, err = g.positionDB.last(ctx, stream, blind) })
	return r, timeline, err
}

func (g *turnstile) store(ctx context.Context, s positionToStore) (outcome storedPosition, err error) {
	g.pass(func() { outcome, err = g.positionDB.store(ctx, s) })
	return outcome, err
}

// used is not one of the statements whose order matters.
func (g *turnstile) used(context.Context) (int64, error) { return 0, nil }

// TestPositionStreamInterleavings checks all orders of the statements of a process that stores a position and of one that starts: the
// one that has started has the position that was stored last, and the other one stores nothing after that and learns that it was replaced.
func TestPositionStreamInterleavings(t *testing.T) {
	t.Parallel()
	url := testdb.Shared(t)
	const steps = 7 // both together send at most as many statements before one has ended
	outcomes := make(map[string]int)
	conns := [2]*writer{newWriter(t, url, "x"), newWriter(t, url, "x")}
	for schedule := range 1 << steps {
		category := fmt.Sprintf("orders%s%d", uuid.NewString()[:8], schedule)
		a, b := *conns[0], *conns[1]
		for _, w := range []*writer{&a, &b} {
			s := *w.positionStream
			s.run, s.category, s.name = uuid.New(), category, category+":position-x"
			s.released = make(map[int]ledger.Move)
			w.positionStream = &s
		}
		a.join(t)
		var tick ledger.Tick
		gates := [2]*turnstile{}
		ended := [2]chan struct{}{}
		var running sync.WaitGroup
		for i := range gates {
			gates[i] = &turnstile{positionDB: conns[i].db, turns: make(chan struct{}), done: make(chan struct{})}
			ended[i] = make(chan struct{})
		}
		a.db, b.db = gates[0], gates[1]
		for i, f := range []func(){func() { tick = a.move(t, 10) }, func() { b.join(t) }} {
			running.Go(func() {
				defer close(ended[i])
				f()
			})
		}
		trace, over := "", [2]bool{}
		for step := 0; !over[0] || !over[1]; step++ {
			i := schedule >> min(step, steps-1) & 1
			if over[i] {
				i = 1 - i
			}
			select {
			case gates[i].turns <- struct{}{}:
				<-gates[i].done
				trace += string(rune('a' + i))
			case <-ended[i]:
				over[i] = true
			}
		}
		running.Wait()
		want := "[0 0]"
		if len(tick.Moved) > 0 {
			want = "[0 10 10]"
		}
		if got := a.stored(t); got != want || !tick.Replaced && len(tick.Moved) == 0 {
			t.Errorf("%s: got %v stored and %+v, want %v", trace, got, tick, want)
		}
		outcomes[want]++
		a.db, b.db = conns[0].db, conns[1].db
		if tick := a.move(t, 20); !tick.Replaced || a.stored(t) != want {
			t.Errorf("%s: got %+v and %v stored for the process that was replaced", trace, tick, a.stored(t))
		}
		if tick := b.move(t, 20); len(tick.Moved) != 1 {
			t.Errorf("%s: got %+v for the process that has taken over", trace, tick)
		}
	}
	if outcomes["[0 0]"] == 0 || outcomes["[0 10 10]"] == 0 {
		t.Errorf("got %v: not all outcomes were seen", outcomes)
	}
}

// TestPositionStreamOverlap checks that a process that starts while another one's position is about to be committed waits for that, and
// continues after it, or where it was if it is rolled back.
func TestPositionStreamOverlap(t *testing.T) {
	t.Parallel()
	for end, want := range map[string]string{"COMMIT": "[0 10 10]", "ROLLBACK": "[0 0]"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			url := testdb.Shared(t)
			category := "overlap" + uuid.NewString()[:8]
			a, b, other := newWriter(t, url, category), newWriter(t, url, category), testdb.Session(t, url)
			a.join(t)
			exec := func(sql string) {
				t.Helper()
				if _, err := a.conn.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			exec("BEGIN")
			if tick := a.move(t, 10); len(tick.Moved) != 1 {
				t.Fatalf("got %+v", tick)
			}
			joined := make(chan struct{})
			go func() {
				defer close(joined)
				b.join(t)
			}()
			for waits := false; !waits; {
				if err := other.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)", b.conn.PgConn().PID()).Scan(&waits); err != nil {
					t.Fatal(err)
				}
			}
			exec(end)
			<-joined
			if got := b.stored(t); got != want {
				t.Errorf("got %v, want %v", got, want)
			}
			if tick := a.move(t, 20); !tick.Replaced {
				t.Errorf("got %+v for the process that was replaced", tick)
			}
		})
	}
}

// TestPositionStreamFence checks that a position is stored only if the server has the message there at or before it, and has the
// same timeline.
func TestPositionStreamFence(t *testing.T) {
	t.Parallel()
	url := testdb.Shared(t)
	w := newWriter(t, url, "fence"+uuid.NewString()[:8])
	w.join(t)
	id := uuid.New()
	var position int64
	var at time.Time
	if _, err := w.conn.Exec(t.Context(), "SELECT message_store.write_message($1::varchar, $2::varchar, 'Happened'::varchar, '{}'::jsonb)", id.String(), w.category+"-1"); err != nil {
		t.Fatal(err)
	}
	if err := w.conn.QueryRow(t.Context(), "SELECT global_position, timezone('UTC', time) FROM message_store.messages WHERE id = $1", id).Scan(&position, &at); err != nil {
		t.Fatal(err)
	}
	to := func(position int64, id uuid.UUID, at time.Time, timeline string) storedPosition {
		t.Helper()
		outcome, err := w.db.store(t.Context(), positionToStore{
			stream: w.name, id: uuid.New(), position: position, expected: w.last.version, anchor: ledger.Anchor{ID: id, Time: at}, timeline: timeline,
		})
		if err != nil {
			t.Fatal(err)
		}
		return outcome
	}
	for what, got := range map[string]storedPosition{
		"another message":     to(position, uuid.New(), at, w.timeline),
		"a position before":   to(position-1, id, at, w.timeline),
		"another time":        to(position, id, at.Add(time.Microsecond), w.timeline),
		"another timeline":    to(position, id, at, "0000ffff/1"),
		"no message, another": to(position, uuid.Nil, time.Time{}, "0000ffff/1"),
	} {
		if got != positionRejected {
			t.Errorf("%s: got %v, want that it is rejected", what, got)
		}
	}
	if w.timeline == "" {
		t.Error("the timeline is not known")
	}
	if got := to(position+100, id, at, w.timeline); got != positionStored {
		t.Errorf("got %v, want that it is stored", got)
	}
	if got := to(position+100, id, at, w.timeline); got != positionOutdated {
		t.Errorf("got %v, want that the version is another one", got)
	}
	if got := w.stored(t); got != fmt.Sprintf("[0 %d]", position+100) {
		t.Errorf("got %v stored", got)
	}
}

// TestPositionStreamHas checks that a message that was the last one of a stream is found by its position and ID, also if others follow.
func TestPositionStreamHas(t *testing.T) {
	t.Parallel()
	w := newWriter(t, testdb.Shared(t), "has"+uuid.NewString()[:8])
	empty := w.last
	empty.version = -1
	w.join(t)
	first := w.last
	if tick := w.move(t, 10); len(tick.Moved) != 1 {
		t.Fatalf("got %+v", tick)
	}
	for _, tt := range []struct {
		name   string
		stream string
		r      positionRecord
		want   bool
	}{
		{"none", w.name, empty, true},
		{"the first", w.name, first, true},
		{"the last", w.name, w.last, true},
		{"the next", w.name, positionRecord{version: 2, id: uuid.NewString()}, false},
		{"another ID", w.name, positionRecord{version: 1, id: first.id}, false},
		{"another stream", w.name + "0", w.last, false},
	} {
		if got, err := w.db.has(t.Context(), tt.stream, tt.r); err != nil || got != tt.want {
			t.Errorf("%s: got %v, %v, want %v", tt.name, got, err, tt.want)
		}
	}
}

// TestPositionStreamReadOnly checks that a server which accepts no writes is noticed by a look, so that another connection is opened before a
// position is to be stored.
func TestPositionStreamReadOnly(t *testing.T) {
	t.Parallel()
	w := newWriter(t, testdb.Shared(t), "readonly"+uuid.NewString()[:8])
	w.join(t)
	if _, err := w.conn.Exec(t.Context(), "SET default_transaction_read_only = on"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.on(w.db).beat(t.Context(), ledger.Member{}, "", nil); !isReadOnly(err) {
		t.Errorf("got %v, want that the server is read-only", err)
	}
}

// TestPositionStreamWithoutTimeline checks that a position is stored if the role may not ask for the server's timeline.
func TestPositionStreamWithoutTimeline(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	owner, w := testdb.Session(t, url), newWriter(t, url, "a")
	if _, err := owner.Exec(t.Context(), "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_walfile_name(pg_lsn) FROM PUBLIC"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.conn.Exec(t.Context(), "SET ROLE message_store"); err != nil {
		t.Fatal(err)
	}
	w.join(t)
	if tick := w.move(t, 10); len(tick.Moved) != 1 || tick.Timeline != "" || w.stored(t) != "[0 10]" {
		t.Errorf("got %+v and %v stored", tick, w.stored(t))
	}
}
