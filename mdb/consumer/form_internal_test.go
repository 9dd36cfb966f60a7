package consumer

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestFormsOnce checks that each form that moves the checkpoint handles messages once, in all
// modes of pgx, also if a call is repeated whose outcome was unknown.
func TestFormsOnce(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		for name, h := range txHandlers(insertLog, nil) {
			t.Run(mode.String()+" "+name, func(t *testing.T) {
				t.Parallel()
				s := newStand(t, 3, database(t), execMode(mode), oneConnection)
				for range 2 {
					if done, err := s.handle(h); done != 3 || err != nil {
						t.Fatalf("got %d, %v, want 3 messages", done, err)
					}
					s.check(3)
				}
			})
		}
	}
}

// TestFormsBehindPgBouncer checks the same through PgBouncer in transaction mode.
func TestFormsBehindPgBouncer(t *testing.T) {
	t.Parallel()
	bouncers := pgtest.PgBouncers(t)
	if len(bouncers) == 0 {
		t.Skip("there is no PgBouncer")
	}
	for _, b := range bouncers {
		direct := ownDatabase(t)
		if testdb.Official() { // a pooler leads to sessions that have the server's settings
			exec(t, newPool(t, direct), "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = message_store, public', current_database()); END$$")
		}
		url := b.Start(t, direct, "transaction")
		for _, mode := range execModes {
			if mode == pgx.QueryExecModeCacheStatement && !b.KeepsStatements {
				continue
			}
			for name, h := range txHandlers(insertLog, nil) {
				t.Run(fmt.Sprintf("PgBouncer %s %v %s", b.Version, mode, name), func(t *testing.T) {
					s := newStand(t, 3, url, execMode(mode), behindPooler)
					for range 2 {
						if done, err := s.handle(h); done != 3 || err != nil {
							t.Fatalf("got %d, %v, want 3 messages", done, err)
						}
						s.check(3)
					}
				})
			}
		}
	}
}

// TestFormsRoundTrips checks that the checkpoint costs no round trip: COMMIT takes it along.
func TestFormsRoundTrips(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		for name, h := range txHandlers(insertLog, nil) {
			t.Run(mode.String()+" "+name, func(t *testing.T) {
				t.Parallel()
				const n = 4
				var w tap
				s := newStand(t, 2*n, database(t), execMode(mode), oneConnection, w.attach)
				all := s.messages
				want := map[string]int{"EachTx": n + 2, "BatchTx": n + 2, "EachQueued": 1}[name]
				if mode == pgx.QueryExecModeDescribeExec { // which describes, then executes, what has arguments
					want = map[string]int{"EachTx": 2*n + 3, "BatchTx": 2*n + 3, "EachQueued": 2}[name]
				}
				for i := range 2 { // the first call prepares statements
					s.messages = all[i*n : i*n+n]
					w.reset(-1, -1)
					done, err := s.handle(h)
					if done != n || err != nil {
						t.Fatal(done, err)
					}
					s.row.Position = s.messages[n-1].GlobalPosition
					if trips, _, _ := w.counts(); i == 1 && trips != want {
						t.Errorf("got %d round trips, want %d", trips, want)
					}
				}
			})
		}
	}
}

// TestEachTxAdapts checks how many messages EachTx takes into a transaction.
func TestEachTxAdapts(t *testing.T) {
	t.Parallel()
	h := txHandlers(insertLog, nil)["EachTx"]
	s := newStand(t, 5, database(t))
	queued := txHandlers(insertLog, nil)["EachQueued"]
	c := defaultForms()
	for _, want := range [][2]int{{100, 1000}, {7, 7}} {
		if got := [2]int{h.form(c).most, queued.form(c).most}; got != want {
			t.Errorf("transactions take %v messages, want %v", got, want)
		}
		c.perTx.messages = 7
	}
	s.config.perTx.handling = 1 // has passed after the first message
	if done, err := s.handle(h); done != 1 || err != nil {
		t.Fatalf("got %d, %v, want one message", done, err)
	}
	s.check(1)
	s.row.Position = s.messages[0].GlobalPosition
	s.config.perTx.handling = defaultForms().perTx.handling * 1000
	s.messages = s.messages[1:]
	if done, err := s.handle(h); done != 4 || err != nil {
		t.Fatalf("got %d, %v, want the other four", done, err)
	}
	s.check(4)
	if n := value[int](t, s.store.Pool(), `SELECT count(DISTINCT xid) FROM public.log WHERE message = ANY ($1::text[]::uuid[])`,
		ids(s.messages)); n != 1 {
		t.Errorf("four messages that wait have taken %d transactions, want 1", n)
	}
}

