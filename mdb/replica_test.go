package mdb_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestReplicaServes checks which calls the replica serves, and which use the primary.
func TestReplicaServes(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	m := newMirrored(t)
	for way, s := range map[string]*mdb.Store{"procedures": m.store, "direct": m.open(t, mdb.WithDirectSQL(), mdb.WithGroupCommit())} {
		category := mdb.Category("serves" + way)
		stream := category.Stream("1")
		ctx := t.Context()
		var last mdb.Written
		for i := range 5 {
			last = write(t, s, stream, mdb.NewMessage("Happened", map[string]int{"n": i}))
		}
		if err := s.AwaitWrite(ctx, stream, last); err != nil {
			t.Fatal(err)
		}
		replica, primary := "replica", ""
		for _, tt := range []struct {
			what string
			want string
			call func() (int64, error)
		}{
			{"GetStreamMessages", replica, func() (int64, error) { return found(s.GetStreamMessages(ctx, stream)) }},
			{"GetStreamMessages, FromPrimary", primary, func() (int64, error) { return found(s.GetStreamMessages(ctx, stream, mdb.FromPrimary())) }},
			{"GetStreamMessages, Backwards", replica, func() (int64, error) { return found(s.GetStreamMessages(ctx, stream, mdb.Backwards())) }},
			{"GetStreamMessages, Since", replica, func() (int64, error) {
				return found(s.GetStreamMessages(ctx, stream, mdb.Since(time.Now().Add(-time.Hour))))
			}},
			{"GetCategoryMessages", replica, func() (int64, error) { return found(s.GetCategoryMessages(ctx, category)) }},
			{"GetCategoryMessages, FromPrimary", primary, func() (int64, error) { return found(s.GetCategoryMessages(ctx, category, mdb.FromPrimary())) }},
			{"StreamMessages", "replica replica replica", func() (n int64, err error) {
				for _, err = range s.StreamMessages(ctx, stream, mdb.WithBatchSize(2)) {
					n++
				}
				return n, err
			}},
			{"CategoryMessages, FromPrimary", primary, func() (n int64, err error) {
				for _, err = range s.CategoryMessages(ctx, category, mdb.WithBatchSize(2), mdb.FromPrimary()) {
					n++
				}
				return n, err
			}},
			{"GetMessage", replica, func() (int64, error) { return versionOf(s.GetMessage(ctx, last.ID)) }},
			{"GetLastStreamMessage", replica, func() (int64, error) { return versionOf(s.GetLastStreamMessage(ctx, stream)) }},
			{"GetLastStreamMessage, OfType", replica, func() (int64, error) { return versionOf(s.GetLastStreamMessage(ctx, stream, mdb.OfType("Happened"))) }},
			{"GetLastStreamMessage, FromPrimary", primary, func() (int64, error) { return versionOf(s.GetLastStreamMessage(ctx, stream, mdb.FromPrimary())) }},
			{"GetLastCategoryMessage", replica, func() (int64, error) { return versionOf(s.GetLastCategoryMessage(ctx, category)) }},
			{"GetLastCategoryMessage, OfType", primary, func() (int64, error) {
				return versionOf(s.GetLastCategoryMessage(ctx, category, mdb.OfType("Happened")))
			}},
			{"StreamVersion", primary, func() (int64, error) { v, err := s.StreamVersion(ctx, stream); return v + 1, err }},
			{"CategoryHead", primary, func() (int64, error) {
				head, err := s.CategoryHead(ctx, category)
				return head - last.GlobalPosition + 5, err
			}},
			{"GetAllMessages", primary, func() (int64, error) { return found(s.GetAllMessages(ctx, mdb.InCategories(category))) }},
			{"GetAllMessages, FromPrimary", primary, func() (int64, error) {
				return found(s.GetAllMessages(ctx, mdb.InCategories(category), mdb.FromPrimary()))
			}},
			{"Tx.GetStreamMessages", primary, func() (n int64, err error) {
				err = s.Atomically(ctx, nil, func(tx *mdb.Tx) (err error) {
					n, err = found(tx.GetStreamMessages(ctx, stream))
					return err
				})
				return n, err
			}},
		} {
			var n int64
			var err error
			if got := served(s, func() { n, err = tt.call() }); got != tt.want || n != 5 || err != nil {
				t.Errorf("%s, %s: got %d from %q, error %v, want 5 from %q", way, tt.what, n, got, err, tt.want)
			}
		}
	}
}

