package mdb_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// waysToWrite are the ways to write n messages. The last one of one message is WriteEach.
func waysToWrite(t *testing.T, s *mdb.Store) map[string]func(stream mdb.StreamName, ms []mdb.ProposedMessage, opts ...mdb.WriteOption) ([]mdb.Written, error) {
	single := func(c calls) func(mdb.StreamName, []mdb.ProposedMessage, ...mdb.WriteOption) ([]mdb.Written, error) {
		return func(stream mdb.StreamName, ms []mdb.ProposedMessage, opts ...mdb.WriteOption) ([]mdb.Written, error) {
			w, err := c.WriteMessage(t.Context(), stream, ms[0], opts...)
			return []mdb.Written{w}, err
		}
	}
	batch := func(c calls) func(mdb.StreamName, []mdb.ProposedMessage, ...mdb.WriteOption) ([]mdb.Written, error) {
		return func(stream mdb.StreamName, ms []mdb.ProposedMessage, opts ...mdb.WriteOption) ([]mdb.Written, error) {
			return c.WriteMessages(t.Context(), stream, ms, opts...)
		}
	}
	inTx := func(way func(calls) func(mdb.StreamName, []mdb.ProposedMessage, ...mdb.WriteOption) ([]mdb.Written, error)) func(mdb.StreamName, []mdb.ProposedMessage, ...mdb.WriteOption) ([]mdb.Written, error) {
		return func(stream mdb.StreamName, ms []mdb.ProposedMessage, opts ...mdb.WriteOption) (written []mdb.Written, err error) {
			err = pgx.BeginFunc(t.Context(), s.Pool(), func(tx pgx.Tx) error {
				written, err = way(s.WithTx(tx))(stream, ms, opts...)
				return err
			})
			return written, err
		}
	}
	return map[string]func(stream mdb.StreamName, ms []mdb.ProposedMessage, opts ...mdb.WriteOption) ([]mdb.Written, error){
		"single": single(s), "batch": batch(s), "single in Tx": inTx(single), "batch in Tx": inTx(batch),
		// The second one makes it a chain of transactions.
		"each": func(stream mdb.StreamName, ms []mdb.ProposedMessage, opts ...mdb.WriteOption) ([]mdb.Written, error) {
			var ws []mdb.Write
			for _, m := range ms {
				ws = append(ws, mdb.Write{Stream: stream, Message: m, Options: opts})
			}
			var written []mdb.Written
			for _, r := range s.WriteEach(t.Context(), ws) {
				if r.Err != nil {
					return nil, r.Err
				}
				written = append(written, r.Written)
			}
			return written, nil
		},
	}
}

// TestExpectStream checks that a write with ExpectStream succeeds at any version of a stream
// that exists, and fails without one, in each way to write and each exec mode.
func TestExpectStream(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *mdb.Store, _ *wire) {
		for name, write := range waysToWrite(t, s) {
			stream := mdbtest.Category("exists").Stream("1")
			fails := func() {
				t.Helper()
				_, err := write(stream, proposals(3), mdb.ExpectStream())
				wrong := wantError[*mdb.WrongVersionError](t, err)
				if wrong.Actual != mdb.NoStream || wrong.Expected != -2 || wrong.Stream != stream {
					t.Errorf("%s: got %+v, want no stream", name, wrong)
				}
				if text := fmt.Sprintf("mdb: stream %s does not exist", stream); wrong.Error() != text {
					t.Errorf("%s: got error %q, want %q", name, wrong, text)
				}
				wantCode(t, err, "P0001")
			}
			fails()
			// Another stream of the category makes no difference.
			seed(t, s, stream.Category().Stream("2"), 1)
			fails()
			seed(t, s, stream, 1)
			next := int64(1)
			for range 2 {
				written, err := write(stream, proposals(3), mdb.ExpectStream())
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				for _, w := range written {
					if w.Position != next {
						t.Errorf("%s: got %+v, want position %d", name, w, next)
					}
					next++
				}
			}
			// The last of these options counts.
			if _, err := write(stream, proposals(3), mdb.ExpectStream(), mdb.ExpectNoStream()); !is[*mdb.WrongVersionError](err) {
				t.Errorf("%s: got error %v, want a wrong version", name, err)
			}
			if got := positions(t, s.Pool(), stream); len(got) != int(next) {
				t.Errorf("%s: got %d messages, want %d", name, len(got), next)
			}
		}
	})
}

