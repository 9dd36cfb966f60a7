package ledger_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

// expire ends the leases of the members.
func (g *group) expire(ms ...ledger.Member) {
	g.Helper()
	for _, m := range ms {
		g.exec(`UPDATE message_store_consumers.members SET seen = seen - lease - interval '1 second', woke = woke - lease - interval '1 second' WHERE consumer = $1 AND id = $2`, m.ID)
	}
}

// surplus releases what a member has beyond its quota.
func (g *group) surplus(m ledger.Member, b ledger.Balance, held ledger.Held) (released int) {
	g.Helper()
	ns := numbers(held.Rows)
	over := ns[:max(0, len(ns)-b.Quota)]
	if len(over) == 0 {
		return 0
	}
	var ms []ledger.Move
	for _, r := range held.Rows {
		if slices.Contains(over, r.Number) {
			ms = append(ms, move(r, r.Position+1))
		}
	}
	done, err := ledger.Release(g.Context(), g, m, ms)
	if err != nil || len(done) != len(ms) {
		g.Fatalf("released %v of %d, %v", done, len(ms), err)
	}
	return len(over)
}

// TestRebalance checks quotas and claims while members come and go.
func TestRebalance(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a := g.join(g.params("one", "two"))
	b, held := g.balance(a)
	equal(t, "balance alone", b, ledger.Balance{Members: 1, Quota: 4, Claimed: 4})
	equal(t, "rows", len(held.Rows), 8)

	c := g.join(g.params("one", "two"))
	b, _ = g.balance(c)
	equal(t, "balance while nothing is free", b, ledger.Balance{Members: 2, Quota: 2})
	b, held = g.balance(a)
	equal(t, "balance of who has too much", b, ledger.Balance{Members: 2, Quota: 2, Held: 4})
	g.surplus(a, b, held)
	b, held = g.balance(c)
	equal(t, "balance after a release", b, ledger.Balance{Members: 2, Quota: 2, Claimed: 2})
	equal(t, "positions", positions(held.Rows), []int64{1, 1, 1, 1})

	// Who has a partition more than others keeps it.
	d := g.join(g.params("one", "two"))
	b, _ = g.balance(d)
	equal(t, "balance of a third member", b, ledger.Balance{Members: 3, Quota: 1})
	b, _ = g.balance(a)
	equal(t, "balance of the first of equals", b, ledger.Balance{Members: 3, Quota: 2, Held: 2})
	b, _ = g.balance(c)
	equal(t, "balance of the second of equals", b, ledger.Balance{Members: 3, Quota: 1, Held: 2})

	stranger := a
	stranger.ID = uuid.New()
	_, _, err := ledger.Rebalance(t.Context(), g, stranger)
	if !ledger.IsGone(err) || ledger.IsFenced(err) {
		t.Errorf("got %v, want that the member is gone", err)
	}
	stranger.Consumer = -1
	_, _, err = ledger.Rebalance(t.Context(), g, stranger)
	wantCode(t, "no consumer", err, ledger.NoConsumer)
}