func found(ms []mdb.Message, err error) (int64, error)             { return int64(len(ms)), err }
func versionOf(m mdb.Message, err error) (position int64, _ error) { return m.Position + 1, err }

// TestReplicaLags checks what reads see while the replica lacks a message: what is missing or
// cannot be found is an answer of the primary.
func TestReplicaLags(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	m := newMirrored(t)
	s, ctx := m.store, t.Context()
	stream := mdb.Category("lags").Stream("1")
	first := write(t, s, stream, mdb.NewMessage("Happened", 1))
	if err := s.AwaitWrite(ctx, stream, first); err != nil {
		t.Fatal(err)
	}
	m.pause(t)
	second := write(t, s, stream, mdb.NewMessage("Happened", 2))
	fresh := stream + "x"
	third := write(t, s, fresh, mdb.NewMessage("Other", 3))

	reads := func(want int64, opts ...mdb.StreamOption) {
		t.Helper()
		if n, err := found(s.GetStreamMessages(ctx, stream, opts...)); n != want || err != nil {
			t.Errorf("got %d messages, error %v, want %d", n, err, want)
		}
	}
	reads(1)
	reads(2, mdb.FromPrimary())
	for what, call := range map[string]func() error{
		"GetMessage":                   func() error { _, err := s.GetMessage(ctx, second.ID); return err },
		"GetLastStreamMessage":         func() error { _, err := s.GetLastStreamMessage(ctx, fresh); return err },
		"GetLastStreamMessage, OfType": func() error { _, err := s.GetLastStreamMessage(ctx, fresh, mdb.OfType("Other")); return err },
		"RequireStream":                func() error { _, err := s.GetStreamMessages(ctx, fresh, mdb.RequireStream()); return err },
	} {
		var err error
		if got := served(s, func() { err = call() }); got != "primary" || err != nil {
			t.Errorf("%s: got error %v from %q, want the primary's answer", what, err, got)
		}
	}
	if _, err := s.GetMessage(ctx, uuid.New()); !errors.Is(err, mdb.ErrNoMessage) {
		t.Errorf("got error %v, want ErrNoMessage", err)
	}

	limited, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := s.AwaitWrite(limited, stream, second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got error %v, want the end of the context", err)
	}
	lag, err := s.ReplicaLag(ctx)
	if want := third.GlobalPosition - first.GlobalPosition; err != nil || lag.Positions != want || lag.Time <= 0 {
		t.Errorf("got lag %+v, error %v, want %d positions", lag, err, want)
	}
	ended := make(chan error)
	go func() { ended <- s.AwaitWrite(ctx, fresh, third) }()
	m.resume(t)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	reads(2)
	if lag, err := s.ReplicaLag(ctx); lag != (mdb.ReplicaLag{}) || err != nil {
		t.Errorf("got lag %+v, error %v, want none", lag, err)
	}
	if left, _ := m.departures(); left != 0 {
		t.Errorf("reads have left a replica that only lags:\n%s", m.journal.String())
	}
}