// TestExpectStreamWaits checks that the write sees the first message of the stream if that is
// committed while the write waits for its lock.
func TestExpectStreamWaits(t *testing.T) {
	t.Parallel()
	holder := newStore(t, newPool(t, testdb.Shared(t)))
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeSimpleProtocol} {
		for _, opts := range [][]mdb.StoreOption{nil, {mdb.WithDirectSQL()}} {
			s := newStore(t, newPool(t, testdb.Shared(t), execMode(mode)), opts...)
			for name, write := range waysToWrite(t, s) {
				t.Run(fmt.Sprintf("%s, %s, %d", name, mode, len(opts)), func(t *testing.T) {
					stream := mdbtest.Category("waits").Stream("1")
					tx := begin(t, holder.Pool())
					if _, err := holder.WithTx(tx).WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil)); err != nil {
						t.Fatal(err)
					}
					done := make(chan error, 1)
					go func() {
						_, err := write(stream, proposals(2), mdb.ExpectStream())
						done <- err
					}()
					untilBlocked(t, holder.Pool(), stream.Category(), 1)
					if err := tx.Commit(t.Context()); err != nil {
						t.Fatal(err)
					}
					if err := <-done; err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

// TestExpectStreamSettles checks a write with ExpectStream whose connection breaks. Without
// the stream its outcome is unknown, because another writer may begin the stream before the
// lost attempt arrives.
func TestExpectStreamSettles(t *testing.T) {
	t.Parallel()
	for _, sh := range shapes {
		t.Run(sh.name, func(t *testing.T) {
			t.Parallel()
			var w wire
			s := sh.store(t, &w, attempts(3))
			sh := sh
			sh.opts = append(slices.Clone(sh.opts), mdb.ExpectStream())
			warm := mdbtest.Category("settles").Stream("1")
			seed(t, s, warm, 1)
			if _, err := sh.write(t, s, warm, sh.messages()); err != nil {
				t.Fatal(err)
			}
			for place, duplicate := range map[int]bool{unsent: false, lost: false, 0: true} {
				stream := mdbtest.Category("settles").Stream("2")
				seed(t, s, stream, 2)
				w.cut(cut{string(stream), place})
				written, err := sh.write(t, s, stream, sh.messages())
				if err != nil {
					t.Fatalf("cut at %d: %v", place, err)
				}
				for i, got := range written {
					if got.Position != int64(2+i) || got.Duplicate != duplicate {
						t.Errorf("cut at %d: message %d: got %+v, want position %d, duplicate %t", place, i, got, 2+i, duplicate)
					}
				}
			}
			stream := mdbtest.Category("settles").Stream("3")
			w.cut(cut{string(stream), lost})
			_, err := sh.write(t, s, stream, sh.messages())
			if wantError[*mdb.UnknownOutcomeError](t, err); is[*mdb.WrongVersionError](err) {
				t.Errorf("got error %v, want no wrong version", err)
			}
			if sh.mint {
				return
			}
			// The message that began the stream is not one after it.
			again := sh
			again.opts = []mdb.WriteOption{mdb.ExpectStream(), mdb.Idempotent()}
			ms := sh.messages()
			begins := shape{n: sh.n}
			if _, err := begins.write(t, s, stream, ms); err != nil {
				t.Fatal(err)
			}
			_, err = again.write(t, s, stream, ms)
			if duplicate := wantError[*mdb.DuplicateIDError](t, err); duplicate.Differs != "position" {
				t.Errorf("got error %v, want a difference in position", err)
			}
		})
	}
}

// TestExpectStreamStrict checks that at a stricter isolation level a write that loses a race
// is retried, as one that expects no version.
func TestExpectStreamStrict(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"repeatable read", "serializable"} {
		for _, opts := range [][]mdb.StoreOption{nil, {mdb.WithDirectSQL()}} {
			t.Run(fmt.Sprintf("%s, %d", level, len(opts)), func(t *testing.T) {
				t.Parallel()
				s := newStore(t, newPool(t, testdb.Shared(t), parameter("default_transaction_isolation", level)), append(opts, attempts(50))...)
				stream := mdbtest.Category("strict").Stream("1")
				seed(t, s, stream, 1)
				const writers = 4
				done := make(chan error, writers)
				for range writers {
					go func() {
						var err error
						for range 5 {
							if err == nil {
								_, err = s.WriteMessages(t.Context(), stream, proposals(2), mdb.ExpectStream())
							}
						}
						done <- err
					}()
				}
				for range writers {
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
				if got := positions(t, s.Pool(), stream); len(got) != 1+writers*5*2 {
					t.Errorf("got %d messages, want %d", len(got), 1+writers*5*2)
				}
			})
		}
	}
}

// TestWrittenTime checks that each way to write returns the time that a read returns, in
// each exec mode and whatever the date style and time zone are.
func TestWrittenTime(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		for _, opts := range [][]mdb.StoreOption{nil, {mdb.WithDirectSQL()}} {
			t.Run(fmt.Sprintf("%s, %d", mode, len(opts)), func(t *testing.T) {
				t.Parallel()
				s := newStore(t, newPool(t, testdb.Shared(t), execMode(mode), parameter("DateStyle", "German"), parameter("TimeZone", "Asia/Tokyo")), opts...)
				reads := mdbtest.SharedStore(t)
				for name, write := range waysToWrite(t, s) {
					stream := mdbtest.Category("time").Stream("1")
					before := value[time.Time](t, reads.Pool(), `SELECT now()`)
					written, err := write(stream, proposals(3))
					if err != nil {
						t.Fatal(err)
					}
					ms, err := reads.GetStreamMessages(t.Context(), stream)
					if err != nil {
						t.Fatal(err)
					}
					for i, m := range ms {
						if written[i].Time != m.Time || m.Time.Before(before) {
							t.Errorf("%s: got %v, want %v, which is after %v", name, written[i].Time, m.Time, before)
						}
					}
				}
			})
		}
	}
}

// TestWrittenRow checks what is returned if a trigger changes the time, or writes a message
// for each message: only a batch by direct SQL, and the look for a duplicate, return what
// the row has.
func TestWrittenRow(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	exec(t, newPool(t, url), `
		CREATE FUNCTION public.change() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
			IF NEW.type = 'Timeless' THEN NEW.time := 'infinity'; ELSE NEW.time := '2001-02-03 04:05:06.000007'; END IF;
			RETURN NEW;
		END$$;
		CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
			PERFORM message_store.write_message(gen_random_uuid()::varchar, 'audit-1', 'Audited', NULL); RETURN NULL;
		END$$;
		CREATE TRIGGER change BEFORE INSERT ON message_store.messages FOR EACH ROW EXECUTE FUNCTION public.change();
		CREATE TRIGGER audit AFTER INSERT ON message_store.messages FOR EACH ROW WHEN (NEW.stream_name <> 'audit-1') EXECUTE FUNCTION public.audit()`)
	ofRow := time.Date(2001, 2, 3, 4, 5, 6, 7000, time.UTC)
	for _, opts := range [][]mdb.StoreOption{nil, {mdb.WithDirectSQL()}} {
		s := newStore(t, newPool(t, url), opts...)
		for name, write := range waysToWrite(t, s) {
			stream := mdbtest.Category("row").Stream("1")
			ms := proposals(3)
			if strings.HasPrefix(name, "single") {
				ms = ms[:1]
			}
			begin := value[time.Time](t, s.Pool(), `SELECT now()`)
			written, err := write(stream, ms)
			if err != nil {
				t.Fatal(err)
			}
			stored := rows(t, s.Pool(), stream.Category())
			direct := len(opts) > 0 && strings.HasPrefix(name, "batch")
			for i, w := range written {
				switch {
				case direct && (w.GlobalPosition != stored[i].GlobalPosition || w.Time != ofRow):
					t.Errorf("%s, direct: got %+v, want what the row has, %+v", name, w, stored[i])
				case !direct && (w.GlobalPosition != stored[i].GlobalPosition+1 || w.Time.Before(begin)):
					t.Errorf("%s: got %+v, want what the session has: documentation needs a change", name, w)
				}
			}
			again, err := s.WriteMessages(t.Context(), stream, ms, mdb.Idempotent())
			if err != nil || again[0].GlobalPosition != stored[0].GlobalPosition || again[0].Time != ofRow {
				t.Errorf("%s: got %+v, error %v, want what the row has, %+v", name, again, err, stored[0])
			}
		}
		// A time that is none does not make a write fail.
		ms := []mdb.ProposedMessage{mdb.NewMessage("Timeless", nil), mdb.NewMessage("Timeless", nil)}
		stream := mdbtest.Category("timeless").Stream("1")
		for _, opts := range [][]mdb.WriteOption{nil, {mdb.Idempotent()}} {
			written, err := s.WriteMessages(t.Context(), stream, ms, opts...)
			if err != nil {
				t.Fatal(err)
			}
			if row := opts != nil; row && !written[0].Time.IsZero() {
				t.Errorf("got time %v, want none", written[0].Time)
			}
		}
	}
}

// TestExpectStreamArgument checks that no version means the same.
func TestExpectStreamArgument(t *testing.T) {
	t.Parallel()
	s, _ := unusedStore(t)
	for _, version := range []int64{-2, math.MinInt64} {
		_, err := s.WriteMessage(t.Context(), "account-1", mdb.NewMessage("Happened", nil), mdb.ExpectVersion(version))
		wantError[*mdb.ArgumentError](t, err)
	}
}
