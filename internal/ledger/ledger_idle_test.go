package ledger_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// A counter counts what a pool sends.
type counter struct{ statements, writes atomic.Int64 }

func (c *counter) attach(cfg *pgxpool.Config) {
	cfg.ConnConfig.Tracer = c
	cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false } // it would be counted
	cfg.ConnConfig.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
		return counted{conn, c}, nil
	}
}

func (c *counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.statements.Add(1)
	return ctx
}

func (c *counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (c *counter) TraceBatchStart(ctx context.Context, _ *pgx.Conn, b pgx.TraceBatchStartData) context.Context {
	c.statements.Add(int64(b.Batch.Len()))
	return ctx
}

func (c *counter) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (c *counter) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

type counted struct {
	net.Conn

	counter *counter
}

func (c counted) Write(b []byte) (int, error) {
	c.counter.writes.Add(1)
	return c.Conn.Write(b)
}

// TestIdle checks that a tick of a member that has nothing to do is one statement in one round trip, after which the
// server waits for no disk. How often it ticks is checked without a server.
func TestIdle(t *testing.T) {
	t.Parallel()
	const ticks = 40
	url := ownServer(t, pgtest.Setting("fsync", "on"), pgtest.Setting("synchronous_commit", "on"), pgtest.Setting("autovacuum", "off"),
		pgtest.Setting("wal_writer_delay", "10s"))
	var sent counter
	g := groupOn(t, url, func(cfg *pgxpool.Config) {
		cfg.MaxConns = 1
		sent.attach(cfg)
	})
	a := g.join(g.params("one"))
	g.balance(a)
	g.beat(a) // prepares the statement
	sent.statements.Store(0)
	sent.writes.Store(0)
	for range ticks {
		g.beat(a)
	}
	equal(t, "statements", sent.statements.Load(), ticks)
	equal(t, "round trips", sent.writes.Load(), ticks)

	// Each session adds its numbers to those of the server when it ends. Those that wait for the disk, as
	// those here, show that they are complete.
	conn := testdb.Session(t, url)
	before := walSyncs(t, conn)
	pid := query[int32](g, `SELECT pg_backend_pid() WHERE $1 > 0`)
	g.Close()
	for gone := false; !gone; {
		if err := conn.QueryRow(t.Context(), `SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)`, pid).Scan(&gone); err != nil {
			t.Fatal(err)
		}
	}
	ofTicks := walSyncs(t, conn) - before
	waits := groupOn(t, url, func(cfg *pgxpool.Config) { cfg.MaxConns = 1 })
	waits.id = a.Consumer
	for range ticks {
		waits.exec(`SELECT message_store_consumers.ring($1)`)
	}
	waits.Close()
	total := int64(0)
	for total < ticks {
		total = walSyncs(t, conn) - before
	}
	if ofTicks > ticks/2 || total > ticks+ticks/2 {
		t.Errorf("%d ticks have synchronized the log %d times, and together with as many other statements %d times", ticks, ofTicks, total)
	}
}

// walSyncs returns how often the server has synchronized its write-ahead log, as far as it knows.
func walSyncs(t *testing.T, conn *pgx.Conn) (n int64) {
	t.Helper()
	var version int
	if err := conn.QueryRow(t.Context(), `SELECT current_setting('server_version_num')::integer / 10000`).Scan(&version); err != nil {
		t.Fatal(err)
	}
	sql := `SELECT wal_sync FROM pg_stat_wal`
	if version >= 18 {
		sql = `SELECT coalesce(sum(fsyncs), 0)::bigint FROM pg_stat_io WHERE object = 'wal'`
	}
	if err := conn.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
