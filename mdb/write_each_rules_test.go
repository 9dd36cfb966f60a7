package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestWriteEachHalfSent checks that a request of which only a part was sent counts as sent.
func TestWriteEachHalfSent(t *testing.T) {
	t.Parallel()
	for n, unknown := range map[int]bool{1: true, 3: false} {
		for _, streams := range []int{12, 1} {
			t.Run(fmt.Sprintf("%d attempts, %d streams", n, streams), func(t *testing.T) {
				t.Parallel()
				var w wire
				s := newStore(t, newPool(t, testdb.Shared(t), w.attach, oneConnection), attempts(n))
				write(t, s, "warm-1", mdb.NewMessage("Happened", nil))
				category := mdbtest.Category("half")
				ws := spread(category, 12, streams)
				w.cut(cut{string(category), halved})
				for i, r := range s.WriteEach(t.Context(), ws) {
					switch {
					case unknown && !isUnknown(r.Err):
						t.Errorf("write %d: got error %v, want an unknown outcome", i, r.Err)
					case !unknown && r.Err != nil:
						t.Errorf("write %d: got error %v", i, r.Err)
					}
				}
			})
		}
	}
}

// TestWriteEachUnknownAfterFailed checks that a lost write is not reported as skipped, which
// means that it was not written, if the one before it, which was lost with it, fails later.
func TestWriteEachUnknownAfterFailed(t *testing.T) {
	t.Parallel()
	other := mdbtest.SharedStore(t)
	var w wire
	stream := mdbtest.Category("after").Stream("1")
	ws := spread(stream.Category(), 3, 1)
	log := journal{onRecord: func() {
		write(t, other, mdbtest.Category("elsewhere").Stream("1"), ws[0].Message)
	}}
	s := newStore(t, newPool(t, testdb.Shared(t), w.attach, oneConnection), log.option(), attempts(3))
	write(t, s, "warm-1", mdb.NewMessage("Happened", nil))
	w.cut(cut{string(stream.Category()), lost})
	results := s.WriteEach(t.Context(), ws)
	if duplicate := wantError[*mdb.DuplicateIDError](t, results[0].Err); duplicate.Differs != "stream" {
		t.Errorf("got error %v, want a difference in the stream", results[0].Err)
	}
	for i, r := range results[1:] {
		if !isUnknown(r.Err) || is[*mdb.SkippedError](r.Err) {
			t.Errorf("write %d: got error %v, want an unknown outcome", 1+i, r.Err)
		}
	}
}

// TestWriteEachNothingGetsThrough checks that a call ends after the time of the policy if no
// request can be sent, as long as that may be.
func TestWriteEachNothingGetsThrough(t *testing.T) {
	t.Parallel()
	var w wire
	s := newStore(t, newPool(t, testdb.Shared(t), w.attach, oneConnection), forAWhile())
	category := mdbtest.Category("nothing")
	const cuts = 10_000
	for range cuts {
		w.cut(cut{string(category), unsent})
	}
	for i, r := range s.WriteEach(t.Context(), spread(category, 3, 3)) {
		if i < 3 && !errors.Is(r.Err, mdb.ErrUnavailable) || r.Err == nil || isUnknown(r.Err) {
			t.Errorf("write %d: got error %v, want an unavailable server", i, r.Err)
		}
	}
	if n := cuts - w.uncut(); n <= 2 || n == cuts {
		t.Errorf("got %d attempts, want more than those of the policy", n)
	}
}

// TestWriteEachAnsweredByErrors checks that writes which could not be sent are sent again
// without counting that as an attempt, if the server has answered others, even if only by
// errors.
func TestWriteEachAnsweredByErrors(t *testing.T) {
	t.Parallel()
	var w wire
	s := newStore(t, newPool(t, testdb.Shared(t), w.attach, oneConnection), attempts(1))
	category := mdbtest.Category("answered")
	const n = 1000
	ws := spread(category, n, n)
	for i := range 600 {
		ws[i].Options = []mdb.WriteOption{mdb.ExpectVersion(7)}
	}
	write(t, s, "warm-1", mdb.NewMessage("Happened", nil))
	w.cut(cut{string(ws[600].Stream), unsent})
	results := s.WriteEach(t.Context(), ws)
	if w.uncut() != 0 {
		t.Fatal("the cut did not happen")
	}
	wantError[*mdb.WrongVersionError](t, results[0].Err)
	for i, r := range results[600:] {
		if r.Err != nil {
			t.Fatalf("write %d: got error %v, want none", 600+i, r.Err)
		}
	}
}

