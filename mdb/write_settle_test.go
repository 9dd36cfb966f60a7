package mdb_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// A shape is a kind of write to a stream that has one message already.
type shape struct {
	name string
	n    int
	mint bool // the write generates the IDs
	opts []mdb.WriteOption
	way  []mdb.StoreOption
	mode pgx.QueryExecMode // 0: the default
	url  string            // "": that of the shared database
}

var shapes = []shape{
	{name: "single", n: 1},
	{name: "single, minted", n: 1, mint: true},
	{name: "single, expecting", n: 1, opts: []mdb.WriteOption{mdb.ExpectVersion(0)}},
	{name: "single, idempotent", n: 1, opts: []mdb.WriteOption{mdb.Idempotent()}},
	{name: "batch", n: 3},
	{name: "batch, minted, expecting", n: 3, mint: true, opts: []mdb.WriteOption{mdb.ExpectVersion(0)}},
	{name: "direct batch", n: 3, way: []mdb.StoreOption{mdb.WithDirectSQL()}},
	{name: "direct batch, expecting", n: 3, opts: []mdb.WriteOption{mdb.ExpectVersion(0)}, way: []mdb.StoreOption{mdb.WithDirectSQL()}},
	{name: "single, describe exec", n: 1, mode: pgx.QueryExecModeDescribeExec},
	{name: "single, cache describe", n: 1, mode: pgx.QueryExecModeCacheDescribe},
	{name: "single, exec", n: 1, mode: pgx.QueryExecModeExec},
	{name: "single, simple", n: 1, mode: pgx.QueryExecModeSimpleProtocol},
	{name: "batch, exec", n: 3, mode: pgx.QueryExecModeExec},
	{name: "batch, simple", n: 3, mode: pgx.QueryExecModeSimpleProtocol},
	{name: "direct batch, exec", n: 3, mode: pgx.QueryExecModeExec, way: []mdb.StoreOption{mdb.WithDirectSQL()}},
	{name: "direct batch, simple", n: 3, mode: pgx.QueryExecModeSimpleProtocol, way: []mdb.StoreOption{mdb.WithDirectSQL()}},
}

// store returns a store with one connection, which a test can break.
func (sh shape) store(t *testing.T, w *wire, opts ...mdb.StoreOption) *mdb.Store {
	t.Helper()
	return sh.storeOn(t, w.attach, opts...)
}

func (sh shape) storeOn(t *testing.T, attach func(*pgxpool.Config), opts ...mdb.StoreOption) *mdb.Store {
	t.Helper()
	url := sh.url
	if url == "" {
		url = testdb.Shared(t)
	}
	pool := newPool(t, url, attach, oneConnection, func(cfg *pgxpool.Config) {
		if sh.mode != 0 {
			cfg.ConnConfig.DefaultQueryExecMode = sh.mode
		}
	})
	return newStore(t, pool, append(opts, sh.way...)...)
}

func (sh shape) messages() []mdb.ProposedMessage {
	ms := proposals(sh.n)
	for i := range ms {
		if sh.mint {
			ms[i].ID = uuid.Nil
		}
	}
	return ms
}

func (sh shape) write(t *testing.T, s *mdb.Store, stream mdb.StreamName, ms []mdb.ProposedMessage) ([]mdb.Written, error) {
	return s.WriteMessages(t.Context(), stream, ms, sh.opts...)
}

