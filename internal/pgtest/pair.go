package pgtest

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/backoff"
)

// A Pair is a primary and its hot standby, for tests of failovers:
//
//	p := testdb.Pair(t)              // or pgtest.NewPair(t, setup)
//	pool := newPool(t, p.URL())      // leads to the one that accepts writes
//	…                                // write what both have
//	p.Hold(t)                        // the standby has all until now, and gets nothing more
//	…                                // write what will be lost
//	p.Primary.Kill()                 // or Freeze, or nothing: a split brain
//	p.Promote(t)                     // the standby, without what it has not received
//
// Replication is asynchronous unless Synchronous says otherwise: what is committed reaches
// the standby immediately, but no commit waits for it. See CatchUp. The test's database is
// "postgres" on both.
//
// A sequence is logged 32 values ahead. After the promotion, it continues after the value
// in the last log record that the standby has received. So the global positions of new
// messages are up to 32 higher than that of the last message that is there. If few messages are
// lost, none of their positions may be used again. If many are lost, most are.
type Pair struct {
	Primary *Server
	Standby *Server // Promote leaves it here
}

// NewPair starts two servers for this test alone, and stops them at the end of the test.
// If setup is not nil, it runs in the primary's database before the standby starts. Both
// servers have the options. It skips the test like [NeedPrograms].
func NewPair(t testing.TB, setup func(ctx context.Context, conn *pgx.Conn) error, opts ...Option) *Pair {
	t.Helper()

	// A standby that was held back gets the WAL from here.
	p := &Pair{Primary: Own(t, append([]Option{Setting("wal_keep_size", "512MB")}, opts...)...)}
	if setup != nil {
		conn := session(t, p.Primary)
		if err := setup(t.Context(), conn); err != nil {
			t.Fatalf("pgtest: the setup of the pair failed: %v", err)
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	p.Standby = Follow(t, p.Primary)
	p.streams(t)

	return p
}

// URL returns a URL with the addresses of both servers, as in a service's configuration.
// Connections are to the one that accepts writes.
func (p *Pair) URL() string {
	first, second := *p.Primary.tcp, p.Standby.tcp
	first.Host += "," + second.Host
	query := first.Query()
	query.Set("target_session_attrs", "read-write")
	query.Set("connect_timeout", "2")
	first.RawQuery = query.Encode()

	return withDatabase(&first, "postgres")
}

// CatchUp waits until the standby has replayed all that is committed on the primary now.
func (p *Pair) CatchUp(t testing.TB) {
	t.Helper()

	var end string
	conn := session(t, p.Primary)
	if err := conn.QueryRow(t.Context(), "SELECT pg_current_wal_flush_lsn()::text").Scan(&end); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, p.Standby, "SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn", end)
}

// Hold waits until the standby has all that is committed, and then cuts the replication:
// the standby receives nothing of later commits, until Release.
func (p *Pair) Hold(t testing.TB) {
	t.Helper()

	p.CatchUp(t)
	execute(t, p.Standby, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
	await(t, p.Standby, "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)")
}

// Release ends what Hold began, and returns when the standby receives again.
func (p *Pair) Release(t testing.TB) {
	t.Helper()

	execute(t, p.Standby, "ALTER SYSTEM RESET primary_conninfo", "SELECT pg_reload_conf()")
	p.streams(t)
}

func (p *Pair) streams(t testing.TB) {
	t.Helper()

	await(t, p.Standby, "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')")
}

// Synchronous switches synchronous replication on or off. While it is on, commits on the
// primary wait until the standby has them; if it is held back, until Release. A promoted
// standby replicates to no server, so that its commits do not wait.
func (p *Pair) Synchronous(t testing.TB, on bool) {
	t.Helper()

	names, state := "", "async"
	if on {
		names, state = "*", "sync"
	}
	execute(t, p.Primary, "ALTER SYSTEM SET synchronous_standby_names = '"+names+"'", "SELECT pg_reload_conf()")
	await(t, p.Primary, "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = $1) OR NOT EXISTS (SELECT FROM pg_stat_replication)", state)
	// Commits wait from when the checkpointer has read the setting, which it does before
	// it serves a request.
	execute(t, p.Primary, "CHECKPOINT")
}

// Promote promotes the standby, and returns when it accepts writes. If the primary runs, it
// remains a primary: kill or freeze it before, or have two.
func (p *Pair) Promote(t testing.TB) {
	t.Helper()

	if err := p.Standby.Promote(); err != nil {
		t.Fatal(err)
	}
	await(t, p.Standby, "SELECT NOT pg_is_in_recovery()")
}

func session(t testing.TB, s *Server) *pgx.Conn {
	t.Helper()

	conn, err := pgx.Connect(t.Context(), s.admin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })

	return conn
}

func execute(t testing.TB, s *Server, statements ...string) {
	t.Helper()

	conn := session(t, s)
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// await repeats a query until it is true, because servers do not signal what it waits for.
func await(t testing.TB, s *Server, sql string, args ...any) {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn := session(t, s)
	for done := false; !done; {
		if err := conn.QueryRow(ctx, sql, args...).Scan(&done); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		if !done {
			_ = backoff.Sleep(ctx, 2*time.Millisecond)
		}
	}
	if err := conn.Close(ctx); err != nil {
		t.Fatal(err)
	}
}
