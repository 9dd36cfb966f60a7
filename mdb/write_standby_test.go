package mdb_test

import (
	"bytes"
	"context"
	"errors"
	"io"
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
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// A severable is the last connection of a pool, which a test can cut off. It can lose the
// requests to cancel a statement, which pgx sends on connections of their own.
type severable struct {
	mu           sync.Mutex
	last         net.Conn
	loseRequests bool
}

func (s *severable) attach(cfg *pgxpool.Config) {
	dial := cfg.ConnConfig.DialFunc
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return &severableConn{conn, s}, err
	}
}

func (s *severable) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last.Close()
}

type severableConn struct {
	net.Conn
	severable *severable
}

// cancelRequest is how the message begins that asks the server to cancel a statement.
var cancelRequest = []byte{0, 0, 0, 16, 4, 210, 22, 46}

func (c *severableConn) Write(b []byte) (int, error) {
	s := c.severable
	s.mu.Lock()
	defer s.mu.Unlock()
	if !bytes.HasPrefix(b, cancelRequest) {
		s.last = c.Conn
	} else if s.loseRequests {
		return 0, io.ErrClosedPipe
	}
	return c.Conn.Write(b)
}

// interruptions end the wait of a commit for a standby, or that of the client for the commit.
var interruptions = map[string]struct {
	do func(t *testing.T, h *heldStandby, s stalled, conn *severable)
	// holdsLock says that the commit goes on waiting, and so keeps its category locked.
	holdsLock bool
}{
	"cancelled": {do: func(t *testing.T, h *heldStandby, s stalled, _ *severable) {
		s.signal(t, h, "pg_cancel_backend")
	}},
	"terminated": {do: func(t *testing.T, h *heldStandby, s stalled, _ *severable) {
		s.signal(t, h, "pg_terminate_backend")
	}},
	// After a failure to read, pgx asks the server to cancel the statement.
	"connection cut": {do: func(_ *testing.T, _ *heldStandby, _ stalled, conn *severable) { conn.cut() }},
	"connection and request cut": {do: func(_ *testing.T, _ *heldStandby, _ stalled, conn *severable) {
		conn.mu.Lock()
		conn.loseRequests = true
		conn.mu.Unlock()
		conn.cut()
	}, holdsLock: true},
}

type writeResult struct {
	written []mdb.Written
	err     error
}

// do calls f, and sends its result.
func do(f func() ([]mdb.Written, error)) <-chan writeResult {
	results := make(chan writeResult, 1)
	go func() {
		written, err := f()
		results <- writeResult{written, err}
	}()
	return results
}

// TestWriteWaitsForStandby checks that a write is acknowledged only once the standby has
// the message, also if its commit's wait was interrupted, and the retry has found it on the
// primary. The search for the message is interrupted, too.
func TestWriteWaitsForStandby(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	h := newHeldStandby(t)
	for _, sh := range shapes {
		for name, interrupt := range interruptions {
			t.Run(sh.name+", "+name, func(t *testing.T) {
				sh.url = h.url
				var conn severable
				s := sh.storeOn(t, func(cfg *pgxpool.Config) { h.attach(cfg); conn.attach(cfg) }, attempts(4))
				stream := mdbtest.Category("standby").Stream("1")
				seed(t, s, stream, 1)
				ms := sh.messages()
				h.hold(t)
				defer h.release()
				call := do(func() ([]mdb.Written, error) { return sh.write(t, s, stream, ms) })
				interrupt.do(t, h, stalledUntil(t, h, call), &conn)
				if !interrupt.holdsLock {
					for range 2 {
						look := stalledUntil(t, h, call)
						if !strings.Contains(look.query, "sought") {
							t.Fatalf("%s waits for the standby, want the look for the messages", look.query)
						}
						if got := len(positions(t, h.admin, stream)); got != 1+sh.n {
							t.Fatalf("got %d messages, want %d", got, 1+sh.n)
						}
						interrupt.do(t, h, look, &conn)
					}
					stalledUntil(t, h, call)
				} else {
					until(t, h.admin, `SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted`)
				}
				h.release()
				result := <-call
				if result.err != nil {
					t.Fatal(result.err)
				}
				for i, w := range result.written {
					if !w.Duplicate || w.Position != int64(1+i) {
						t.Errorf("got %+v, want a duplicate at %d", w, 1+i)
					}
				}
				if got := len(positions(t, h.admin, stream)); got != 1+sh.n {
					t.Errorf("got %d messages, want %d", got, 1+sh.n)
				}
			})
		}
	}
}

