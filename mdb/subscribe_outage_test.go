package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// removal removes what reads use, and so invalidates prepared statements.
const removal = `DROP TYPE message_store.message CASCADE`

// recreation returns the SQL that creates again what removal removes.
func recreation(t testing.TB, db database) string {
	t.Helper()
	rows, _ := db.Query(t.Context(), `SELECT pg_get_functiondef(oid) FROM pg_proc WHERE prorettype = 'message_store.message'::regtype`)
	functions, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	attributes := value[string](t, db, `SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
FROM pg_attribute WHERE attrelid = 'message_store.message'::regclass AND attnum > 0`)
	return "CREATE TYPE message_store.message AS (" + attributes + ");\n" + strings.Join(functions, ";\n")
}

func execAll(t testing.TB, tx pgx.Tx, sql string) {
	t.Helper()
	if _, err := tx.Conn().PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatal(err)
	}
}

// TestSubscriptionsOutliveUpgrades checks that subscriptions lose nothing while the types
// of the procedures are removed and created again, in one transaction and in two.
func TestSubscriptionsOutliveUpgrades(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	pool := newPool(t, url)
	s := newStore(t, pool, persistent)
	again := recreation(t, pool)
	o := newOrdeal(t, url)
	for range 3 {
		o.write(t, s, 2)
		o.catchUp(t, s)
		before := o.noticed()
		exec(t, pool, removal)
		for _, g := range o.all {
			if strings.Contains(g.name, "direct") { // which uses none of it
				continue
			}
			g.until(t, "informed of a retry", func() bool { return g.noticed.Load() > before[g] })
		}
		tx := begin(t, pool)
		execAll(t, tx, again)
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	o.write(t, s, 1)
	o.catchUp(t, s)
	// The server then sometimes looks for an object that does not exist any more (XX000).
	var writing sync.WaitGroup
	writing.Go(func() { o.write(t, s, 100) })
	for range 50 {
		tx := begin(t, pool)
		execAll(t, tx, removal+";"+again)
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	writing.Wait()
	o.check(t, s)
}

// A knife cuts a connection when it has received a given number of bytes.
type knife struct {
	net.Conn
	left *atomic.Int64 // shared by all connections; below 0 none is cut
	next *atomic.Int64 // likewise, of the connection that replaces the one that is cut
}

var errCut = errors.New("cut")

func (k *knife) Read(p []byte) (int, error) {
	left := k.left.Load()
	if left < 0 {
		return k.Conn.Read(p)
	}
	if left == 0 {
		k.left.Store(k.next.Swap(-1))
		_ = k.Close()
		return 0, errCut
	}
	n, err := k.Conn.Read(p[:min(int64(len(p)), left)])
	k.left.Store(left - int64(n))
	return n, err
}

// TestSubscriptionCutPages checks that wherever in a page the connection breaks, no part
// of the page is delivered, and all of it is delivered later.
func TestSubscriptionCutPages(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	const page, pages = 10, 40
	url := testdb.Shared(t)
	writer := newStore(t, newPool(t, url))
	category := mdbtest.Category("cut")
	for range pages {
		if _, err := writer.WriteMessages(t.Context(), category.Stream("1"), proposals(page)); err != nil {
			t.Fatal(err)
		}
	}
	for name, opts := range map[string][]mdb.CategorySubscribeOption{
		"plain":     nil,
		"filtered":  {mdb.AsConsumerGroup(0, 1)},
		"condition": {mdb.WithCondition("true")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var left, next atomic.Int64
			left.Store(-1)
			next.Store(-1)
			s := newStore(t, newPool(t, url, oneConnection, func(cfg *pgxpool.Config) {
				cfg.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
					conn, err := new(net.Dialer).DialContext(ctx, network, address)
					return &knife{conn, &left, &next}, err
				}
			}), mdb.WithConditions())
			handled, cuts, retries := 0, int64(0), 0
			ctx, end := context.WithCancelCause(t.Context())
			err := s.SubscribeToCategory(ctx, category, func(_ context.Context, m mdb.Message) error {
				if m.Position != int64(handled) {
					return fmt.Errorf("got message %d at position %d", handled, m.Position)
				}
				handled++
				return nil
			}, append(opts, mdb.WithBatchSize(page),
				mdb.OnRetry(func(mdb.Retry) { retries++ }),
				onPosition(func(context.Context, int64) error {
					if handled%page != 0 {
						return fmt.Errorf("got progress after %d messages of pages of %d", handled, page)
					}
					// The next page is cut later than this one. If it is complete before
					// the cut, the page after it is not. A read ahead that is cut is no
					// retry, but the read after it is cut, too.
					if left.Load() < 0 {
						next.Store(39 * cuts)
						left.Store(39 * cuts)
						cuts++
					}
					return nil
				}),
				mdb.OnLive(func(live bool) {
					if live {
						end(errStopped)
					}
				}))...)
			if !errors.Is(err, errStopped) {
				t.Fatal(err)
			}
			if handled != page*pages {
				t.Errorf("got %d messages, want %d", handled, page*pages)
			}
			if retries < pages/2 {
				t.Errorf("got %d retries of %d cuts", retries, cuts)
			}
		})
	}
}