// TestEviction checks who is deleted, and by whom.
func TestEviction(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		sql  string // what happens, to the judge $2 and the other member $3
		gone bool
	}{
		{"a lease that has not ended", `UPDATE members SET seen = seen - interval '30 seconds' WHERE consumer = $1 AND id = $3 AND id <> $2`, false},
		{"a lease that has ended", `UPDATE members SET seen = seen - interval '61 seconds' WHERE consumer = $1 AND id = $3 AND id <> $2`, true},
		{"a silence that the judge has shared", `UPDATE members SET seen = seen - interval '61 seconds' * (id <> $2)::int, woke = CASE WHEN id = $2 THEN now() - interval '30 seconds' END WHERE consumer = $1 AND $3::uuid IS NOT NULL`, false},
		{"a judge whose silence is long ago", `UPDATE members SET seen = seen - interval '61 seconds' * (id <> $2)::int, woke = now() - interval '61 seconds' WHERE consumer = $1 AND $3::uuid IS NOT NULL`, true},
		{"a judge who is silent now", `UPDATE members SET seen = seen - interval '61 seconds' WHERE consumer = $1 AND $2 <> $3`, false},
		{"a judge who has not ticked since the clock was set back", `UPDATE members SET seen = CASE WHEN id = $2 THEN seen + interval '1 hour' ELSE seen - interval '61 seconds' END WHERE consumer = $1 AND $3::uuid IS NOT NULL`, false},
		{"a tick while the clock was set back for a moment", `UPDATE members SET seen = seen - interval '1 hour' * (id = $3)::int, woke = CASE WHEN id = $3 THEN now() - interval '2 seconds' END WHERE consumer = $1 AND $2::uuid IS NOT NULL`, false},
		{"a clock that was set back", `UPDATE members SET seen = seen + interval '1 hour' WHERE consumer = $1 AND id = $3 AND id <> $2`, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := newGroup(t)
			dead := g.join(g.params("one"))
			_, held := g.balance(dead)
			judge := g.join(g.params("one"))
			changes := g.beat(judge).Changes
			g.exec(strings.Replace(test.sql, "members", "message_store_consumers.members", 1), judge.ID, dead.ID)
			b, _ := g.balance(judge)
			want := ledger.Balance{Members: 2, Quota: 2}
			if test.gone {
				want = ledger.Balance{Members: 1, Quota: 4, Claimed: 4}
			}
			equal(t, "balance", b, want)
			if test.gone != (g.beat(judge).Changes > changes) {
				t.Error("others are to look if and only if a member was deleted")
			}
			tick := g.beat(dead, move(held.Rows[0], 9))
			equal(t, "alive", tick.Alive, !test.gone)
			equal(t, "moved", len(tick.Moved), map[bool]int{false: 1}[test.gone])
		})
	}

	// A member that is deleted, but whose partition nobody has claimed, moves what it may.
	g := newGroup(t)
	a := g.join(g.params("one"))
	_, held := g.balance(a)
	g.exec(`DELETE FROM message_store_consumers.members WHERE consumer = $1`)
	if err := ledger.Leave(t.Context(), g, a, moves(held.Rows, 5)); err != nil {
		t.Fatal(err)
	}
	b := g.join(g.params("one"))
	_, held = g.balance(b)
	equal(t, "positions", positions(held.Rows), []int64{5, 5, 5, 5})
}

// TestEvictionOfClockSetBack checks that a lease that began in the future ends one lease after
// somebody has seen that.
func TestEvictionOfClockSetBack(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	dead := g.join(g.params("one"))
	judge := g.join(g.params("one"))
	g.exec(`UPDATE message_store_consumers.members SET seen = seen + interval '1 hour' WHERE consumer = $1 AND id = $2`, dead.ID)
	if !g.beat(judge).Suspects {
		t.Error("no tick reports the member")
	}
	g.balance(judge)
	if g.beat(judge).Suspects {
		t.Error("the member is still suspect")
	}
	// Who woke in the future judges, too.
	g.exec(`UPDATE message_store_consumers.members SET woke = now() + interval '1 hour' WHERE consumer = $1 AND id = $2`, judge.ID)
	g.balance(judge)
	g.exec(`UPDATE message_store_consumers.members SET woke = woke - lease - interval '1 second' WHERE consumer = $1 AND id = $2`, judge.ID)
	g.expire(dead)
	b, _ := g.balance(judge)
	equal(t, "balance", b, ledger.Balance{Members: 1, Quota: 4, Held: 2, Claimed: 2})
}