// TestWriteEachAbortedByTrigger checks that an error which says that the transaction was
// aborted is the write's own if the write is the first of its transaction.
func TestWriteEachAbortedByTrigger(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	exec(t, newPool(t, url), `
		CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '25P02'; END$$;
		CREATE TRIGGER refuse BEFORE INSERT ON message_store.messages FOR EACH ROW WHEN (NEW.type = 'Refused') EXECUTE FUNCTION public.refuse()`)
	for _, streams := range []int{4, 1} {
		for _, failing := range []int{0, 2} {
			t.Run(fmt.Sprintf("%d streams, write %d", streams, failing), func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var rounds atomic.Int64
				s := newStore(t, newPool(t, url, func(cfg *pgxpool.Config) {
					cfg.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) {
						if rounds.Add(1) == 20 {
							cancel() // so that rounds without end fail the test
						}
						return true, nil
					}
				}), attempts(3))
				ws := spread(mdbtest.Category("aborted"), 4, streams)
				ws[failing].Message.Type = "Refused"
				for i, r := range s.WriteEach(ctx, ws) {
					switch {
					case i == failing:
						wantCode(t, r.Err, "25P02")
					case streams == 1 && i > failing:
						wantError[*mdb.SkippedError](t, r.Err)
					case r.Err != nil:
						t.Errorf("write %d: got error %v", i, r.Err)
					}
				}
				if n := rounds.Load(); n > 2 {
					t.Errorf("got %d rounds, want at most 2", n)
				}
			})
		}
	}
}

// TestWriteEachRepeatAfterFailed checks that a write which was stored before the call is
// skipped after one that fails, and not reported as a success.
func TestWriteEachRepeatAfterFailed(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *mdb.Store, _ *wire) {
		ws := spread(mdbtest.Category("repeat"), 3, 1)
		write(t, s, ws[1].Stream, ws[1].Message)
		ws[0].Options = []mdb.WriteOption{mdb.ExpectVersion(7)}
		ws[1].Options = []mdb.WriteOption{mdb.Idempotent()}
		results := s.WriteEach(t.Context(), ws)
		for i, r := range results[1:] {
			if skipped := wantError[*mdb.SkippedError](t, r.Err); skipped.Failed != 0 {
				t.Errorf("write %d: got it skipped after %d, want 0", 1+i, skipped.Failed)
			}
		}
	})
}

// TestSettleLookRefused checks that after a lost attempt the outcome is unknown if the server
// refuses the look for the messages.
func TestSettleLookRefused(t *testing.T) {
	t.Parallel()
	if groupAll {
		t.Skip("a role that may not read the table writes without groups")
	}
	url := testdb.New(t)
	owner := newStore(t, newPool(t, url))
	exec(t, owner.Pool(), `
		ALTER FUNCTION message_store.write_message SECURITY DEFINER SET search_path = message_store, pg_temp;
		REVOKE ALL ON message_store.messages FROM message_store`)
	var w wire
	s := newStore(t, newPool(t, url, w.attach, oneConnection, asRole("message_store")), attempts(2))
	stream := mdbtest.Category("refused").Stream("1")
	m := mdb.NewMessage("Happened", nil)
	w.cut(cut{string(stream), 0})
	_, err := s.WriteMessage(t.Context(), stream, m)
	wantError[*mdb.UnknownOutcomeError](t, err)
	if got := positions(t, owner.Pool(), stream); len(got) != 1 {
		t.Errorf("got %d messages, want 1", len(got))
	}
	// Without a lost attempt the refusal is the error.
	_, err = s.WriteMessage(t.Context(), stream, m, mdb.Idempotent())
	if wantCode(t, err, "42501"); isUnknown(err) {
		t.Errorf("got error %v, want no unknown outcome", err)
	}
}