func ids(ms []mdb.Message) (ids []string) {
	for i := range ms {
		ids = append(ids, ms[i].ID.String())
	}
	return ids
}

// TestOneOfSeveralFails checks that if one message fails, those before it are committed, and it
// alone is the failure, in whichever way it fails.
func TestOneOfSeveralFails(t *testing.T) {
	t.Parallel()
	errFailed := errors.New("failed")
	for _, failed := range []int{0, 1, 3, 4} {
		for way, fail := range map[string]func() error{
			"error": func() error { return errFailed },
			"panic": func() error { panic(errFailed) },
		} {
			s := newStand(t, 5, database(t))
			calls := make(map[int64]int)
			for name, h := range txHandlers(insertLog, func(m mdb.Message) error {
				if calls[m.Position]++; m.Position == int64(failed) {
					return fail()
				}
				return nil
			}) {
				t.Run(fmt.Sprintf("%s %s at %d", name, way, failed), func(t *testing.T) {
					if name == "BatchTx" && way == "panic" {
						t.Skip("a panic does not say which message is its cause")
					}
					s := standOn(t, s.store, 5)
					clear(calls)
					done, err := s.handle(h)
					var batchErr *BatchError
					if done != failed || !errors.As(err, &batchErr) || batchErr.Index != failed {
						t.Fatalf("got %d, %v, want that message %d fails", done, err, failed)
					}
					if way == "error" && !errors.Is(err, errFailed) || way == "panic" && !errors.As(err, new(*mdb.PanicError)) {
						t.Errorf("got error %v", err)
					}
					s.check(failed)
					if calls[int64(failed)] != 1 || calls[int64(failed)+1] != 0 {
						t.Errorf("the handler was called %v times", calls)
					}
				})
			}
		}
	}
}

// TestPrefixFailsToo checks that a message that fails only when it is handled again is the
// failure then.
func TestPrefixFailsToo(t *testing.T) {
	t.Parallel()
	s := newStand(t, 0, database(t))
	for name := range txHandlers(insertLog, nil) {
		t.Run(name, func(t *testing.T) {
			s := standOn(t, s.store, 5)
			calls := make(map[int64]int)
			h := txHandlers(insertLog, func(m mdb.Message) error {
				if calls[m.Position]++; m.Position == 3 || m.Position == 1 && calls[1] == 2 {
					return fmt.Errorf("message %d", m.Position)
				}
				return nil
			})[name]
			done, err := s.handle(h)
			var batchErr *BatchError
			if done != 1 || !errors.As(err, &batchErr) || batchErr.Index != 1 || batchErr.Err.Error() != "message 1" {
				t.Fatalf("got %d, %v, want that message 1 fails", done, err)
			}
			s.check(1)
		})
	}
}

// TestFormFenced checks that a call has no effect after another member has taken over, and that
// neither a success nor a failure of its handler counts.
func TestFormFenced(t *testing.T) {
	t.Parallel()
	store := newStand(t, 0, database(t)).store
	for position, failing := range []error{Permanent(errors.New("failed")), Permanent(errors.New("failed later")), nil} {
		for name, h := range failingAt(int64(position), failing) {
			t.Run(fmt.Sprintf("%s %v", name, failing), func(t *testing.T) {
				s := standOn(t, store, 3)
				s.rob()
				if done, err := s.handle(h); done != 0 || !ledger.IsFenced(err) || errors.As(err, new(*BatchError)) {
					t.Errorf("got %d, %v, want the error of the fence", done, err)
				}
				s.check(0)
			})
		}
	}
}