// TestReplicaAfterConflict checks that a writer which has lost a race reads what it has lost to, whatever
// the replica lacks.
func TestReplicaAfterConflict(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	m := newMirrored(t)
	ctx := t.Context()
	other := newStore(t, m.primary)
	m.pause(t)
	for way, lose := range map[string]func(*mdb.Store, mdb.StreamName, mdb.ProposedMessage) error{
		"WriteMessage": func(s *mdb.Store, stream mdb.StreamName, p mdb.ProposedMessage) error {
			_, err := s.WriteMessage(ctx, stream, p, mdb.ExpectNoStream())
			return err
		},
		"WriteEach": func(s *mdb.Store, stream mdb.StreamName, p mdb.ProposedMessage) error {
			results := s.WriteEach(ctx, []mdb.Write{{Stream: stream, Message: p, Options: []mdb.WriteOption{mdb.ExpectNoStream()}}})
			return results[0].Err
		},
		"Atomically": func(s *mdb.Store, stream mdb.StreamName, p mdb.ProposedMessage) error {
			return s.Atomically(ctx, nil, func(tx *mdb.Tx) error {
				_, err := tx.WriteMessage(ctx, stream, p, mdb.ExpectNoStream())
				return err
			})
		},
	} {
		for name, opts := range map[string][]mdb.StoreOption{"": nil, ", groups": {mdb.WithGroupCommit(), mdb.WithDirectSQL()}} {
			s := mustOpen(t, m, opts...)
			stream := mdb.Category("conflict" + way + strconv.Itoa(len(name))).Stream("1")
			write(t, other, stream, mdb.NewMessage("Happened", 1))
			if n, err := found(s.GetStreamMessages(ctx, stream)); n != 0 || err != nil {
				t.Fatalf("%s%s: got %d messages, error %v before the conflict", way, name, n, err)
			}
			wantError[*mdb.WrongVersionError](t, lose(s, stream, mdb.NewMessage("Happened", 2)))
			if n, err := found(s.GetStreamMessages(ctx, stream)); n != 1 || err != nil {
				t.Errorf("%s%s: got %d messages, error %v after the conflict", way, name, n, err)
			}
			if last, err := s.GetLastStreamMessage(ctx, stream); last.Position != 0 || err != nil {
				t.Errorf("%s%s: got %v, error %v after the conflict", way, name, last, err)
			}
			if n, err := found(s.GetStreamMessages(ctx, stream+"x")); n != 0 || err != nil {
				t.Errorf("%s%s: got %d messages, error %v of another stream", way, name, n, err)
			}
		}
	}
}

// mustOpen opens a further store, also while the replay is paused.
func mustOpen(t *testing.T, m *mirrored, opts ...mdb.StoreOption) *mdb.Store {
	t.Helper()
	m.resume(t)
	s := m.open(t, opts...)
	m.pause(t)
	return s
}

// TestReplicaFails checks that reads succeed while the replica is down, that the log has a line when they leave it
// and one when they return, and that they do not return before the replica has what was written meanwhile.
func TestReplicaFails(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	m := newMirrored(t)
	s, ctx := m.store, t.Context()
	stream := mdb.Category("fails").Stream("1")
	for round := range 2 {
		if err := m.Standby.Kill(); err != nil {
			t.Fatal(err)
		}
		var written mdb.Written
		for i := range 10 {
			written = write(t, s, stream, mdb.NewMessage("Happened", i))
			if err := s.AwaitWrite(ctx, stream, written); err != nil {
				t.Fatal(err)
			}
			if n, err := found(s.GetStreamMessages(ctx, stream)); n != written.Position+1 || err != nil {
				t.Fatalf("got %d messages, error %v, want %d", n, err, written.Position+1)
			}
		}
		if err := m.Standby.Boot(); err != nil {
			t.Fatal(err)
		}
		eventually(t, m.primary, "reads return", func() bool {
			n, err := found(s.GetStreamMessages(ctx, stream))
			if n != written.Position+1 || err != nil {
				t.Fatalf("got %d messages, error %v, want %d", n, err, written.Position+1)
			}
			return mdb.ReadsReplica(ctx, s)
		})
		left, returned := m.departures()
		if stats := s.Stats(); left != round+1 || returned != round+1 || stats.ReplicaFailures != int64(round+1) {
			t.Errorf("round %d: reads have left %d times and returned %d times, stats %+v\n%s", round, left, returned, stats, m.journal.String())
		}
	}
}

// TestReplicaFrozen checks that reads which end before a frozen replica answers lead to a question, after which
// reads use the primary.
func TestReplicaFrozen(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	m := newMirrored(t)
	s := m.store
	stream := mdb.Category("frozen").Stream("1")
	written := write(t, s, stream, mdb.NewMessage("Happened", 1))
	if err := s.AwaitWrite(t.Context(), stream, written); err != nil {
		t.Fatal(err)
	}
	if err := m.Standby.Freeze(); err != nil {
		t.Fatal(err)
	}
	eventually(t, m.primary, "a read succeeds", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		n, err := found(s.GetStreamMessages(ctx, stream))
		if err != nil && !errors.Is(err, context.DeadlineExceeded) || err == nil && n != 1 {
			t.Fatalf("got %d messages, error %v", n, err)
		}
		return err == nil
	})
	if err := m.Standby.Thaw(); err != nil {
		t.Fatal(err)
	}
	eventually(t, m.primary, "reads return", func() bool {
		_, err := s.GetStreamMessages(t.Context(), stream)
		return err == nil && mdb.ReadsReplica(t.Context(), s)
	})
}

