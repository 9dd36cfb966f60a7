package ledger_test

import (
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

// TestJoinAgain checks that a process that joins again gets the consumer that it had, whatever its name is now, also if
// another one has the old name, and that it creates none if that was deleted.
func TestJoinAgain(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a := g.join(g.params("one"))
	again := func() (ledger.Joined, error) {
		p := g.params("one")
		p.Former = a.Consumer
		return ledger.Join(t.Context(), g, p)
	}
	if err := ledger.Rename(t.Context(), g, g.name, g.name+" new", ledger.Guard{Force: true}); err != nil {
		t.Fatal(err)
	}
	if joined, err := again(); err != nil || joined.Consumer != a.Consumer || joined.Timeline == "" || joined.Timeline != g.beat(a).Timeline {
		t.Errorf("got %+v, %v, want the consumer %d and the timeline of its ticks", joined, err, a.Consumer)
	}
	wantNone := func() {
		t.Helper()
		_, err := ledger.Lock(t.Context(), g, g.name)
		wantCode(t, "a consumer of the old name", err, ledger.NoConsumer)
	}
	wantNone()
	if err := ledger.Remove(t.Context(), g, g.name+" new", ledger.Guard{Force: true}); err != nil {
		t.Fatal(err)
	}
	_, err := again()
	wantCode(t, "a consumer that was deleted", err, ledger.NoConsumer)
	wantNone()
	other := g.join(g.params("one")) // of the old name
	_, err = again()
	wantCode(t, "a consumer that was deleted, and whose name another one has", err, ledger.NoConsumer)
	if other.Consumer == a.Consumer {
		t.Error("a new consumer has the ID of the old one")
	}
}

// TestJoinAgainAfterTwin checks that a process that joins again does not replace a member that has joined with its instance after it, and that
// it replaces its own member of a call without an answer.
func TestJoinAgainAfterTwin(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	params := func() ledger.JoinParams {
		p := g.params("one")
		p.Instance = "pod-0"
		return p
	}
	older := params()
	a := g.join(older)
	newer := g.join(params())
	older.Former = a.Consumer
	_, err := ledger.Join(t.Context(), g, older)
	wantCode(t, "the older process", err, ledger.Gone)
	if !g.beat(newer).Alive {
		t.Error("the newer process is replaced")
	}
	again := params()
	again.Member, again.Former = newer.ID, newer.Consumer
	if _, err := ledger.Join(t.Context(), g, again); err != nil || !g.beat(newer).Alive {
		t.Errorf("the newer process cannot repeat a call: %v", err)
	}
}

// TestJoinAgainElsewhere checks that a process that joins again in another history, where its consumer may have another ID, does not replace a member
// that has joined with its instance after it, also if it waits for that one to commit, and that it replaces one that has joined before it.
func TestJoinAgainElsewhere(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	join := func(q ledger.Querier, since time.Time) (ledger.Member, time.Time, error) {
		p := g.params("one")
		p.Instance, p.Since = "pod-0", since
		joined, err := ledger.Join(t.Context(), q, p)
		return ledger.Member{Consumer: joined.Consumer, ID: p.Member, Instance: p.Instance}, joined.At, err
	}
	older, at, err := join(g, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	again, since, err := join(g, at)
	if err != nil || !since.After(at) || g.beat(older).Alive || !g.beat(again).Alive {
		t.Errorf("got %v, and %v after %v, want that the process replaces its own member", err, since, at)
	}
	tx, err := g.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	newer, later, err := join(tx, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	rejected := make(chan error, 1)
	go func() {
		_, _, err := join(g, since)
		rejected <- err
	}()
	for waits := false; !waits; {
		sql := "SELECT EXISTS (SELECT FROM pg_stat_activity AS a WHERE $1::integer = ANY (pg_catalog.pg_blocking_pids(a.pid)))"
		if err := g.QueryRow(t.Context(), sql, tx.Conn().PgConn().PID()).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "the older process, which has waited", <-rejected, ledger.Gone)
	_, _, err = join(g, since)
	wantCode(t, "the older process", err, ledger.Gone)
	if !g.beat(newer).Alive {
		t.Error("the newer process is replaced")
	}
	other := g.params("one")
	other.Instance, other.Since = "pod-1", since
	if _, err := ledger.Join(t.Context(), g, other); err != nil {
		t.Errorf("a process of another instance: %v", err)
	}
	last, _, err := join(g, later)
	if err != nil || !g.beat(last).Alive || g.beat(newer).Alive {
		t.Errorf("got %v, want that a process that has joined after it replaces it", err)
	}
}