// TestEvictionWhileClockSetBack checks that a member is not evicted that has ticked while the clock was set back, and
// nobody else has: its tick seems to be old when the clock is set right. It is evicted a lease later.
func TestEvictionWhileClockSetBack(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	member := g.join(g.params("one"))
	g.balance(member)
	judge := g.join(g.params("one"))
	g.exec(`UPDATE message_store_consumers.members SET seen = seen + interval '1 hour' WHERE consumer = $1 AND id = $2`, member.ID)
	g.beat(member)
	g.exec(`UPDATE message_store_consumers.members SET seen = seen - interval '1 hour', woke = woke - interval '1 hour' WHERE consumer = $1 AND id = $2`, member.ID)
	if !g.beat(judge).Suspects {
		t.Error("no tick reports the member")
	}
	b, _ := g.balance(judge)
	equal(t, "balance", b, ledger.Balance{Members: 2, Quota: 2, Held: 0})
	if g.beat(judge).Suspects {
		t.Error("the member is still suspect")
	}
	g.expire(member)
	b, _ = g.balance(judge)
	equal(t, "balance", b, ledger.Balance{Members: 1, Quota: 4, Held: 0, Claimed: 4})
}

// TestClaimLeavesLocked checks that a claim does not wait for a transaction that has a
// checkpoint, takes others instead, and comes back for it.
func TestClaimLeavesLocked(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a, other := g.join(g.params("one", "two")), g.join(g.params("one", "two"))
	changes := g.beat(a).Changes
	g.locked(func() {
		b, held := g.balance(a)
		equal(t, "balance", b, ledger.Balance{Members: 2, Quota: 2, Claimed: 2})
		equal(t, "partitions", numbers(held.Rows), []int{1, 2})
		b, _ = g.balance(other)
		equal(t, "balance", b, ledger.Balance{Members: 2, Quota: 2, Claimed: 1})
		changes = g.beat(a).Changes
		b, _ = g.balance(other)
		equal(t, "balance", b, ledger.Balance{Members: 2, Quota: 2, Held: 1})
		if g.beat(a).Changes == changes {
			t.Error("no member comes back for what is left")
		}
	}, lockRow, "two", 0)
	changes = g.beat(a).Changes
	_, held := g.balance(other)
	equal(t, "partitions", numbers(held.Rows), []int{0, 3})
	g.balance(a)
	changes = g.beat(a).Changes
	g.balance(a)
	g.balance(other)
	equal(t, "changes when nothing is left to do", g.beat(a).Changes, changes)
}

// TestNewCategory checks that a deployment that adds a category robs nobody, and moves the
// partitions to the members that read all categories.
func TestNewCategory(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	old, alike := g.join(g.params("one")), g.join(g.params("one"))
	g.balance(old)
	g.balance(alike)
	recent := g.join(g.params("one", "two"))
	b, held := g.balance(recent)
	equal(t, "balance of the new member", b, ledger.Balance{Members: 3, Quota: 4})
	equal(t, "rows", len(held.Rows), 0)
	for _, m := range []ledger.Member{old, alike} {
		b, held = g.balance(m)
		equal(t, "balance of an old member", b, ledger.Balance{Members: 3, Quota: 0, Held: 2})
		equal(t, "rows", len(held.Rows), 4)
		g.surplus(m, b, held)
	}
	b, held = g.balance(recent)
	equal(t, "balance of the new member", b, ledger.Balance{Members: 3, Quota: 4, Claimed: 4})
	equal(t, "rows", len(held.Rows), 8)

	// When nobody reads the category any more, it does not matter.
	if err := ledger.Leave(t.Context(), g, recent, nil); err != nil {
		t.Fatal(err)
	}
	b, _ = g.balance(old)
	equal(t, "balance of an old member", b, ledger.Balance{Members: 2, Quota: 2, Claimed: 2})
}