// TestReplicaOfAnother checks that a server which is no standby of the store's serves no reads, and that Check says
// why.
func TestReplicaOfAnother(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	m := newMirrored(t)
	if err := m.store.Check(t.Context(), mdb.ReadOnly()); err != nil && strings.Contains(err.Error(), "replica") {
		t.Errorf("got error %v", err)
	}
	other := newMirrored(t)
	for what, tt := range map[string]struct {
		replica *pgxpool.Pool
		want    string
	}{
		"another server's standby": {other.replica, "another server"},
		"the primary":              {newPool(t, m.Primary.URL("postgres")), "not a standby"},
		"nothing":                  {newPool(t, "postgres://127.0.0.1:1/postgres"), "127.0.0.1"},
	} {
		var j journal
		s := newStore(t, m.primary, mdb.WithReplica(tt.replica), j.option())
		stream := mdb.Category("another").Stream("1")
		w := write(t, s, stream, mdb.NewMessage("Happened", 1))
		if n, err := found(s.GetStreamMessages(t.Context(), stream)); n != w.Position+1 || err != nil {
			t.Errorf("%s: got %d messages, error %v", what, n, err)
		}
		if got := s.Stats(); got.ReplicaReads != 0 || got.ReplicaFailures != 1 || !strings.Contains(j.String(), tt.want) {
			t.Errorf("%s: got stats %+v and log\n%s", what, got, j.String())
		}
		if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Check returns %v", what, err)
		}
		s.Close()
	}
}

// TestConnectReplica checks that Connect opens and closes the replica's pool, and does not need the replica.
func TestConnectReplica(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	m := newMirrored(t)
	stream := mdb.Category("connect").Stream("1")
	for what, url := range map[string]string{"up": m.Standby.URL("postgres"), "down": "postgres://127.0.0.1:1/postgres"} {
		s, err := mdb.Connect(t.Context(), m.Primary.URL("postgres"), mdb.ConnectReplica(url))
		if err != nil {
			t.Fatal(err)
		}
		w := write(t, s, stream, mdb.NewMessage("Happened", 1))
		if n, err := found(s.GetStreamMessages(t.Context(), stream, mdb.FromPrimary())); n != w.Position+1 || err != nil {
			t.Errorf("%s: got %d messages, error %v", what, n, err)
		}
		if what == "up" {
			eventually(t, m.primary, "reads use the replica", func() bool { return mdb.ReadsReplica(t.Context(), s) })
		}
		if got := served(s, func() { _, err = s.GetStreamMessages(t.Context(), stream) }); err != nil || got != map[string]string{"up": "replica", "down": "primary"}[what] {
			t.Errorf("%s: got error %v from %q", what, err, got)
		}
		s.Close()
	}
	until(t, m.primary, `SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'connect%'`)
	if _, err := mdb.Connect(t.Context(), m.Primary.URL("postgres"), mdb.ConnectReplica("postgres://host:port")); err == nil || !strings.Contains(err.Error(), "replica") {
		t.Errorf("got error %v", err)
	}
}

// TestReplicaArguments checks what is rejected before anything is sent.
func TestReplicaArguments(t *testing.T) {
	t.Parallel()
	pool := newPool(t, "postgres://127.0.0.1:1/postgres")
	for what, replica := range map[string]*pgxpool.Pool{"nil": nil, "the store's own pool": pool} {
		_, err := mdb.New(pool, mdb.WithReplica(replica))
		if fault := wantError[*mdb.ArgumentError](t, err).Faults[0]; fault.Argument != "replica" || fault.Given != what {
			t.Errorf("%s: got %+v", what, fault)
		}
	}
	s := newStore(t, pool)
	_, err := s.ReplicaLag(t.Context())
	wantError[*mdb.ArgumentError](t, err)
	for _, w := range []mdb.Written{{}, {ID: uuid.New(), Position: -1}} {
		wantError[*mdb.ArgumentError](t, s.AwaitWrite(t.Context(), "a-1", w))
	}
	wantError[*mdb.ArgumentError](t, s.AwaitWrite(t.Context(), "", mdb.Written{ID: uuid.New()}))
	if err := s.AwaitWrite(t.Context(), "a-1", mdb.Written{ID: uuid.New()}); err != nil {
		t.Errorf("got error %v without a replica", err)
	}
}