// TestUnknownWithoutStandby checks that the outcome of a write is unknown if the waits of
// all its attempts were cancelled, or its context ended during the wait, and that the same
// write with Idempotent then waits for the standby.
func TestUnknownWithoutStandby(t *testing.T) {
	t.Parallel()
	h := newHeldStandby(t)
	for _, opts := range [][]mdb.WriteOption{nil, {mdb.ExpectVersion(0)}} {
		for name, end := range map[string]func(t *testing.T, s stalled, call <-chan writeResult, cancel func()){
			"context": func(_ *testing.T, _ stalled, _ <-chan writeResult, cancel func()) { cancel() },
			"attempts": func(t *testing.T, s stalled, call <-chan writeResult, _ func()) {
				s.signal(t, h, "pg_cancel_backend")
				stalledUntil(t, h, call).signal(t, h, "pg_cancel_backend")
			},
			"look, by the context": func(t *testing.T, s stalled, call <-chan writeResult, cancel func()) {
				s.signal(t, h, "pg_cancel_backend")
				stalledUntil(t, h, call)
				cancel()
			},
		} {
			t.Run(name, func(t *testing.T) {
				s := newStore(t, newPool(t, h.url, h.attach), attempts(2))
				stream := mdbtest.Category("standby").Stream("1")
				seed(t, s, stream, 1)
				m := mdb.NewMessage("Happened", 1)
				h.hold(t)
				defer h.release()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				write := func(ctx context.Context, opts ...mdb.WriteOption) <-chan writeResult {
					return do(func() ([]mdb.Written, error) {
						w, err := s.WriteMessage(ctx, stream, m, opts...)
						return []mdb.Written{w}, err
					})
				}
				call := write(ctx, opts...)
				end(t, stalledUntil(t, h, call), call, cancel)
				unknown := wantError[*mdb.UnknownOutcomeError](t, (<-call).err)
				if !slices.Equal(unknown.IDs, []uuid.UUID{m.ID}) {
					t.Errorf("got the IDs %v, want %v", unknown.IDs, m.ID)
				}
				if name == "attempts" && !strings.Contains(unknown.Error(), "standby") {
					t.Errorf("got error %v, want one about the standby", unknown)
				}
				if ended := errors.Is(unknown, context.Canceled); ended != (name != "attempts") {
					t.Errorf("got error %v, which wraps the context's: %t", unknown, ended)
				}

				call = write(t.Context(), append(opts, mdb.Idempotent())...)
				look := stalledUntil(t, h, call)
				h.release()
				if result := <-call; result.err != nil || !result.written[0].Duplicate || !strings.Contains(look.query, "sought") {
					t.Errorf("got %+v after %s, want a duplicate", result, look.query)
				}
			})
		}
	}
}

// TestWriteEachWaitsForStandby checks that WriteEach acknowledges no write whose wait for
// the standby was cancelled, before it has waited again.
func TestWriteEachWaitsForStandby(t *testing.T) {
	t.Parallel()
	h := newHeldStandby(t)
	for _, mode := range execModes {
		if mode == pgx.QueryExecModeSimpleProtocol {
			continue // WriteEach does what WriteMessage does
		}
		for name, streams := range map[string][]int{"chained": {1, 1, 1}, "apart": {1, 2, 3}} {
			t.Run(mode.String()+", "+name, func(t *testing.T) {
				s := newStore(t, newPool(t, h.url, h.attach, execMode(mode), oneConnection), attempts(4))
				category := mdbtest.Category("standby")
				var writes []mdb.Write
				for _, n := range streams {
					writes = append(writes, mdb.Write{Stream: category.Stream(string(rune('0' + n))), Message: mdb.NewMessage("Happened", n)})
				}
				h.hold(t)
				defer h.release()
				call := make(chan []mdb.WriteResult, 1)
				go func() { call <- s.WriteEach(t.Context(), writes) }()
				looks := 0 // some are cancelled
				for looks < len(writes) {
					wait := stalledUntil(t, h, call)
					if strings.Contains(wait.query, "sought") {
						looks++
					}
					if looks < len(writes) {
						wait.signal(t, h, "pg_cancel_backend")
					}
				}
				h.release()
				for i, r := range <-call {
					if r.Err != nil || !r.Written.Duplicate {
						t.Errorf("write %d: got %+v, want a duplicate", i, r)
					}
				}
				if got := len(rows(t, h.admin, category)); got != len(writes) {
					t.Errorf("got %d messages, want %d", got, len(writes))
				}
			})
		}
	}
}