// TestSubscriptionRefused checks a server that rejects the connection: at the start that
// is an error of the set-up, which must not look like an idle subscription, and later it
// is transient.
func TestSubscriptionRefused(t *testing.T) {
	t.Parallel()
	server := pgtest.Own(t)
	pool := newPool(t, server.URL("postgres"))
	install(t, pool)
	admin := newStore(t, pool)
	exec(t, pool, `CREATE ROLE reader LOGIN PASSWORD 'right' IN ROLE message_store`)
	as := func(password string) func(*pgxpool.Config) {
		return func(cfg *pgxpool.Config) { cfg.ConnConfig.User, cfg.ConnConfig.Password = "reader", password }
	}
	for code, refused := range map[string]*pgxpool.Pool{
		"28P01": newPool(t, server.TCP("postgres"), as("wrong")),
		"3D000": newPool(t, server.TCP("nowhere")), // without the role, whose password changes below
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			for _, opts := range [][]mdb.CategorySubscribeOption{nil, {mdb.FromEnd()}, {mdb.AsConsumerGroup(0, 1)}} {
				ctx, end := context.WithCancelCause(t.Context())
				err := newStore(t, refused).SubscribeToCategory(ctx, "account", func(context.Context, mdb.Message) error { return nil },
					append(opts, mdb.OnRetry(func(r mdb.Retry) { end(errors.New("retried after " + r.Err.Error())) }))...)
				wantCode(t, err, code)
			}
		})
	}
	t.Run("later", func(t *testing.T) {
		t.Parallel()
		retried := make(chan error, 1)
		s := newStore(t, newPool(t, server.TCP("postgres"), as("right")))
		r := receiveCategory(t, s, "account", mdb.OnRetry(func(r mdb.Retry) {
			select {
			case retried <- r.Err:
			default:
			}
		}))
		r.untilLive(t)
		exec(t, pool, `ALTER ROLE reader PASSWORD 'rotated'`)
		exec(t, pool, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'reader'`)
		for end := time.After(testTimeout); ; {
			select {
			case err := <-retried:
				if pgErr := (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || pgErr.Code != "28P01" {
					continue // of the old connection
				}
			case <-end:
				t.Fatal("the password is not used")
			}
			break
		}
		exec(t, pool, `ALTER ROLE reader PASSWORD 'right'`)
		write(t, admin, "account-1", mdb.NewMessage("Happened", nil))
		r.next(t, 1)
		r.stop(t)
	})
}

// TestSubscriptionOnClosedPool checks that closing the pool, before a subscription or
// during it, ends the subscription, because a pool cannot be opened again.
func TestSubscriptionOnClosedPool(t *testing.T) {
	t.Parallel()
	pool := newPool(t, testdb.Shared(t))
	s := newStore(t, pool)
	category := mdbtest.Category("closed")
	closing := mdb.OnLive(func(bool) { pool.Close() })
	for _, when := range []string{"closed under it", "closed before it"} {
		ctx, end := context.WithCancelCause(t.Context())
		err := s.SubscribeToCategory(ctx, category, func(context.Context, mdb.Message) error { return nil }, often, closing,
			mdb.OnRetry(func(r mdb.Retry) { end(fmt.Errorf("retried after %w", r.Err)) }))
		if ctx.Err() != nil {
			t.Errorf("%s: got error %v", when, err)
		}
		end(nil)
	}
}