// TestSettle checks that a write happens once, and returns its position, wherever the
// connection breaks: before the server has received it, and at many places of the answer.
func TestSettle(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for _, sh := range shapes {
		t.Run(sh.name, func(t *testing.T) {
			t.Parallel()
			var w wire
			var log journal
			s := sh.store(t, &w, log.option(), attempts(3))
			warm := func() mdb.StreamName {
				stream := mdbtest.Category("settle").Stream("1")
				one := shape{n: 1}
				if _, err := one.write(t, s, stream, one.messages()); err != nil {
					t.Fatal(err)
				}
				warm := shape{n: sh.n}
				if _, err := warm.write(t, s, mdbtest.Category("settle").Stream("2"), warm.messages()); err != nil {
					t.Fatal(err)
				}
				return stream
			}
			stream := warm()
			w.cut(cut{string(stream), whole}) // only writes contain the name
			if _, err := sh.write(t, s, stream, sh.messages()); err != nil {
				t.Fatal(err)
			}
			length := int(w.answered.Load())
			// The next call finds the broken connection.
			if _, err := s.StreamVersion(t.Context(), stream); err == nil {
				t.Fatal("the connection is not broken")
			}

			for _, place := range []int{unsent, lost, 0, length / 2, whole - 7, whole - 6, whole - 1} {
				stream := warm()
				ms := sh.messages()
				before := log.retries()
				w.cut(cut{string(stream), place})
				written, err := sh.write(t, s, stream, ms)
				if err != nil {
					t.Errorf("cut at %d of %d: got error %v, want none", place, length, err)
					continue
				}
				if n := log.retries() - before; n != 1 {
					t.Errorf("cut at %d of %d: got %d retries, want 1", place, length, n)
				}
				got := rows(t, s.Pool(), stream.Category())
				if len(got) != 1+sh.n {
					t.Fatalf("cut at %d of %d: got %d messages, want %d", place, length, len(got), 1+sh.n)
				}
				for i, w := range written {
					want := mdb.Written{ID: got[1+i].ID, Position: int64(1 + i), GlobalPosition: got[1+i].GlobalPosition, Time: got[1+i].Time, Duplicate: place >= 0}
					if w != want || !sh.mint && w.ID != ms[i].ID {
						t.Errorf("cut at %d of %d: got %+v, want %+v", place, length, w, want)
					}
				}
			}
			if text := log.String(); !strings.Contains(text, "outcome_unknown=true") {
				t.Errorf("got the log %s, want it to mention an unknown outcome", text)
			}
		})
	}
}

// TestSettleAgain checks a write whose connections break one after the other, also that of
// the query for its messages.
func TestSettleAgain(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for _, sh := range shapes {
		t.Run(sh.name, func(t *testing.T) {
			t.Parallel()
			var w wire
			s := sh.store(t, &w, attempts(9))
			stream := mdbtest.Category("again").Stream("1")
			seed(t, s, stream, 1)
			// Only writes contain the stream's name.
			w.cut(
				cut{string(stream), lost},
				cut{string(stream), 0}, // writes
				cut{string(stream), 0}, // finds an ID or another version
				cut{"AS sought", unsent},
				cut{"AS sought", lost},
				cut{"AS sought", 0},
				cut{"AS sought", whole}, // prepares the query, and breaks before it
			)
			written, err := sh.write(t, s, stream, sh.messages())
			if err != nil {
				t.Fatal(err)
			}
			if n := w.uncut(); n != 0 {
				t.Errorf("%d cuts did not happen", n)
			}
			for i, w := range written {
				if w.Position != int64(1+i) || !w.Duplicate {
					t.Errorf("message %d: got %+v, want a duplicate at %d", i, w, 1+i)
				}
			}
			if got := positions(t, newPool(t, testdb.Shared(t)), stream); len(got) != 1+sh.n {
				t.Errorf("got %d messages, want %d", len(got), 1+sh.n)
			}
		})
	}
}