// TestAwaitReplacedWrite checks that AwaitWrite reports that another message has the place of the one that it waits
// for, with and without the right to read the table.
func TestAwaitReplacedWrite(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	m := newMirrored(t)
	stream := mdb.Category("replaced").Stream("1")
	w := write(t, m.store, stream, mdb.NewMessage("Happened", 1))
	exec(t, m.primary, "CREATE ROLE tableless; GRANT USAGE ON SCHEMA message_store TO tableless; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA message_store TO tableless")
	exec(t, m.primary, `ALTER FUNCTION message_store.get_stream_messages SECURITY DEFINER SET search_path = message_store, pg_temp`)
	m.CatchUp(t)
	tableless := openMirrored(t, m.primary, newPool(t, m.Standby.URL("postgres"), asRole("tableless")))
	for i, s := range []*mdb.Store{m.store, tableless} {
		if err := s.AwaitWrite(t.Context(), stream, w); err != nil {
			t.Errorf("%d: got error %v", i, err)
		}
		err := s.AwaitWrite(t.Context(), stream, mdb.Written{ID: uuid.New()})
		if !errors.Is(err, mdb.ErrNoMessage) || !strings.Contains(err.Error(), w.ID.String()) {
			t.Errorf("%d: got error %v", i, err)
		}
		if !mdb.ReadsReplica(t.Context(), s) {
			t.Errorf("%d: reads have left the replica", i)
		}
	}
}

// TestReplicaExample runs the examples with a replica.
func TestReplicaExample(t *testing.T) {
	pgtest.NeedTime(t)
	m := newMirrored(t)
	t.Setenv("DATABASE_URL", m.Primary.URL("postgres"))
	t.Setenv("REPLICA_URL", m.Standby.URL("postgres"))
	if got, want := testdb.Output(t, ExampleConnectReplica), "1 message on the replica, 1 on the primary\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := testdb.Output(t, ExampleStore_ReplicaLag), "the replica lacks 0 positions, for 0s\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestReplicaHookPanics checks that a panic of a hook of the replica's pool, while the store asks the replica, does not end the
// process, and that a closed store asks nothing.
func TestReplicaHookPanics(t *testing.T) {
	t.Parallel()
	url := testdb.Shared(t)
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { panic("a hook") }
	replica, err := pgxpool.NewWithConfig(t.Context(), cfg) // it is not closed, because the panic keeps its connection
	if err != nil {
		t.Fatal(err)
	}
	var j journal
	s := newStore(t, newPool(t, url), mdb.WithReplica(replica), j.option())
	for range 2 {
		if _, err := s.GetStreamMessages(t.Context(), "panic-1"); err != nil {
			t.Error(err)
		}
		s.Close()
	}
	if text := j.String(); strings.Count(text, "a hook") != 1 {
		t.Errorf("got log\n%s", text)
	}
}

// TestReplicaReturnsCaughtUp checks that reads do not return to a replica before it has what AwaitWrite did not wait for, because
// reads had left it.
func TestReplicaReturnsCaughtUp(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	m := newMirrored(t)
	s := m.store
	stream := mdb.Category("returns").Stream("1")
	m.pause(t)
	mdb.AskReplica(s)
	w := write(t, s, stream, mdb.NewMessage("Happened", 1))
	if err := s.AwaitWrite(t.Context(), stream, w); err != nil {
		t.Fatal(err)
	}
	read := func() {
		t.Helper()
		if n, err := found(s.GetStreamMessages(t.Context(), stream)); n != 1 || err != nil {
			t.Fatalf("got %d messages, error %v, want 1", n, err)
		}
	}
	eventually(t, m.primary, "the store has found that the replica lags", func() bool {
		read()
		return strings.Contains(m.journal.String(), "has not replayed")
	})
	m.resume(t)
	eventually(t, m.primary, "reads return", func() bool {
		read()
		return mdb.ReadsReplica(t.Context(), s)
	})
	read()
}
