//go:build unix && !aix && !solaris

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// things counts the rows of the table of setup.
func things(t *testing.T, database string) int {
	t.Helper()

	return query[int](t, database, "SELECT count(*) FROM things")
}

// TestPair checks that what is written after Hold is on the promoted standby only if it was
// released, and that the pair's URL and a relay lead to the one that accepts writes.
func TestPair(t *testing.T) {
	t.Parallel()

	p := NewPair(t, setup, Setting("cluster_name", "both"))
	relay := NewRelay(t, p.Primary)
	for _, s := range []*Server{p.Primary, p.Standby} {
		if got := query[string](t, s.TCP("postgres"), "SHOW cluster_name"); got != "both" {
			t.Errorf("cluster_name is %q, want the option's", got)
		}
		if s.Version() != p.Primary.Version() {
			t.Errorf("versions %d and %d", p.Primary.Version(), s.Version())
		}
	}
	if !query[bool](t, p.Standby.URL("postgres"), "SELECT pg_is_in_recovery()") {
		t.Fatal("the standby is a primary")
	}

	p.Hold(t)
	execute(t, p.Primary, "INSERT INTO things VALUES (2)")
	p.Release(t)
	p.CatchUp(t)
	if n := things(t, p.Standby.URL("postgres")); n != 2 {
		t.Fatalf("the released standby has %d rows, want 2", n)
	}

	through, err := pgx.Connect(t.Context(), relay.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer through.Close(context.Background())
	if _, err := through.Exec(t.Context(), "INSERT INTO things VALUES (3)"); err != nil {
		t.Fatal(err)
	}
	p.Hold(t)
	execute(t, p.Primary, "INSERT INTO things SELECT generate_series(4, 9999)")
	if n := things(t, p.URL()); n != 9999 {
		t.Errorf("the pair's URL leads to %d rows, want 9999 on the primary", n)
	}
	if n := things(t, p.Standby.URL("postgres")); n != 3 {
		t.Errorf("the standby that is held back has %d rows, want 3", n)
	}
	if err := p.Primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := pgx.Connect(t.Context(), p.Primary.TCP("postgres")); err == nil {
		t.Error("a killed server accepts connections")
	}
	if err := through.Ping(t.Context()); err == nil {
		t.Error("a connection outlived its server")
	}
	p.Promote(t)
	relay.Switch(p.Standby)
	for _, url := range []string{p.URL(), relay.URL("postgres"), p.Standby.URL("postgres")} {
		if n := things(t, url); n != 3 {
			t.Errorf("there are %d rows after the promotion, want 3", n)
		}
	}
	execute(t, p.Standby, "INSERT INTO things VALUES (4)") // waits for nobody

	// A new standby of the new primary.
	next := Follow(t, p.Standby)
	await(t, next, "SELECT count(*) = 4 FROM things")

	// The former primary has kept all.
	if err := p.Primary.Boot(); err != nil {
		t.Fatal(err)
	}
	if n := things(t, p.Primary.URL("postgres")); n != 9999 {
		t.Errorf("the former primary has %d rows, want 9999", n)
	}
}

// TestPairSynchronous checks that commits wait for a synchronous standby that is held
// back, until it is released or no longer synchronous.
func TestPairSynchronous(t *testing.T) {
	t.Parallel()
	NeedTime(t)

	p := NewPair(t, setup)
	for _, end := range []func(){func() { p.Release(t) }, func() { p.Synchronous(t, false) }} {
		p.Synchronous(t, true)
		execute(t, p.Primary, "INSERT INTO things VALUES (2)") // the standby confirms it
		p.Hold(t)
		conn := session(t, p.Primary)
		committed := make(chan error, 1)
		go func() {
			_, err := conn.Exec(context.Background(), "INSERT INTO things VALUES (3)")
			committed <- err
		}()
		await(t, p.Primary, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep')", conn.PgConn().PID())
		select {
		case err := <-committed:
			t.Fatalf("a commit ended with %v while the standby was held back", err)
		default:
		}
		end()
		if err := <-committed; err != nil {
			t.Error(err)
		}
	}
	if n := things(t, p.Primary.URL("postgres")); n != 5 {
		t.Errorf("the primary has %d rows, want 5", n)
	}

	// The promoted standby has nobody to wait for.
	p.Release(t)
	p.Synchronous(t, true)
	p.CatchUp(t)
	if err := p.Primary.Kill(); err != nil {
		t.Fatal(err)
	}
	p.Promote(t)
	execute(t, p.Standby, "INSERT INTO things VALUES (4)")
	if n := things(t, p.URL()); n != 6 {
		t.Errorf("the new primary has %d rows, want 6", n)
	}
}

// TestFreeze checks that a frozen server keeps its connections and answers nobody until it
// is thawed, and that it can be killed and stopped.
func TestFreeze(t *testing.T) {
	t.Parallel()
	NeedTime(t)

	s := Own(t)
	conn, err := pgx.Connect(t.Context(), s.TCP("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())

	for _, again := range []func() error{s.Thaw, func() error { return errors.Join(s.Kill(), s.Boot()) }} {
		if err := errors.Join(s.Freeze(), s.Freeze()); err != nil {
			t.Fatal(err)
		}
		answer := make(chan error, 1)
		go func() { answer <- conn.Ping(context.Background()) }()
		u := strings.Replace(s.TCP("postgres"), "?", "?connect_timeout=1&", 1)
		if _, err := pgx.Connect(t.Context(), u); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a frozen server answered a new connection with %v", err)
		}
		select {
		case err := <-answer:
			t.Errorf("a frozen server answered with %v", err)
		default:
		}
		if err := again(); err != nil {
			t.Fatal(err)
		}
		if err := <-answer; err != nil && !pgconn.SafeToRetry(err) && !conn.IsClosed() {
			t.Error(err)
		}
		if got := query[int](t, s.URL("postgres"), "SELECT 1"); got != 1 {
			t.Error(got)
		}
	}
	if err := s.Freeze(); err != nil {
		t.Fatal(err)
	} // and Own's cleanup stops it
}

// TestNoStandbyOfExternalServer checks that what needs a server of our own says so.
func TestNoStandbyOfExternalServer(t *testing.T) {
	t.Parallel()

	s := new(Server)
	_, standby := s.Standby(t.Context())
	for name, err := range map[string]error{
		"Standby": standby, "Promote": s.Promote(), "Kill": s.Kill(), "Boot": s.Boot(), "Freeze": s.Freeze(), "Thaw": s.Thaw(),
	} {
		if err == nil || !strings.Contains(fmt.Sprint(err), "use Start") {
			t.Errorf("%s: got %v, want an error that says what to use", name, err)
		}
	}
}