// TestSettleWithOthers checks a write whose first attempt is lost, after which others
// write to the stream.
func TestSettleWithOthers(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	other := mdbtest.SharedStore(t)
	for _, sh := range shapes {
		for _, reached := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, reached %t", sh.name, reached), func(t *testing.T) {
				t.Parallel()
				var w wire
				stream := mdbtest.Category("others").Stream("1")
				log := journal{onRecord: func() { seed(t, other, stream, 2) }}
				s := sh.store(t, &w, log.option(), attempts(3))
				warm := shape{n: sh.n}
				if _, err := warm.write(t, s, mdbtest.Category("others").Stream("2"), warm.messages()); err != nil {
					t.Fatal(err)
				}
				seed(t, other, stream, 1)
				place, first := lost, int64(3)
				if reached {
					place, first = 0, 1
				}
				w.cut(cut{string(stream), place})
				written, err := sh.write(t, s, stream, sh.messages())
				if expecting := strings.Contains(sh.name, "expecting"); expecting && !reached {
					if wrong := wantError[*mdb.WrongVersionError](t, err); wrong.Actual != 2 {
						t.Errorf("got error %+v, want actual 2", wrong)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				for i, w := range written {
					if w.Position != first+int64(i) || w.Duplicate != reached {
						t.Errorf("message %d: got %+v, want position %d", i, w, first+int64(i))
					}
				}
				if got, want := len(positions(t, other.Pool(), stream)), 3+sh.n; got != want {
					t.Errorf("got %d messages, want %d", got, want)
				}
			})
		}
	}
}

// TestSettleForeign checks that a lost write which finds its IDs in messages of another
// write does not take them for its own.
func TestSettleForeign(t *testing.T) {
	t.Parallel()
	other := mdbtest.SharedStore(t)
	for _, tt := range []struct {
		name  string
		write func(t *testing.T, stream mdb.StreamName, ms []mdb.ProposedMessage)
		found int // -1: the outcome is unknown, as a trigger may have changed the messages
	}{
		{"in another stream", func(t *testing.T, stream mdb.StreamName, ms []mdb.ProposedMessage) {
			write(t, other, stream+"x", ms[0])
		}, 1},
		{"with other content", func(t *testing.T, stream mdb.StreamName, ms []mdb.ProposedMessage) {
			ms = slices.Clone(ms)
			ms[1].Data = []string{"else"}
			_, _ = other.WriteMessages(t.Context(), stream, ms)
		}, -1},
		{"with other content elsewhere", func(t *testing.T, stream mdb.StreamName, ms []mdb.ProposedMessage) {
			ms = slices.Clone(ms)
			ms[1].Data = []string{"else"}
			_, _ = other.WriteMessages(t.Context(), stream+"x", ms)
		}, 3},
		{"with other messages in between", func(t *testing.T, stream mdb.StreamName, ms []mdb.ProposedMessage) {
			_, _ = other.WriteMessages(t.Context(), stream, slices.Insert(slices.Clone(ms), 1, mdb.NewMessage("Happened", nil)))
		}, 3},
		{"in part", func(t *testing.T, stream mdb.StreamName, ms []mdb.ProposedMessage) {
			_, _ = other.WriteMessages(t.Context(), stream, ms[1:])
		}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var w wire
			stream := mdbtest.Category("foreign").Stream("1")
			ms := proposals(3)
			log := journal{onRecord: func() { tt.write(t, stream, ms) }}
			s := newStore(t, newPool(t, testdb.Shared(t), w.attach, oneConnection), log.option(), attempts(3))
			seed(t, s, mdbtest.Category("foreign").Stream("2"), 3)
			w.cut(cut{"write", lost})
			_, err := s.WriteMessages(t.Context(), stream, ms)
			if tt.found < 0 {
				wantError[*mdb.UnknownOutcomeError](t, err)
				return
			}
			if duplicate := wantError[*mdb.DuplicateIDError](t, err); len(duplicate.IDs) != tt.found {
				t.Errorf("got IDs %v, want %d", duplicate.IDs, tt.found)
			}
			if unknown := (*mdb.UnknownOutcomeError)(nil); errors.As(err, &unknown) {
				t.Errorf("got error %v, want no unknown outcome", err)
			}
		})
	}
}

