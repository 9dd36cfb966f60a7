package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

func isUnknown(err error) bool {
	var unknown *mdb.UnknownOutcomeError
	return errors.As(err, &unknown)
}

// TestTerminatedWrite checks that a write is retried if an administrator terminates its
// session while it waits for its lock.
func TestTerminatedWrite(t *testing.T) {
	t.Parallel()
	holder := mdbtest.SharedStore(t)
	for name, n := range map[string]int{"single": 1, "batch": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log journal
			s := newStore(t, newPool(t, testdb.Shared(t)), log.option(), attempts(3))
			stream := mdbtest.Category("terminated").Stream("1")
			release := holdLock(t, holder, stream.Category())
			done := make(chan error, 1)
			var written []mdb.Written
			go func() {
				var err error
				written, err = s.WriteMessages(t.Context(), stream, proposals(n))
				done <- err
			}()
			untilBlocked(t, holder.Pool(), stream.Category(), 1)
			hash := mdb.Hash64(string(stream.Category()))
			pid := value[int](t, holder.Pool(), `SELECT pid FROM pg_locks WHERE NOT granted AND `+keyLocks, hash)
			exec(t, holder.Pool(), `SELECT pg_terminate_backend($1)`, pid)
			// The retry has begun before it can get the lock.
			until(t, holder.Pool(), `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid <> $2 AND `+keyLocks+`)`, hash, pid)
			release()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if log.retries() != 1 || written[0].Duplicate {
				t.Errorf("got %+v after %d retries, want it written by the only one", written[0], log.retries())
			}
			if got := positions(t, holder.Pool(), stream); len(got) != n {
				t.Errorf("got %d messages, want %d", len(got), n)
			}
		})
	}
}

// TestTerminatedIdle checks that a call succeeds if the session was terminated before it,
// which the client cannot distinguish.
func TestTerminatedIdle(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t), oneConnection))
	other := mdbtest.SharedStore(t)
	stream := mdbtest.Category("idle").Stream("1")
	for i := range int64(3) {
		if w := write(t, s, stream, mdb.NewMessage("Happened", nil), mdb.ExpectVersion(i-1)); w.Position != i || w.Duplicate {
			t.Errorf("got %+v, want position %d", w, i)
		}
		pid := value[int](t, s.Pool(), `SELECT pg_backend_pid()`)
		exec(t, other.Pool(), `SELECT pg_terminate_backend($1)`, pid)
		until(t, other.Pool(), `SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)`, pid)
	}
	if got := positions(t, other.Pool(), stream); len(got) != 3 {
		t.Errorf("got %d messages, want 3", len(got))
	}
}

// An endingContext ends when the test says, also by a deadline.
type endingContext struct {
	context.Context
	done chan struct{}
	err  error
}

func (c *endingContext) Done() <-chan struct{} { return c.done }

func (c *endingContext) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// TestContextEndsDuringWrite checks that if the context ends while the write waits for its
// lock, the call returns an unknown outcome immediately.
func TestContextEndsDuringWrite(t *testing.T) {
	t.Parallel()
	holder := mdbtest.SharedStore(t)
	for name, end := range map[string]error{"cancel": context.Canceled, "deadline": context.DeadlineExceeded} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log journal
			s := newStore(t, newPool(t, testdb.Shared(t)), log.option())
			stream := mdbtest.Category("ends").Stream("1")
			release := holdLock(t, holder, stream.Category())
			ctx := &endingContext{Context: t.Context(), done: make(chan struct{}), err: end}
			ms := proposals(2)
			done := make(chan error, 1)
			go func() {
				_, err := s.WriteMessages(ctx, stream, ms)
				done <- err
			}()
			untilBlocked(t, holder.Pool(), stream.Category(), 1)
			close(ctx.done)
			err := <-done
			unknown := wantError[*mdb.UnknownOutcomeError](t, err)
			if !errors.Is(err, end) {
				t.Errorf("got error %v, want it to wrap %v too", err, end)
			}
			if !slices.Equal(unknown.IDs, []uuid.UUID{ms[0].ID, ms[1].ID}) {
				t.Errorf("got IDs %v, want those of the call", unknown.IDs)
			}
			if n := log.retries(); n != 0 {
				t.Errorf("got %d retries, want none", n)
			}
			release()
			// The same call settles it, whether or not it was written.
			w, err := s.WriteMessages(t.Context(), stream, ms, mdb.Idempotent())
			if err != nil || w[0].Position != 0 {
				t.Errorf("got %+v, error %v, want position 0", w, err)
			}
			if got := positions(t, holder.Pool(), stream); len(got) != 2 {
				t.Errorf("got %d messages, want 2", len(got))
			}
		})
	}
}

// TestContextEndsInTx checks that in a transaction no outcome is unknown, because the
// caller commits it.
func TestContextEndsInTx(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("ends").Stream("1")
	_ = holdLock(t, s, stream.Category())
	ctx, cancel := context.WithCancel(t.Context())
	tx := begin(t, s.Pool())
	done := make(chan error, 1)
	go func() {
		_, err := s.WithTx(tx).WriteMessage(ctx, stream, mdb.NewMessage("Happened", nil))
		done <- err
	}()
	untilBlocked(t, s.Pool(), stream.Category(), 1)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || isUnknown(err) {
		t.Errorf("got error %v, want a cancelled context and no unknown outcome", err)
	}
}

