package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestWriteEachSettles checks that wherever the connection breaks, each write happens
// once, in the order of its stream, and reports its position.
func TestWriteEachSettles(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	onEach(t, func(t *testing.T, s *mdb.Store, w *wire) {
		mode := s.Pool().Config().ConnConfig.DefaultQueryExecMode
		write(t, s, "warm-1", mdb.NewMessage("Happened", nil))
		for _, streams := range []int{12, 4, 1} {
			for _, place := range []int{unsent, lost, 0, whole} {
				if (mode == pgx.QueryExecModeSimpleProtocol || groupAll) && place == whole {
					continue // breaks after the first write, or after the group, whose outcome is then known
				}
				category := mdbtest.Category("settle")
				ws := spread(category, 12, streams)
				w.cut(cut{string(category), place})
				written := each(t, s, ws)
				if n := w.uncut(); n != 0 {
					t.Fatalf("%d cuts did not happen", n)
				}
				// Which writes after the first answer the server completes depends on when
				// it notices.
				if first := written[0].Duplicate; place == 0 && !first || place == whole && streams == 12 && first {
					t.Errorf("%d streams, cut at %d: got %+v for the first write", streams, place, written[0])
				}
				for i := range written {
					if written[i].Duplicate && place < 0 {
						t.Errorf("%d streams, cut at %d: write %d is reported as a duplicate", streams, place, i)
					}
					written[i].Duplicate = false
				}
				checkStored(t, s, category, ws, written)
			}
		}
	})
}

// TestWriteEachUnsettled checks that without further attempts a lost connection leaves
// everything sent unknown, including writes after another unknown one, and that the same
// call settles it.
func TestWriteEachUnsettled(t *testing.T) {
	t.Parallel()
	for place, present := range map[int]bool{lost: false, 0: true} {
		t.Run(fmt.Sprint("present ", present), func(t *testing.T) {
			t.Parallel()
			var w wire
			s := newStore(t, newPool(t, testdb.Shared(t), w.attach, oneConnection), attempts(1))
			category := mdbtest.Category("unsettled")
			ws := spread(category, 12, 4)
			write(t, s, "warm-1", mdb.NewMessage("Happened", nil))
			w.cut(cut{string(category), place})
			for i, r := range s.WriteEach(t.Context(), ws) {
				if unknown := wantError[*mdb.UnknownOutcomeError](t, r.Err); len(unknown.IDs) != 1 || unknown.IDs[0] != ws[i].Message.ID {
					t.Errorf("write %d: got IDs %v", i, unknown.IDs)
				}
				if is[*mdb.SkippedError](r.Err) {
					t.Errorf("write %d: got error %v, want an unknown outcome", i, r.Err)
				}
			}
			for i := range ws {
				ws[i].Options = []mdb.WriteOption{mdb.Idempotent()}
			}
			again := each(t, s, ws)
			for i := range again {
				// The server completes the first stream's writes before it can notice.
				if inFirst := i%4 == 0; again[i].Duplicate != present && (inFirst || !present) {
					t.Errorf("write %d: got %+v, want a duplicate: %t", i, again[i], present)
				}
				again[i].Duplicate = false
			}
			checkStored(t, s, category, ws, again)
		})
	}
}

// TestWriteEachContextEnds checks the outcomes when the context ends while a write waits
// for its lock, with some of the writes after it sent and some not.
func TestWriteEachContextEnds(t *testing.T) {
	t.Parallel()
	holder := mdbtest.SharedStore(t)
	s := newStore(t, newPool(t, testdb.Shared(t)))
	category := mdbtest.Category("ends")
	ws := spread(category, 1000, 1000)
	release := holdLock(t, holder, category)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan []mdb.WriteResult, 1)
	go func() { done <- s.WriteEach(ctx, ws) }()
	untilBlocked(t, holder.Pool(), category, 1)
	cancel()
	sent := 0
	for i, r := range <-done {
		if !errors.Is(r.Err, context.Canceled) {
			t.Fatalf("write %d: got error %v, want a cancelled context", i, r.Err)
		}
		if isUnknown(r.Err) {
			if sent++; sent != i+1 {
				t.Errorf("write %d is unknown, but one before it was not sent", i)
			}
		}
	}
	if sent == 0 || sent > 500 {
		t.Errorf("got %d of %d writes sent before their answers, want some, but not all", sent, len(ws))
	}
	release()
	for i := range ws {
		ws[i].Options = []mdb.WriteOption{mdb.Idempotent()}
	}
	written := each(t, s, ws)
	for i := range written {
		if written[i].Duplicate && i >= sent {
			t.Errorf("write %d was not sent, but is stored", i)
		}
		written[i].Duplicate = false
	}
	checkStored(t, holder, category, ws, written)

	// The context has ended before.
	for _, r := range s.WriteEach(ctx, ws[:3]) {
		if !errors.Is(r.Err, context.Canceled) || isUnknown(r.Err) {
			t.Errorf("got error %v, want a cancelled context and no unknown outcome", r.Err)
		}
	}
}