// TestSettleRewritten checks a write whose reply is lost while a trigger changes what is
// stored. Changed metadata changes nothing, as metadata is not compared. If the trigger changes
// the type or data, the message is there and differs: the outcome is unknown, but never
// "nothing was written". If the write generated the ID itself, the ID alone proves that the
// message is its own.
func TestSettleRewritten(t *testing.T) {
	t.Parallel()
	for part, change := range map[string]string{
		"metadata": `NEW.metadata := coalesce(NEW.metadata, '{}') || jsonb_build_object('by', current_user)`,
		"type":     `NEW.type := NEW.type || '2'`,
		"data":     `NEW.data := '[]'`,
	} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			url := testdb.New(t)
			exec(t, newPool(t, url), `
				CREATE FUNCTION public.rewrite() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN `+change+`; RETURN NEW; END$$;
				CREATE TRIGGER rewrite BEFORE INSERT ON message_store.messages FOR EACH ROW EXECUTE FUNCTION public.rewrite()`)
			for _, sh := range shapes {
				t.Run(sh.name, func(t *testing.T) {
					var w wire
					sh := sh
					sh.url = url
					s := sh.store(t, &w, attempts(3))
					stream := mdbtest.Category("rewritten").Stream("1")
					seed(t, s, stream, 1)
					seed(t, s, mdbtest.Category("rewritten").Stream("2"), 2)
					ms := sh.messages()
					w.cut(cut{string(stream), 0})
					written, err := sh.write(t, s, stream, ms)
					if w.uncut() != 0 {
						t.Fatal("the cut did not happen")
					}
					if got := positions(t, newPool(t, url), stream); len(got) != 1+sh.n {
						t.Fatalf("got %d messages, want %d", len(got), 1+sh.n)
					}
					again := sh
					again.opts = append(slices.Clone(sh.opts), mdb.Idempotent())
					if sh.mint || part == "metadata" {
						if err != nil || written[0].Position != 1 || !written[0].Duplicate {
							t.Errorf("got %+v, error %v, want a duplicate at position 1", written, err)
						}
						if !sh.mint {
							written, err = again.write(t, s, stream, ms)
							if err != nil || written[0].Position != 1 || !written[0].Duplicate {
								t.Errorf("again: got %+v, error %v, want a duplicate at position 1", written, err)
							}
						}
						return
					}
					wantError[*mdb.UnknownOutcomeError](t, err)
					if is[*mdb.DuplicateIDError](err) || is[*mdb.WrongVersionError](err) || !strings.Contains(err.Error(), "differ in their "+part) {
						t.Errorf("got error %v, want only an unknown outcome, because of the %s", err, part)
					}
					// The repeated call names the difference, also if the version has changed.
					_, err = again.write(t, s, stream, ms)
					if duplicate := wantError[*mdb.DuplicateIDError](t, err); duplicate.Differs != part || len(duplicate.IDs) != sh.n {
						t.Errorf("again: got error %v, want %d that differ in %s", err, sh.n, part)
					}
				})
			}
		})
	}
}

// TestSettleAhead checks that a write which expects a version that the stream has not
// reached is not reported as "nothing was written" after a lost attempt. This may still be
// on its way: here it arrives after another writer has written the expected version.
func TestSettleAhead(t *testing.T) {
	t.Parallel()
	other := mdbtest.SharedStore(t)
	for _, sh := range shapes {
		for _, each := range []bool{false, true} {
			if each && sh.n > 1 {
				continue
			}
			t.Run(fmt.Sprintf("%s, WriteEach %t", sh.name, each), func(t *testing.T) {
				t.Parallel()
				var l slowNet
				s := sh.storeOn(t, l.attach, attempts(3))
				sh := sh
				sh.opts = append(slices.Clone(sh.opts), mdb.ExpectVersion(1))
				stream := mdbtest.Category("ahead").Stream("1")
				warm := shape{n: sh.n}
				if _, err := warm.write(t, s, mdbtest.Category("ahead").Stream("2"), warm.messages()); err != nil {
					t.Fatal(err)
				}
				s.WriteEach(t.Context(), []mdb.Write{{Stream: stream, Message: mdb.NewMessage("Happened", nil)}})
				l.delay(string(stream))
				var err error
				if each {
					err = s.WriteEach(t.Context(), []mdb.Write{{Stream: stream, Message: sh.messages()[0], Options: sh.opts}})[0].Err
				} else {
					_, err = sh.write(t, s, stream, sh.messages())
				}
				wantError[*mdb.UnknownOutcomeError](t, err)
				if is[*mdb.WrongVersionError](err) {
					t.Errorf("got error %v, want no wrong version", err)
				}
				seed(t, other, stream, 1)
				l.release(t)
				until(t, other.Pool(), `SELECT count(*) = $2 FROM message_store.messages WHERE stream_name = $1`, string(stream), 2+sh.n)
			})
		}
	}
}

