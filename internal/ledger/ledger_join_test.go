package ledger_test

import (
	"testing"

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