// TestWriteEachTerminated checks that writes are retried when an administrator terminates
// the session in the middle.
func TestWriteEachTerminated(t *testing.T) {
	t.Parallel()
	holder := mdbtest.SharedStore(t)
	var log journal
	s := newStore(t, newPool(t, testdb.Shared(t)), log.option(), attempts(3))
	first, second := mdbtest.Category("first"), mdbtest.Category("second")
	ws := slices.Concat(spread(first, 6, 2), spread(second, 6, 2))
	release := holdLock(t, holder, second)
	done := make(chan []mdb.WriteResult, 1)
	go func() { done <- s.WriteEach(t.Context(), ws) }()
	untilBlocked(t, holder.Pool(), second, 1)
	hash := mdb.Hash64(string(second))
	pid := value[int](t, holder.Pool(), `SELECT pid FROM pg_locks WHERE NOT granted AND `+keyLocks, hash)
	exec(t, holder.Pool(), `SELECT pg_terminate_backend($1)`, pid)
	until(t, holder.Pool(), `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid <> $2 AND `+keyLocks+`)`, hash, pid)
	release()
	var written []mdb.Written
	for i, r := range <-done {
		if r.Err != nil || r.Written.Duplicate {
			t.Errorf("write %d: got %+v, error %v", i, r.Written, r.Err)
		}
		written = append(written, r.Written)
	}
	checkStored(t, holder, first, ws[:6], written[:6])
	checkStored(t, holder, second, ws[6:], written[6:])
	if n := log.retries(); n != 1 {
		t.Errorf("got %d retries, want 1", n)
	}
}

// TestWriteEachCommitFails checks that when a write fails only at its commit, alone on its
// stream or among others, neither it nor later writes to the stream happen.
func TestWriteEachCommitFails(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	exec(t, newPool(t, url), `
		CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'refused'; END$$;
		CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON message_store.messages DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW WHEN (NEW.type = 'Refused') EXECUTE FUNCTION public.refuse()`)
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			s := newStore(t, newPool(t, url, oneConnection, execMode(mode)))
			category := mdbtest.Category("commit")
			// Long enough that the writes of a stream are sent in several parts.
			ws := spread(category, 300, 2)
			alone := []mdb.Write{
				{Stream: category.Stream("alone"), Message: mdb.NewMessage("Refused", nil)},
				{Stream: category.Stream("last"), Message: mdb.NewMessage("Happened", nil)},
			}
			ws[21].Message.Type = "Refused"
			refused := isPgError("P0001")
			for i, r := range s.WriteEach(t.Context(), append(ws, alone...)) {
				skipped := is[*mdb.SkippedError](r.Err)
				switch {
				case i == 21 || i == 300:
					if !refused(r.Err) || skipped {
						t.Errorf("write %d: got error %v, want the trigger's", i, r.Err)
					}
				case i > 21 && i < 300 && i%2 == 1:
					if !refused(r.Err) || !skipped {
						t.Errorf("write %d: got error %v, want it skipped", i, r.Err)
					}
				case r.Err != nil:
					t.Errorf("write %d: got error %v, want none", i, r.Err)
				}
			}
			for name, want := range map[string]int{"0": 150, "1": 10, "alone": 0, "last": 1} {
				if got := positions(t, s.Pool(), category.Stream(name)); len(got) != want {
					t.Errorf("stream %s: got %d messages, want %d", name, len(got), want)
				}
			}
		})
	}
}

// TestWriteEachForgotten checks that a statement which the server has dropped is prepared
// again, even without retries.
func TestWriteEachForgotten(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t), oneConnection), attempts(1))
	for range 2 {
		category := mdbtest.Category("forgotten")
		ws := spread(category, 12, 4)
		checkStored(t, s, category, ws, each(t, s, ws))
		exec(t, s.Pool(), `DEALLOCATE ALL`)
	}
}

