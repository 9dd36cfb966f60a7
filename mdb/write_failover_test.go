package mdb_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// A virtual address leads new connections to one server at a time, and leaves the others
// alone, as a load balancer does that does not close connections.
type virtualAddress struct{ to atomic.Pointer[string] }

func (v *virtualAddress) lead(t testing.TB, s *pgtest.Server) {
	t.Helper()
	cfg, err := pgx.ParseConfig(s.TCP("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	address := net.JoinHostPort(cfg.Host, value[string](t, session(t, s), "SELECT current_setting('port')"))
	v.to.Store(&address)
}

func (v *virtualAddress) attach(cfg *pgxpool.Config) {
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, *v.to.Load())
	}
}

func session(t testing.TB, s *pgtest.Server) *pgx.Conn {
	t.Helper()
	return testdb.Session(t, s.URL("postgres"))
}

// setReadOnly makes new transactions of the server read-only, also those of sessions that are open.
func setReadOnly(t testing.TB, s *pgtest.Server, pool *pgxpool.Pool) {
	t.Helper()
	admin := session(t, s)
	exec(t, admin, "ALTER SYSTEM SET default_transaction_read_only = on")
	exec(t, admin, "SELECT pg_reload_conf()")
	for _, conn := range pool.AcquireAllIdle(t.Context()) {
		until(t, conn, "SELECT current_setting('default_transaction_read_only') = 'on'")
		conn.Release()
	}
}