// TestContextEndsDuringRead checks that a read is cancelled while it runs.
func TestContextEndsDuringRead(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]func(*pgconn.PgConn) ctxwatch.Handler{
		"by the connection's end": nil,
		// Here the server reports the cancellation as an error of its own.
		"by a cancel request": func(conn *pgconn.PgConn) ctxwatch.Handler {
			return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: testTimeout}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, newPool(t, testdb.Shared(t), parameter("application_name", name), func(cfg *pgxpool.Config) {
				if handler != nil {
					cfg.ConnConfig.BuildContextWatcherHandler = handler
				}
			}), mdb.WithConditions())
			stream := mdbtest.Category("ends").Stream("1")
			seed(t, s, stream, 1)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				_, err := s.GetStreamMessages(ctx, stream, mdb.WithCondition("pg_sleep(600) IS NOT NULL"))
				done <- err
			}()
			until(t, s.Pool(), `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1 AND wait_event = 'PgSleep')`, name)
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("got error %v, want a cancelled context", err)
			}
		})
	}
}

// TestNothingSent checks that no outcome is unknown if a call fails before anything is
// sent.
func TestNothingSent(t *testing.T) {
	t.Parallel()
	stream := mdb.StreamName("nothing-1")
	for _, tt := range []struct {
		name string
		call func(t *testing.T, call func(*mdb.Store, context.Context) error) error
		is   error
	}{
		{"context has ended", func(t *testing.T, call func(*mdb.Store, context.Context) error) error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return call(mdbtest.SharedStore(t), ctx)
		}, context.Canceled},
		{"no free connection", func(t *testing.T, call func(*mdb.Store, context.Context) error) error {
			pool := newPool(t, testdb.Shared(t), oneConnection)
			conn, err := pool.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Release()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			return call(newStore(t, pool), ctx)
		}, context.DeadlineExceeded},
		{"pool closed", func(t *testing.T, call func(*mdb.Store, context.Context) error) error {
			pool := newPool(t, testdb.Shared(t))
			pool.Close()
			return call(newStore(t, pool, attempts(2)), t.Context())
		}, nil},
		{"pool's hook", func(t *testing.T, call func(*mdb.Store, context.Context) error) error {
			pool := newPool(t, testdb.Shared(t), func(cfg *pgxpool.Config) {
				cfg.AfterConnect = func(context.Context, *pgx.Conn) error { return errHook }
			})
			return call(newStore(t, pool, forAWhile()), t.Context())
		}, errHook},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for what, call := range map[string]func(*mdb.Store, context.Context) error{
				"write": func(s *mdb.Store, ctx context.Context) error {
					_, err := s.WriteMessage(ctx, stream, mdb.NewMessage("Happened", nil))
					return err
				},
				"read": func(s *mdb.Store, ctx context.Context) error {
					_, err := s.GetStreamMessages(ctx, stream)
					return err
				},
				"transaction": func(s *mdb.Store, ctx context.Context) error {
					return s.Atomically(ctx, nil, func(*mdb.Tx) error {
						t.Error("the function is called")
						return nil
					})
				},
			} {
				err := tt.call(t, call)
				if err == nil || isUnknown(err) || tt.is != nil && !errors.Is(err, tt.is) {
					t.Errorf("%s: got error %v, want one of %v and no unknown outcome", what, err, tt.is)
				}
			}
		})
	}
}

// TestHookRecovers checks that a write is retried if a hook of the pool has failed for a
// moment: on its own, by a transient error of the server, or with a lost connection.
func TestHookRecovers(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(ctx context.Context, conn *pgx.Conn) error{
		"own error": func(context.Context, *pgx.Conn) error { return errHook },
		"server's": func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, `DO $$ BEGIN RAISE SQLSTATE '40001'; END $$`)
			return err
		},
		"lost connection": func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, `SELECT pg_terminate_backend(pg_backend_pid())`)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var failures atomic.Int64
			s := newStore(t, newPool(t, testdb.Shared(t), func(cfg *pgxpool.Config) {
				cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
					if failures.Add(1) <= 2 {
						return fail(ctx, conn)
					}
					return nil
				}
			}), attempts(4))
			write(t, s, mdbtest.Category("hook").Stream("1"), mdb.NewMessage("Happened", nil))
			if n := failures.Load(); n != 3 {
				t.Errorf("got %d attempts to connect, want 3", n)
			}
		})
	}
}

var errHook = errors.New("hook")