// TestWriteEachCancelledOnce checks that a cancelled wait makes the outcome of the one
// write unknown whose wait it was.
func TestWriteEachCancelledOnce(t *testing.T) {
	t.Parallel()
	h := newHeldStandby(t)
	for cancelled := range 3 {
		for name, streams := range map[string][]int{"chained": {1, 1, 1}, "apart": {1, 2, 3}} {
			t.Run(name, func(t *testing.T) {
				s := newStore(t, newPool(t, h.url, h.attach, oneConnection), attempts(1))
				category := mdbtest.Category("standby")
				var writes []mdb.Write
				for _, n := range streams {
					writes = append(writes, mdb.Write{Stream: category.Stream(string(rune('0' + n))), Message: mdb.NewMessage("Happened", n)})
				}
				h.hold(t)
				defer h.release()
				call := make(chan []mdb.WriteResult, 1)
				go func() { call <- s.WriteEach(t.Context(), writes) }()
				for i := range writes {
					wait := stalledUntil(t, h, call)
					if i == cancelled {
						wait.signal(t, h, "pg_cancel_backend")
						continue
					}
					h.releaseOne(t)
				}
				for i, r := range <-call {
					if (i == cancelled) != isUnknown(r.Err) || (i == cancelled) != (r.Err != nil) {
						t.Errorf("write %d: got %+v, and that of %d was cancelled", i, r, cancelled)
					}
				}
			})
		}
	}
}

// TestAtomicallyWaitsForStandby checks that the outcome of Atomically is unknown if the wait
// of its commit was cancelled, also if it has only found a message that was there before,
// and that the same writes with Idempotent wait for the standby.
func TestAtomicallyWaitsForStandby(t *testing.T) {
	t.Parallel()
	h := newHeldStandby(t)
	s := newStore(t, newPool(t, h.url, h.attach), attempts(4))
	stream := mdbtest.Category("standby").Stream("1")
	m := mdb.NewMessage("Happened", 1)
	calls := 0
	atomically := func() <-chan writeResult {
		return do(func() (written []mdb.Written, err error) {
			err = s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
				calls++
				w, err := tx.WriteMessage(t.Context(), stream, m, mdb.InSavepoint(), mdb.Idempotent(), mdb.ExpectNoStream())
				written = []mdb.Written{w}
				return err
			})
			return written, err
		})
	}
	h.hold(t)
	defer h.release()
	for name, function := range map[string]string{"first": "pg_cancel_backend", "second": "pg_cancel_backend", "third": "pg_terminate_backend"} {
		call := atomically()
		stalledUntil(t, h, call).signal(t, h, function)
		unknown := wantError[*mdb.UnknownOutcomeError](t, (<-call).err)
		if !slices.Equal(unknown.IDs, []uuid.UUID{m.ID}) {
			t.Errorf("%s: got the IDs %v, want %v", name, unknown.IDs, m.ID)
		}
	}
	if calls != 3 {
		t.Errorf("the function was called %d times, want 3", calls)
	}
	call := atomically()
	commit := stalledUntil(t, h, call)
	h.release()
	if result := <-call; result.err != nil || !result.written[0].Duplicate || !strings.EqualFold(commit.query, "commit") {
		t.Errorf("got %+v after %s, want a duplicate after a commit", result, commit.query)
	}
}

// TestCommitOfCallerWaitsForStandby checks that a caller's transaction that has only found a
// message which was there before waits for the standby when the caller commits it.
func TestCommitOfCallerWaitsForStandby(t *testing.T) {
	t.Parallel()
	h := newHeldStandby(t)
	for _, mode := range execModes {
		s := newStore(t, newPool(t, h.url, h.attach, execMode(mode)), attempts(1))
		stream := mdbtest.Category("standby").Stream("1")
		m := mdb.NewMessage("Happened", 1)
		write(t, s, stream, m)
		tx := begin(t, s.Pool(), pgx.TxOptions{})
		write(t, s.WithTx(tx), stream, m, mdb.InSavepoint(), mdb.Idempotent(), mdb.ExpectNoStream())
		h.hold(t)
		call := do(func() ([]mdb.Written, error) { return nil, tx.Commit(t.Context()) })
		stalledUntil(t, h, call)
		h.release()
		if result := <-call; result.err != nil {
			t.Errorf("%v: %v", mode, result.err)
		}
	}
}