// A slowNet is a network that delivers one request later than the next ones, and reports it as
// failed.
type slowNet struct {
	mu       sync.Mutex
	request  string
	delivery func() error
}

func (l *slowNet) attach(cfg *pgxpool.Config) {
	cfg.ConnConfig.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
		return &slowConn{conn, l}, nil
	}
}

// delay delays the next request that contains the text.
func (l *slowNet) delay(request string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.request = request
}

// release delivers it.
func (l *slowNet) release(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.delivery == nil {
		t.Fatal("nothing was delayed")
	}
	if err := l.delivery(); err != nil {
		t.Fatal(err)
	}
}

type slowConn struct {
	net.Conn
	slow *slowNet
}

func (c *slowConn) Write(b []byte) (int, error) {
	c.slow.mu.Lock()
	defer c.slow.mu.Unlock()
	if c.slow.request == "" || !bytes.Contains(b, []byte(c.slow.request)) {
		return c.Conn.Write(b)
	}
	c.slow.request = ""
	request, conn := bytes.Clone(b), c.Conn
	c.slow.delivery = func() error {
		_, err := conn.Write(request)
		return err
	}
	c.Conn, _ = net.Pipe() // what pgx now does to the connection does not reach the server
	c.Close()
	return len(b), nil
}

// TestUnsettled checks that an outcome stays unknown if the policy allows no further
// attempt, and that the same call settles it later.
func TestUnsettled(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for _, sh := range shapes {
		if sh.mint {
			continue // its IDs are lost, except those in the error
		}
		for place, present := range map[int]bool{lost: false, 0: true} {
			t.Run(fmt.Sprintf("%s, present %t", sh.name, present), func(t *testing.T) {
				t.Parallel()
				var w wire
				s := sh.store(t, &w, attempts(1))
				stream := mdbtest.Category("unsettled").Stream("1")
				warm := shape{n: sh.n}
				if _, err := warm.write(t, s, mdbtest.Category("unsettled").Stream("2"), warm.messages()); err != nil {
					t.Fatal(err)
				}
				seed(t, s, stream, 1)
				ms := sh.messages()
				w.cut(cut{string(stream), place})
				_, err := sh.write(t, s, stream, ms)
				unknown := wantError[*mdb.UnknownOutcomeError](t, err)
				for i, id := range unknown.IDs {
					if id != ms[i].ID {
						t.Errorf("got ID %d is %s, want %s", i, id, ms[i].ID)
					}
				}
				if len(unknown.IDs) != sh.n || errors.Unwrap(unknown) == nil {
					t.Errorf("got %d IDs and cause %v, want %d", len(unknown.IDs), errors.Unwrap(unknown), sh.n)
				}
				checkNoCanary(t, err)

				again := sh
				again.opts = append(slices.Clone(sh.opts), mdb.Idempotent())
				written, err := again.write(t, s, stream, ms)
				if err != nil {
					t.Fatal(err)
				}
				for i, w := range written {
					if w.Position != int64(1+i) || w.Duplicate != present {
						t.Errorf("message %d: got %+v, want position %d and a duplicate: %t", i, w, 1+i, present)
					}
				}
			})
		}
	}
}