// TestWriteEachForgottenEverywhere checks that calls succeed if the server has dropped the
// statements on each connection, also if a connection is new in each round of a call.
func TestWriteEachForgottenEverywhere(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*pgxpool.Config){
		"two connections": func(cfg *pgxpool.Config) { cfg.MaxConns = 2 },
		"proxy": func(cfg *pgxpool.Config) {
			// The server has dropped the statements whenever a connection is acquired.
			cfg.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
				_, err := conn.PgConn().Exec(ctx, "DEALLOCATE ALL").ReadAll()
				return true, err
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, newPool(t, testdb.Shared(t), prepare), attempts(1))
			for range 3 {
				var held []*pgxpool.Conn
				for range 2 {
					category := mdbtest.Category("forgotten")
					ws := spread(category, 12, 4)
					ws[9].Options = []mdb.WriteOption{mdb.ExpectStream()}
					checkStored(t, s, category, ws, each(t, s, ws))
					conn, err := s.Pool().Acquire(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					exec(t, conn, `DEALLOCATE ALL`)
					held = append(held, conn)
				}
				for _, conn := range held {
					conn.Release()
				}
			}
		})
	}
}

// TestWriteEachStaleAgain checks that an error which says that the prepared statement is
// stale, and which preparing it again does not change, ends the write, and is asked for twice
// on one connection.
func TestWriteEachStaleAgain(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	exec(t, newPool(t, url), `
		CREATE SEQUENCE public.tries;
		CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
			PERFORM nextval('public.tries'); RAISE EXCEPTION 'refused' USING ERRCODE = '0A000';
		END$$;
		CREATE TRIGGER refuse BEFORE INSERT ON message_store.messages FOR EACH ROW WHEN (NEW.type = 'Refused') EXECUTE FUNCTION public.refuse()`)
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			var w wire
			s := newStore(t, newPool(t, url, w.attach, execMode(mode), func(cfg *pgxpool.Config) {
				cfg.AfterRelease = func(*pgx.Conn) bool { return false }
			}), attempts(3))
			category := mdbtest.Category("stale")
			ws := spread(category, 6, 3)
			ws[1].Message.Type = "Refused" // the first of its stream
			exec(t, s.Pool(), `SELECT setval('public.tries', 1, false)`)
			dials := w.dials.Load()
			for i, r := range s.WriteEach(t.Context(), ws) {
				switch i {
				case 1:
					wantCode(t, r.Err, "0A000")
				case 4:
					if skipped := wantError[*mdb.SkippedError](t, r.Err); skipped.Failed != 1 {
						t.Errorf("got a write skipped after %d, want 1", skipped.Failed)
					}
				default:
					if r.Err != nil {
						t.Errorf("write %d: got error %v", i, r.Err)
					}
				}
			}
			want := int64(1)
			if mode == pgx.QueryExecModeSimpleProtocol {
				want = 5 // one write at a time
			}
			if n := w.dials.Load() - dials; n != want {
				t.Errorf("got %d connections, want %d", n, want)
			}
			if n := value[int](t, s.Pool(), `SELECT last_value FROM public.tries`); n != 2 {
				t.Errorf("got %d tries, want 2", n)
			}
		})
	}
}

// TestWriteEachInvalidLast checks that a write which is rejected for its arguments does
// not affect an earlier write to its stream.
func TestWriteEachInvalidLast(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *mdb.Store, w *wire) {
		category := mdbtest.Category("last")
		ws := spread(category, 3, 1)
		ws[1].Message.Type = ""
		w.cut(cut{string(category), lost})
		results := s.WriteEach(t.Context(), ws)
		if results[0].Err != nil {
			t.Errorf("got error %v", results[0].Err)
		}
		wantError[*mdb.ArgumentError](t, results[1].Err)
		if skipped := wantError[*mdb.SkippedError](t, results[2].Err); skipped.Failed != 1 {
			t.Errorf("got a write skipped after %d, want 1", skipped.Failed)
		}
	})
}

// TestWriteEachUnprepared checks that a statement that the server refuses to prepare is an
// error of each write at the first attempt, and says how to correct the set-up.
func TestWriteEachUnprepared(t *testing.T) {
	t.Parallel()
	var log journal
	db := mdbtest.Store(t).Pool()
	s := newStore(t, newPool(t, db.Config().ConnString(), asRole("message_store")), log.option())
	exec(t, db, "REVOKE USAGE ON SCHEMA message_store FROM message_store")
	stream := mdbtest.Category("unprepared").Stream("1")
	for i, r := range s.WriteEach(t.Context(), []mdb.Write{
		{Stream: stream, Message: mdb.NewMessage("Happened", nil)},
		{Stream: stream.Category().Stream("2"), Message: mdb.NewMessage("Happened", nil)},
	}) {
		var setup *mdb.SetupError
		if !errors.As(r.Err, &setup) {
			t.Errorf("write %d: got error %v, want a SetupError", i, r.Err)
		}
	}
	if n := log.retries(); n != 0 {
		t.Errorf("got %d retries, want none", n)
	}
}