// TestPartlyOwned checks that a partition is not free while a member has one of its checkpoints.
func TestPartlyOwned(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	p := g.params("one", "two")
	p.Partitions = 1
	a := g.join(p)
	g.balance(a)
	g.exec(`UPDATE message_store_consumers.checkpoints SET member = NULL WHERE consumer = $1 AND category = 'two'`)
	p.Member = uuid.New()
	b, held := g.balance(g.join(p))
	equal(t, "balance", b, ledger.Balance{Members: 2, Quota: 0})
	equal(t, "rows", len(held.Rows), 0)
	g.exec(`UPDATE message_store_consumers.members SET categories = '{one}' WHERE consumer = $1 AND id = $2`, a.ID)
	b, held = g.balance(ledger.Member{Consumer: g.id, ID: p.Member})
	equal(t, "balance", b, ledger.Balance{Members: 2, Quota: 1})
	equal(t, "rows", len(held.Rows), 0)
}

// TestRenewal checks that a member claims its partitions again if the server has another timeline, and comes back
// for those that a transaction has.
func TestRenewal(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a := g.join(g.params("one", "two"))
	_, held := g.balance(a)
	g.exec(`UPDATE message_store_consumers.checkpoints SET timeline = 'another' WHERE consumer = $1`)
	equal(t, "moved", g.beat(a, moves(held.Rows, 4)...).Moved, nil)
	r := held.Rows[0]
	if err := g.send(func(b *pgx.Batch) { ledger.QueueMove(b, a, move(r, 4)) }); !ledger.IsFenced(err) {
		t.Errorf("a move: got %v, want that the fence refuses it", err)
	}
	if err := g.park(a, r, ledger.Parked{Key: "1", Stream: "one-1"}, ""); !ledger.IsFenced(err) {
		t.Errorf("parking: got %v, want that the fence refuses it", err)
	}
	released, err := ledger.Release(t.Context(), g, a, moves(held.Rows, 4))
	equal(t, fmt.Sprint("released ", err), len(released), 0)
	changes := g.beat(a).Changes
	var after ledger.Held
	g.locked(func() {
		var b ledger.Balance
		b, after = g.balance(a)
		equal(t, "balance", b, ledger.Balance{Members: 1, Quota: 4, Held: 4})
	}, lockRow, "two", 1)
	tick := g.beat(a, moves(after.Rows, 4)...)
	equal(t, "moved", tick.Moved, []int{0, 1, 4, 5, 6, 7})
	equal(t, "refused", tick.Refused, []int{2, 3})
	if tick.Changes == changes {
		t.Error("the member does not come back for what is left")
	}
	_, after = g.balance(a)
	equal(t, "refused", g.beat(a, moves(after.Rows, 5)...).Refused, nil)
	changes = g.beat(a).Changes
	_, again := g.balance(a)
	equal(t, "epoch", again.Rows[0].Epoch, after.Rows[0].Epoch)
	equal(t, "changes", g.beat(a).Changes, changes)
}

// TestLeaveAfterFailover checks that a member which leaves moves nothing if the server has another timeline than its claim.
func TestLeaveAfterFailover(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a := g.join(g.params("one"))
	_, held := g.balance(a)
	g.exec(`UPDATE message_store_consumers.checkpoints SET timeline = 'another' WHERE consumer = $1`)
	if err := ledger.Leave(t.Context(), g, a, moves(held.Rows, 4)); err != nil {
		t.Fatal(err)
	}
	b := g.join(g.params("one"))
	_, held = g.balance(b)
	equal(t, "positions", positions(held.Rows), []int64{0, 0, 0, 0})
}

// TestEpochs checks that an epoch is greater than all before, also if the server's clock was set back.
func TestEpochs(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a := g.join(g.params("one"))
	_, held := g.balance(a)
	if ahead := held.Rows[0].Epoch - time.Now().UnixMicro(); max(ahead, -ahead) > time.Hour.Microseconds() {
		t.Errorf("the epoch %d is not the time", held.Rows[0].Epoch)
	}
	g.exec(`UPDATE message_store_consumers.checkpoints SET epoch = 1::bigint << 62, member = NULL WHERE consumer = $1 AND partition = 0`)
	_, held = g.balance(a)
	equal(t, "epoch", held.Rows[0].Epoch, 1<<62+1)
}