// TestServerComesBack checks that a write connects again for as long as the policy allows,
// however often that is, and succeeds once the server is up.
func TestServerComesBack(t *testing.T) {
	t.Parallel()
	var down atomic.Int64
	s := newStore(t, newPool(t, testdb.Shared(t), func(cfg *pgxpool.Config) {
		cfg.ConnConfig.Fallbacks = nil
		dial := cfg.ConnConfig.DialFunc
		cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if down.Add(-1) >= 0 {
				return nil, errHook
			}
			return dial(ctx, network, addr)
		}
	}))
	stream := mdbtest.Category("back").Stream("1")
	down.Store(3)
	if w := write(t, s, stream, mdb.NewMessage("Happened", nil)); w.Position != 0 || w.Duplicate {
		t.Errorf("got %+v", w)
	}
	s.Pool().Reset()
	const many = 1_000_000
	down.Store(many)
	_, err := newStore(t, s.Pool(), forAWhile()).WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
	if !errors.Is(err, mdb.ErrUnavailable) || !errors.Is(err, errHook) || !mdb.IsTransient(err) || isUnknown(err) {
		t.Errorf("got error %v, want an unavailable server, and that of dialling", err)
	}
	if n := many - down.Load(); n <= 2 {
		t.Errorf("got %d attempts to connect, want more than those of the policy", n)
	}
	// The pool goes on with the attempt that the write no longer waits for.
	eventually(t, newPool(t, testdb.Shared(t)), "no attempt to connect is left", func() bool { return s.Pool().Stat().ConstructingConns() == 0 })
	// A read is not retried.
	down.Store(1)
	if _, err := s.GetStreamMessages(t.Context(), stream); !errors.Is(err, errHook) {
		t.Errorf("got error %v, want that of dialling", err)
	}
}

// TestReadWakesWrite checks that the success of a subscription's read ends the delay of a write
// that could not connect, and that of a write the waits of others.
func TestReadWakesWrite(t *testing.T) {
	t.Parallel()
	var down atomic.Bool
	log := journal{}
	s := newStore(t, newPool(t, testdb.Shared(t), func(cfg *pgxpool.Config) {
		dial := cfg.ConnConfig.DialFunc
		cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if down.Load() {
				return nil, errHook
			}
			return dial(ctx, network, addr)
		}
	}), mdb.WithRetry(mdb.RetryPolicy{For: time.Hour, MinDelay: time.Hour}), log.option())
	category := mdbtest.Category("wakes")
	cut := make(chan struct{})
	noticed := sync.OnceFunc(func() { close(cut) })
	r := receiveCategory(t, s, category, mdb.OnRetry(func(mdb.Retry) { noticed() }))
	r.untilLive(t)
	down.Store(true)
	s.Pool().Reset()
	// A read that was under way would wake a write while nobody can connect, and the delay after that is not cut short.
	select {
	case <-cut:
	case <-time.After(testTimeout):
		t.Fatal("the subscription is still connected")
	}
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	const writers = 5
	var writing sync.WaitGroup
	for i := range writers {
		writing.Go(func() {
			if _, err := s.WriteMessage(ctx, category.Stream(fmt.Sprint(i)), mdb.NewMessage("Happened", nil)); err != nil {
				t.Error(err)
			}
		})
	}
	for end := time.Now().Add(testTimeout); strings.Count(log.String(), "retrying a write") < 1; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("no write is retried")
		}
	}
	down.Store(false)
	writing.Wait()
	r.next(t, writers)
	r.stop(t)
}

// TestProbeWaitsForLock checks that calls that have found the server, and then wait for a lock,
// do not keep others from writing.
func TestProbeWaitsForLock(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	s := newStore(t, newPool(t, url, connections(5)))
	write(t, s, "before-1", mdb.NewMessage("Happened", nil))
	locked := mdb.Category("locked")
	tx := begin(t, newPool(t, url))
	if err := newStore(t, s.Pool()).WithTx(tx).LockCategories(t.Context(), locked); err != nil {
		t.Fatal(err)
	}
	mdb.LoseConnection(s)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	var writing sync.WaitGroup
	for i := range 2 {
		writing.Go(func() {
			if _, err := s.WriteMessage(ctx, locked.Stream(fmt.Sprint(i)), mdb.NewMessage("Happened", nil)); err != nil {
				t.Error(err)
			}
		})
	}
	until(t, tx, waiters, mdb.Hash64(string(locked)), 2)
	if _, err := s.WriteMessage(ctx, "free-1", mdb.NewMessage("Happened", nil)); err != nil {
		t.Error(err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	writing.Wait()
}

// TestServerRefusesConnections checks that a write is not retried if the server rejects
// the connection.
func TestServerRefusesConnections(t *testing.T) {
	t.Parallel()
	var w wire
	s := newStore(t, newPool(t, testdb.Shared(t), w.attach, func(cfg *pgxpool.Config) {
		cfg.ConnConfig.Database = "does_not_exist"
	}), attempts(3))
	_, err := s.WriteMessage(t.Context(), "account-1", mdb.NewMessage("Happened", nil))
	wantCode(t, err, "3D000")
	if isUnknown(err) {
		t.Errorf("got error %v, want no unknown outcome, because nothing was sent", err)
	}
	if n := w.dials.Load(); n != 1 {
		t.Errorf("got %d attempts to connect, want 1", n)
	}
}