// TestClaimedAgain checks the same after this process has lost the partition and claimed it again.
func TestClaimedAgain(t *testing.T) {
	t.Parallel()
	store := newStand(t, 0, database(t)).store
	for position, failing := range []error{Permanent(errors.New("failed")), nil} {
		for name, h := range failingAt(int64(position), failing) {
			t.Run(fmt.Sprintf("%s %v", name, failing), func(t *testing.T) {
				s := standOn(t, store, 3)
				exec(t, store.Pool(), `UPDATE message_store_consumers.checkpoints SET epoch = epoch + 1 WHERE consumer = $1`, s.member.Consumer)
				if done, err := s.handle(h); done != 0 || !ledger.IsFenced(err) {
					t.Errorf("got %d, %v, want the error of the fence", done, err)
				}
				s.check(0)
			})
		}
	}
}

// failingAt returns handlers that return the error for the message at a position.
func failingAt(position int64, err error) map[string]Handler {
	return txHandlers(insertLog, func(m mdb.Message) error {
		if m.Position == position {
			return err
		}
		return nil
	})
}

// TestNotSetUp checks that an error of the move is not that of a message.
func TestNotSetUp(t *testing.T) {
	t.Parallel()
	s := newStand(t, 2, ownDatabase(t))
	exec(t, s.store.Pool(), `ALTER FUNCTION message_store_consumers.move RENAME TO moved`)
	for name, h := range txHandlers(insertLog, nil) {
		done, err := s.handle(h)
		if done != 0 || !isTransient(err) || errors.As(err, new(*BatchError)) {
			t.Errorf("%s: got %d, %v, want a transient error", name, done, err)
		}
	}
	s.check(0)
}

// TestBatch checks the errors of Batch, and that its context has no ID.
func TestBatch(t *testing.T) {
	t.Parallel()
	errFailed := errors.New("failed")
	for _, tt := range []struct {
		err, want error
		named     bool
	}{
		{nil, nil, false},
		{errFailed, errFailed, false},
		{&BatchError{1, errFailed}, errFailed, true},
		{&BatchError{3, errFailed}, errFailed, false},
		{&BatchError{-1, errFailed}, errFailed, false},
	} {
		h := Batch(func(ctx context.Context, ms []mdb.Message) error {
			if d := FromContext(ctx); d.Consumer != "name" || d.Partition != 5 || len(ms) != 3 {
				t.Errorf("got %v, %v", d, ms)
			}
			if err := protect(func() error { FromContext(ctx).ID(0); return nil }); err == nil {
				t.Error("a batch has an ID")
			}
			return tt.err
		})
		ds := []delivery{{partition: partition{Number: 5}}, {}, {}}
		done, err := h.form(formConfig{consumer: "name", batchSize: 7}).call(t.Context(), call{deliveries: ds})
		if !errors.Is(err, tt.want) || (err == nil) != (done == 3) {
			t.Errorf("%v: got %d, %v", tt.err, done, err)
		}
		if errors.As(err, new(*BatchError)) != tt.named {
			t.Errorf("%v: got error %v", tt.err, err)
		}
	}
	if most := Batch(nil).form(formConfig{batchSize: 7}).most; most != 7 {
		t.Errorf("a batch takes %d messages, want 7", most)
	}
}

// TestForms checks what the forms say about themselves.
func TestForms(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		given, empty Handler
		name         string
		moves        bool
	}{
		{Each(func(context.Context, mdb.Message) error { return nil }), Each(nil), "Each", false},
		{Batch(func(context.Context, []mdb.Message) error { return nil }), Batch(nil), "Batch", false},
		{EachTx(func(context.Context, pgx.Tx, mdb.Message) error { return nil }), EachTx(nil), "EachTx", true},
		{BatchTx(func(context.Context, pgx.Tx, []mdb.Message) error { return nil }), BatchTx(nil), "BatchTx", true},
		{EachQueued(func(*pgx.Batch, mdb.Message) error { return nil }), EachQueued(nil), "EachQueued", true},
	} {
		form := tt.given.form(defaultForms())
		if tt.given.name != tt.name || form.moves != tt.moves || tt.given.transactional != tt.moves || !tt.given.valid || tt.empty.valid {
			t.Errorf("%s: got %+v, %+v", tt.name, tt.given, form)
		}
		// Order is kept within a cardinal ID, or in the partition.
		if (form.lane == nil) != (tt.name != "Each") {
			t.Errorf("%s has a lane: %t", tt.name, form.lane != nil)
		}
	}
}