// connections opens n connections, which are then idle.
func openConnections(t testing.TB, pool *pgxpool.Pool, n int) {
	t.Helper()
	conns := make([]*pgxpool.Conn, n)
	for i := range conns {
		var err error
		if conns[i], err = pool.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, conn := range conns {
		conn.Release()
	}
}

// TestReadOnlyPrimary checks that, after a failover that leaves the old primary alive and
// read-only, each kind of write heals in its second attempt, although the pool is full of
// connections to the old one, and that they are replaced once.
func TestReadOnlyPrimary(t *testing.T) {
	t.Parallel()
	pair := testdb.Pair(t)
	var address virtualAddress
	address.lead(t, pair.Primary)
	const idle = 6
	calls := map[string]func(ctx context.Context, s *mdb.Store, category mdb.Category) error{
		"WriteMessage": func(ctx context.Context, s *mdb.Store, category mdb.Category) error {
			_, err := s.WriteMessage(ctx, category.Stream("1"), mdb.NewMessage("Happened", nil))
			return err
		},
		"WriteMessages": func(ctx context.Context, s *mdb.Store, category mdb.Category) error {
			_, err := s.WriteMessages(ctx, category.Stream("1"), proposals(2))
			return err
		},
		"WriteEach": func(ctx context.Context, s *mdb.Store, category mdb.Category) error {
			for _, r := range s.WriteEach(ctx, append(spread(category, 3, 2), spread(category, 3, 3)...)) {
				if r.Err != nil {
					return r.Err
				}
			}
			return nil
		},
		"Atomically": func(ctx context.Context, s *mdb.Store, category mdb.Category) error {
			return s.Atomically(ctx, []mdb.Category{category}, func(tx *mdb.Tx) error {
				_, err := tx.WriteMessage(ctx, category.Stream("1"), mdb.NewMessage("Happened", nil))
				return err
			})
		},
		"Atomically, the error is ignored": func(ctx context.Context, s *mdb.Store, category mdb.Category) error {
			return s.Atomically(ctx, []mdb.Category{category}, func(tx *mdb.Tx) error {
				_, _ = tx.WriteMessage(ctx, category.Stream("1"), mdb.NewMessage("Happened", nil))
				return nil
			})
		},
		"Atomically, a savepoint": func(ctx context.Context, s *mdb.Store, category mdb.Category) error {
			return s.Atomically(ctx, []mdb.Category{category}, func(tx *mdb.Tx) error {
				_, err := tx.WriteMessage(ctx, category.Stream("1"), mdb.NewMessage("Happened", nil), mdb.InSavepoint())
				return err
			})
		},
		"Atomically, the caller's statement": func(ctx context.Context, s *mdb.Store, category mdb.Category) error {
			return s.Atomically(ctx, []mdb.Category{category}, func(tx *mdb.Tx) error {
				_, err := tx.Tx().Exec(ctx, "CREATE TABLE public."+string(category)+" ()")
				return err
			})
		},
	}
	type prepared struct {
		store *mdb.Store
		log   *journal
	}
	stores := make(map[string]prepared)
	prepare := func(name string) prepared {
		var log journal
		s := newStore(t, newPool(t, pair.Primary.TCP("postgres"), address.attach, func(cfg *pgxpool.Config) { cfg.MaxConns = idle }), log.option())
		write(t, s, mdbtest.Category("before").Stream("1"), mdb.NewMessage("Happened", nil))
		openConnections(t, s.Pool(), idle)
		stores[name] = prepared{s, &log}
		return stores[name]
	}
	for name := range calls {
		prepare(name)
	}
	own := prepare("WithTx")
	many := prepare("many")
	early := prepare("opened before")

	pair.CatchUp(t)
	pair.Promote(t)
	for _, p := range stores {
		setReadOnly(t, pair.Primary, p.store.Pool())
	}
	address.lead(t, pair.Standby)

	replaced := func(t *testing.T, log *journal, retries int) {
		t.Helper()
		if n := strings.Count(log.String(), "replacing the pool's connections"); n != 1 {
			t.Errorf("the connections were replaced %d times, want 1", n)
		}
		if n := log.retries(); n != retries {
			t.Errorf("got %d retries, want %d", n, retries)
		}
	}
	for name, do := range calls {
		t.Run(name, func(t *testing.T) {
			p := stores[name]
			if err := do(t.Context(), p.store, mdbtest.Category("after")); err != nil {
				t.Fatal(err)
			}
			replaced(t, p.log, 1)
		})
	}
	t.Run("many", func(t *testing.T) {
		// Each closes its own connection, and none gets one of the others.
		var wg sync.WaitGroup
		for range idle {
			wg.Go(func() {
				if err := calls["WriteMessage"](t.Context(), many.store, mdbtest.Category("many")); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		replaced(t, many.log, min(many.log.retries(), idle))
	})
	t.Run("opened before", func(t *testing.T) {
		// The connection of a transaction was opened before another write has replaced the
		// connections, and succeeded.
		write := calls["WriteMessage"]
		once := sync.OnceValue(func() error { return write(t.Context(), early.store, mdbtest.Category("after")) })
		err := early.store.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
			if err := once(); err != nil {
				t.Error(err)
			}
			_, err := tx.WriteMessage(t.Context(), "before-2", mdb.NewMessage("Happened", nil))
			return err
		})
		if err != nil {
			t.Error(err)
		}
		replaced(t, early.log, 2)
	})
	t.Run("WithTx", func(t *testing.T) {
		// A caller's transaction is not retried, but the next one succeeds.
		attempt := func() error {
			return pgx.BeginFunc(t.Context(), own.store.Pool(), func(tx pgx.Tx) error {
				_, err := own.store.WithTx(tx).WriteMessage(t.Context(), "after-1", mdb.NewMessage("Happened", nil))
				return err
			})
		}
		wantCode(t, attempt(), "25006")
		if err := attempt(); err != nil {
			t.Error(err)
		}
		replaced(t, own.log, 0)
	})
}

// TestStandbyIsPromoted checks that writes to a standby are retried until it is promoted, and
// if that takes too long, end with what is wrong.
func TestStandbyIsPromoted(t *testing.T) {
	t.Parallel()
	pair := testdb.Pair(t)
	var log journal
	s := newStore(t, newPool(t, pair.Standby.URL("postgres")), log.option())
	brief := newStore(t, newPool(t, pair.Standby.URL("postgres")), forAWhile())
	write := func(s *mdb.Store) error {
		_, err := s.WriteMessage(t.Context(), "account-1", mdb.NewMessage("Happened", nil))
		return err
	}
	err := write(brief)
	wantCode(t, err, "25006")
	setup := wantError[*mdb.SetupError](t, err)
	if !errors.Is(err, mdb.ErrUnavailable) || !mdb.IsTransient(err) || !strings.Contains(setup.Problem, "after retries for") {
		t.Errorf("got error %v, want one that says that the server was unavailable", err)
	}
	err = brief.Atomically(t.Context(), nil, func(tx *mdb.Tx) error {
		_, err := tx.WriteMessage(t.Context(), "account-1", mdb.NewMessage("Happened", nil))
		return err
	})
	if wantError[*mdb.SetupError](t, err); !errors.Is(err, mdb.ErrUnavailable) {
		t.Errorf("got error %v, want one that says that the server was unavailable", err)
	}
	// Reads work, and do not hurry the writes.
	if _, err := brief.GetStreamMessages(t.Context(), "account-1"); err != nil {
		t.Error(err)
	}

	promote := sync.OnceFunc(func() { pair.Promote(t) })
	log.onRecord = func() {
		if strings.Count(log.String(), "retrying a write") == 3 {
			promote()
		}
	}
	if err := write(s); err != nil {
		t.Error(err)
	}
	// Each attempt closes its connection, which may be to the wrong server.
	if n, conns := log.retries(), int(s.Pool().Stat().NewConnsCount()); n < 3 || conns < n+1 {
		t.Errorf("got %d retries on %d connections, want at least 3, each on a new one", n, conns)
	}
}

// TestReadOnlyByDefault checks that if a new connection of a primary is read-only by default,
// a write ends as soon as that is known, and if only the transaction is read-only, after the
// policy's attempts.
func TestReadOnlyByDefault(t *testing.T) {
	t.Parallel()
	for name, parameters := range map[string][2]string{
		"setting":           {"default_transaction_read_only", "on"},
		"setting of others": {"application_name", "a"},
	} {
		var log journal
		readOnly := name == "setting"
		s := newStore(t, newPool(t, testdb.Shared(t), parameter(parameters[0], parameters[1])), log.option(),
			mdb.WithRetry(mdb.RetryPolicy{For: time.Hour, Attempts: 3}))
		category := mdbtest.Category("default")
		runs := 0
		err := s.Atomically(t.Context(), []mdb.Category{category}, func(tx *mdb.Tx) error {
			runs++
			if !readOnly {
				exec(t, tx.Tx(), "SET TRANSACTION READ ONLY")
			}
			_, err := tx.WriteMessage(t.Context(), category.Stream("1"), mdb.NewMessage("Happened", nil))
			return err
		})
		wantCode(t, err, "25006")
		if setup := errors.As(err, new(*mdb.SetupError)); setup != readOnly || errors.Is(err, mdb.ErrUnavailable) {
			t.Errorf("%s: got error %v, of the set-up: %t", name, err, setup)
		}
		if replaced := strings.Contains(log.String(), "replacing"); replaced != readOnly || !readOnly && runs != 3 {
			t.Errorf("%s: %d runs, connections were replaced: %t", name, runs, replaced)
		}
		if !readOnly {
			continue
		}
		_, err = s.WriteMessage(t.Context(), category.Stream("1"), mdb.NewMessage("Happened", nil))
		if setup := wantError[*mdb.SetupError](t, err); !strings.Contains(setup.Problem, "default_transaction_read_only") || errors.Is(err, mdb.ErrUnavailable) {
			t.Errorf("got error %v, want that of the setting", err)
		}
		for _, r := range s.WriteEach(t.Context(), spread(category, 2, 2)) {
			wantError[*mdb.SetupError](t, r.Err)
		}
	}
}