// TestLookWithoutResultWaitsForNothing checks that a search that finds nothing does not wait
// for the standby, because it writes nothing.
func TestLookWithoutResultWaitsForNothing(t *testing.T) {
	t.Parallel()
	h := newHeldStandby(t)
	s := newStore(t, newPool(t, h.url, h.attach), attempts(1))
	stream := mdbtest.Category("standby").Stream("1")
	seed(t, s, stream, 1)
	h.hold(t)
	defer h.release()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	_, err := s.WriteMessage(ctx, stream, mdb.NewMessage("Happened", 1), mdb.Idempotent(), mdb.ExpectNoStream())
	wantError[*mdb.WrongVersionError](t, err)
}

// TestCancelledWaitOfOthers checks that the cancelled wait of a statement of the program's
// own does not count as that of the next write on the same connection.
func TestCancelledWaitOfOthers(t *testing.T) {
	t.Parallel()
	h := newHeldStandby(t)
	exec(t, h.admin, `CREATE TABLE public.others (n int); GRANT INSERT ON public.others TO message_store`)
	var log journal
	var notices []string
	s := newStore(t, newPool(t, h.url, func(cfg *pgxpool.Config) {
		cfg.ConnConfig.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Routine) }
		mdb.Configure(cfg)
	}, configure, h.attach, oneConnection), log.option())
	stream := mdbtest.Category("standby").Stream("1")
	for name, call := range map[string]func() error{
		"WriteMessage": func() error {
			_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", 1))
			return err
		},
		"WriteMessages, direct": func() error {
			_, err := newStore(t, s.Pool(), log.option(), mdb.WithDirectSQL()).WriteMessages(t.Context(), stream, proposals(2))
			return err
		},
		"WriteEach": func() error {
			return s.WriteEach(t.Context(), []mdb.Write{{Stream: stream, Message: mdb.NewMessage("Happened", 1)}})[0].Err
		},
		"Atomically": func() error {
			return s.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
				_, err := tx.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", 1))
				return err
			})
		},
	} {
		h.hold(t)
		insert := do(func() ([]mdb.Written, error) {
			_, err := s.Pool().Exec(t.Context(), `INSERT INTO public.others VALUES (1)`)
			return nil, err
		})
		stalledUntil(t, h, insert).signal(t, h, "pg_cancel_backend")
		if result := <-insert; result.err != nil {
			t.Fatal(result.err)
		}
		h.release()
		if err := call(); err != nil || log.retries() != 0 {
			t.Errorf("%s: got error %v after %d retries, want neither", name, err, log.retries())
		}
	}
	if len(notices) != 4 || notices[0] != "SyncRepWaitForLSN" {
		t.Errorf("the program has received the notices %q, want 4 of them", notices)
	}
}

// TestCheckNotices checks that Check reports why the store would not notice a cancelled wait
// for a standby, and only where writes wait for one.
func TestCheckNotices(t *testing.T) {
	t.Parallel()
	h := newHeldStandby(t)
	var passed int
	count := func(cfg *pgxpool.Config) {
		cfg.ConnConfig.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) { passed++ }
	}
	without := func(cfg *pgxpool.Config) { cfg.ConnConfig.OnNotice = nil }
	quiet := parameter("client_min_messages", "error")
	for _, tt := range []struct {
		name    string
		prepare []func(*pgxpool.Config)
		want    string
	}{
		{"configured", []func(*pgxpool.Config){h.attach}, ""},
		{"configured after", []func(*pgxpool.Config){h.attach, count, configure}, ""},
		{"without", []func(*pgxpool.Config){h.attach, without}, "the notices of the server do not reach the store"},
		{"another", []func(*pgxpool.Config){h.attach, func(cfg *pgxpool.Config) { cfg.ConnConfig.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) {} }}, "the notices of the server do not reach the store"},
		{"quiet", []func(*pgxpool.Config){h.attach, quiet}, "the setting client_min_messages is error"},
		{"does not wait", []func(*pgxpool.Config){without, quiet}, ""},
	} {
		s := newStore(t, newPool(t, h.url, tt.prepare...))
		if err := s.Check(t.Context()); tt.want == "" {
			if err != nil {
				t.Errorf("%s: got error %v, want none", tt.name, err)
			}
		} else if found := findings(t, err); len(found) != 1 || !strings.Contains(found[0].Problem, tt.want) {
			t.Errorf("%s: got the findings %v, want %q", tt.name, found, tt.want)
		}
		if err := s.Check(t.Context(), mdb.ReadOnly()); err != nil {
			t.Errorf("%s, read-only: got error %v, want none", tt.name, err)
		}
	}
	if passed != 0 {
		t.Errorf("the handler of the program was called %d times, want none", passed)
	}
}
