package ledger_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/names"
)

func (s *shop) resize(partitions int) ledger.Resized {
	s.Helper()
	r, err := ledger.Resize(s.Context(), s, s.name, partitions, time.Minute)
	if err != nil {
		s.Fatal(err)
	}
	return r
}

// rows returns all checkpoints as text: category, partition, position, owner.
func (s *shop) rows(owners map[string]ledger.Member) (rows []string) {
	s.Helper()
	for _, row := range query[[]string](s.group, `SELECT array_agg(concat_ws(' ', category, partition, position, coalesce(member::text, '-')) ORDER BY category, partition)
		FROM message_store_consumers.checkpoints WHERE consumer = $1`) {
		row = strings.NewReplacer(s.one, "one", s.two, "two").Replace(row)
		for name, m := range owners {
			row = strings.ReplaceAll(row, m.ID.String(), name)
		}
		rows = append(rows, row)
	}
	return rows
}

func (s *shop) parkKeys(m ledger.Member, rows []ledger.Row, keys int) {
	s.Helper()
	for key := range keys {
		p := ledger.Parked{Key: fmt.Sprint(key), Stream: fmt.Sprintf("%s-%d", s.one, key)}
		for _, r := range rows {
			if r.Category == s.one && int64(r.Number) == names.Member(p.Stream, int64(len(of(rows, s.one)))) {
				if err := s.park(m, r, p, ""); err != nil {
					s.Fatal(err)
				}
			}
		}
	}
}

// wantParked checks that each of the keys is parked in its partition.
func (s *shop) wantParked(partitions, keys int) {
	s.Helper()
	got := query[[]string](s.group, `SELECT array_agg(stream || ' ' || partition ORDER BY length(stream), stream) FROM message_store_consumers.parked WHERE consumer = $1`)
	var want []string
	for key := range keys {
		stream := fmt.Sprintf("%s-%d", s.one, key)
		want = append(want, fmt.Sprintf("%s %d", stream, names.Member(stream, int64(partitions))))
	}
	equal(s.TB, "parked", got, want)
}

// TestResizeToMultiple checks that a multiple changes immediately, that each new partition is where its parent is, with the
// same owner, and that a member with the old number gets nothing.
func TestResizeToMultiple(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	first := s.says(s.one + "-1")
	p := s.params(s.one, s.two)
	p.Partitions = 2
	a := s.join(p)
	_, held := s.balance(a)
	s.parkKeys(a, held.Rows, 12)
	p = s.params(s.one, s.two)
	p.Partitions = 2
	b := s.join(p)
	if released, err := ledger.Release(t.Context(), s, a, moves(held.Rows[2:], 0)); err != nil || len(released) != 2 {
		t.Fatal(released, err)
	}
	s.balance(b)
	before := s.read(a)
	s.beat(a, ledger.Move{Partition: before.Rows[0].Partition, Epoch: before.Rows[0].Epoch, To: first, Anchor: ledger.Anchor{ID: s.anchor(first)}})
	a.Partitions, b.Partitions = 2, 2
	changes := s.beat(a).Changes

	equal(t, "resize", s.resize(6), ledger.Resized{Done: true, Unread: []string{}})
	owners := map[string]ledger.Member{"a": a, "b": b}
	equal(t, "rows", s.rows(owners), []string{
		fmt.Sprintf("one 0 %d a", first), "one 1 0 b", fmt.Sprintf("one 2 %d a", first), "one 3 0 b", fmt.Sprintf("one 4 %d a", first), "one 5 0 b",
		"two 0 0 a", "two 1 0 b", "two 2 0 a", "two 3 0 b", "two 4 0 a", "two 5 0 b",
	})
	s.wantParked(6, 12)
	tick := s.beat(a)
	if tick.Partitions != 6 || tick.Name != s.name || tick.Changes == changes {
		t.Errorf("got %+v, want 6 partitions and a change", tick)
	}
	for _, r := range s.read(a).Rows {
		if r.Epoch <= before.Rows[0].Epoch || r.Category == s.one && r.ID != s.anchor(first) {
			t.Errorf("got %+v, want a new epoch, and the anchor of its parent", r)
		}
	}
	before.Rows[0].Position = first
	s.wantFenced(a, before.Rows)
	_, _, err := ledger.Rebalance(t.Context(), s, a)
	wantCode(t, "balance with the old number", err, ledger.Partitions)
	a.Partitions = 6
	balance, held := s.balance(a)
	equal(t, "balance", balance, ledger.Balance{Members: 2, Quota: 3, Held: 3})
	equal(t, "partitions", numbers(held.Rows), []int{0, 2, 4})

	_, err = ledger.Resize(t.Context(), s, "nobody", 2, time.Minute)
	wantCode(t, "no consumer", err, ledger.NoConsumer)
}

// TestResizeByBarrier checks that another number waits until all partitions of a category have handled the same messages and all
// members know the barrier, which rises with the foremost partition, and that everything is free then.
func TestResizeByBarrier(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	p := s.params(s.one, s.two)
	p.Partitions = 3
	a := s.join(p)
	_, held := s.balance(a)
	s.parkKeys(a, held.Rows, 12)
	p = s.params(s.one, s.two)
	p.Partitions = 3
	b := s.join(p)
	first, second, third, fourth := s.says(s.one+"-1"), s.says(s.one+"-2"), s.says(s.two+"-3"), s.says(s.one+"-4")
	at := map[ledger.Partition]int64{}
	to := func(category string, number int, position int64) {
		t.Helper()
		for _, r := range held.Rows {
			if r.Category == category && r.Number == number {
				mv := move(r, position)
				mv.From = at[r.Partition]
				if tick := s.beat(a, mv); len(tick.Moved) != 1 {
					t.Fatalf("got %+v, want that it has moved", tick)
				}
				at[r.Partition] = position
			}
		}
	}
	step := func(what string, barrier, waiting int64) {
		t.Helper()
		r := s.resize(2)
		if r.Done || r.Barrier == nil || *r.Barrier != barrier || r.Waiting != waiting || len(r.Unread) > 0 {
			t.Errorf("%s: got %+v, want the barrier %d, and that %d wait", what, r, barrier, waiting)
		}
		balance, _ := s.balance(a)
		for _, got := range []*int64{s.beat(a).Barrier, balance.Barrier} {
			if got == nil || *got != barrier {
				t.Errorf("%s: the member's barrier is %v, want %d", what, got, barrier)
			}
		}
	}
	to(s.one, 0, first)
	step("one partition is in front", first, 2)
	to(s.one, 1, second) // its handler had the message
	step("another one has passed the barrier", second, 2)
	to(s.one, 0, second)
	to(s.one, 2, second)
	to(s.two, 0, third)
	step("the barrier rises with the other category", third, 2)
	to(s.two, 1, third)
	to(s.two, 2, third)
	step("a member does not know the barrier", third, 0)
	s.beat(b)
	to(s.one, 1, third) // there is no message of its category up to there
	changes := s.beat(b).Changes

	equal(t, "resize", s.resize(2), ledger.Resized{Done: true, Unread: []string{}})
	equal(t, "rows", s.rows(nil), []string{
		fmt.Sprintf("one 0 %d -", second), fmt.Sprintf("one 1 %d -", second), fmt.Sprintf("two 0 %d -", third), fmt.Sprintf("two 1 %d -", third),
	})
	s.wantParked(2, 12)
	for i := range held.Rows {
		held.Rows[i].Position = at[held.Rows[i].Partition]
	}
	s.wantFenced(a, held.Rows)
	tick := s.beat(b)
	if tick.Partitions != 2 || tick.Barrier != nil || tick.Changes == changes {
		t.Errorf("got %+v, want 2 partitions, no barrier and a change", tick)
	}
	a.Partitions, b.Partitions = 2, 2
	_, _, err := ledger.Rebalance(t.Context(), s, b)
	wantCode(t, "balance by the old layout", err, ledger.Partitions)
	a.Layout, b.Layout = s.beat(a).Layout, tick.Layout
	balance, _ := s.balance(b)
	equal(t, "balance of the first one that has no handler", balance, ledger.Balance{Members: 2, Quota: 1})
	changes = s.beat(b).Changes
	balance, _ = s.balance(a)
	equal(t, "balance of the last one", balance, ledger.Balance{Members: 2, Quota: 1, Claimed: 1})
	if s.beat(b).Changes == changes {
		t.Error("the first one does not see that it can claim now")
	}
	balance, after := s.balance(b)
	equal(t, "balance of the first one again", balance, ledger.Balance{Members: 2, Quota: 1, Claimed: 1})
	for _, r := range after.Rows {
		if r.Epoch <= held.Rows[0].Epoch {
			t.Errorf("got %+v, want a new epoch", r)
		}
	}

	// To more partitions.
	for range 2 { // the second call knows that the barrier is committed
		if r := s.resize(5); r.Done {
			t.Errorf("got %+v, want that the members learn of the barrier first", r)
		}
		s.beat(a)
		s.beat(b)
	}
	_ = fourth
	equal(t, "resize", s.resize(5), ledger.Resized{Done: true, Unread: []string{}})
	equal(t, "rows", len(s.rows(nil)), 10)
	s.wantParked(5, 12)
}

// TestBarrierEnds checks that a barrier ends by itself, with a call for the same number, and is set again.
func TestBarrierEnds(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	a := s.join(s.params(s.one))
	s.balance(a)
	barrier := func(what string, want bool) {
		t.Helper()
		balance, _ := s.balance(a)
		for _, got := range []*int64{s.beat(a).Barrier, balance.Barrier} {
			if (got != nil) != want {
				t.Errorf("%s: got %v, want a barrier: %t", what, got, want)
			}
		}
	}
	s.resize(3)
	barrier("after a call", true)
	s.exec(`UPDATE message_store_consumers.consumers SET barrier_end = clock_timestamp() WHERE id = $1`)
	barrier("when nobody has renewed it", false)
	if r := s.resize(3); r.Done {
		t.Errorf("got %+v, want that the members learn of the new barrier first", r)
	}
	barrier("after another call", true)
	equal(t, "the same number", s.resize(4), ledger.Resized{Done: true, Unread: []string{}})
	barrier("after a call for the same number", false)
	s.resize(3)
	equal(t, "no number", s.resize(0), ledger.Resized{Done: true, Unread: []string{}})
	barrier("after a call for no number", false)
	equal(t, "partitions", s.beat(a).Partitions, 4)
}

// TestResizeUnread checks that categories are named that no member reads and that cannot reach the barrier.
func TestResizeUnread(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	a := s.join(s.params(s.one, s.two))
	_, held := s.balance(a)
	position := s.says(s.two + "-1")
	s.beat(a, move(of(held.Rows, s.two)[0], position))
	if r := s.resize(3); r.Done || len(r.Unread) > 0 {
		t.Errorf("got %+v, want that a member reads all", r)
	}
	if err := ledger.Leave(t.Context(), s, a, nil); err != nil {
		t.Fatal(err)
	}
	if r := s.resize(3); r.Done || len(r.Unread) > 0 || r.Waiting != 3 {
		t.Errorf("got %+v, want that it waits for members", r)
	}
	s.join(s.params(s.one))
	r := s.resize(3)
	equal(t, "unread", r.Unread, []string{s.two})
}

// TestFork checks that a fork has the same checkpoints and parked streams, which belong to nobody.
func TestFork(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	first := s.says(s.one + "-1")
	a := s.join(s.params(s.one))
	_, held := s.balance(a)
	s.beat(a, ledger.Move{Partition: held.Rows[0].Partition, Epoch: held.Rows[0].Epoch, To: first, Anchor: ledger.Anchor{ID: s.anchor(first)}})
	s.parkKeys(a, held.Rows, 5)
	before := s.rows(map[string]ledger.Member{"-": a})
	if err := ledger.Fork(t.Context(), s, s.name, s.name+" fork"); err != nil {
		t.Fatal(err)
	}
	err := ledger.Fork(t.Context(), s, s.name, s.name+" fork")
	wantCode(t, "fork again", err, "23505")
	wantCode(t, "no consumer", ledger.Fork(t.Context(), s, "nobody", "other"), ledger.NoConsumer)
	p := s.params(s.one)
	p.Name = s.name + " fork"
	b := s.join(p)
	if b.Consumer == a.Consumer {
		t.Fatal("the fork is not another consumer")
	}
	equal(t, "rows", s.rows(nil), before)
	s.wantParked(4, 5)
	_, after := s.balance(b)
	equal(t, "anchor", after.Rows[0].ID, s.anchor(first))
	equal(t, "parked", len(after.Parked), 5)
}

// TestRename checks that a consumer is renamed, with its members only if that is forced, who then see it.
func TestRename(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	a := s.join(s.params(s.one))
	_, held := s.balance(a)
	wantCode(t, "with a member", ledger.Rename(t.Context(), s, s.name, s.name+" new", ledger.Guard{Watched: true}), ledger.Conflict)
	if err := ledger.Rename(t.Context(), s, s.name, s.name+" new", ledger.Guard{Force: true}); err != nil {
		t.Fatal(err)
	}
	if tick := s.beat(a, moves(held.Rows, 0)...); tick.Name != s.name+" new" || len(tick.Moved) != 4 {
		t.Errorf("got %+v, want the new name, and that the member goes on", tick)
	}
	s.exec(`UPDATE message_store_consumers.members SET seen = seen - 2 * lease WHERE consumer = $1`)
	wantCode(t, "after its lease", ledger.Rename(t.Context(), s, s.name+" new", s.name, ledger.Guard{}), ledger.Silent)
	if err := ledger.Rename(t.Context(), s, s.name+" new", s.name, ledger.Guard{Watched: true}); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "no consumer", ledger.Rename(t.Context(), s, s.name+" new", "other", ledger.Guard{}), ledger.NoConsumer)
	other := newShop(t)
	other.join(other.params(other.one))
	wantCode(t, "a name that is taken", ledger.Rename(t.Context(), s, s.name, other.name, ledger.Guard{Force: true}), "23505")
}

// TestRemove checks that a consumer is deleted, with its members only if that is forced, who then see it.
func TestRemove(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	a := s.join(s.params(s.one))
	_, held := s.balance(a)
	s.parkKeys(a, held.Rows, 5)
	wantCode(t, "with a member", ledger.Remove(t.Context(), s, s.name, ledger.Guard{Watched: true}), ledger.Conflict)
	if tick := s.beat(a, moves(held.Rows, 0)...); len(tick.Moved) != 4 {
		t.Errorf("got %+v, want that nothing has changed", tick)
	}
	if err := ledger.Remove(t.Context(), s, s.name, ledger.Guard{Force: true}); err != nil {
		t.Fatal(err)
	}
	tick := s.beat(a)
	if tick.Alive || tick.Replaced || tick.Partitions != 0 || tick.Name != "" || tick.Timeline == "" {
		t.Errorf("got %+v, want that there is no consumer", tick)
	}
	for _, table := range []string{"members", "checkpoints", "parked"} {
		equal(t, table, query[int](s.group, `SELECT count(*) FROM message_store_consumers.`+table+` WHERE consumer = $1`), 0)
	}
	_, _, err := ledger.Rebalance(t.Context(), s, a)
	wantCode(t, "balance", err, ledger.NoConsumer)
	wantCode(t, "delete again", ledger.Remove(t.Context(), s, s.name, ledger.Guard{Force: true}), ledger.NoConsumer)

	b := s.join(s.params(s.one)) // who is dead does not count for a caller who has watched
	s.exec(`UPDATE message_store_consumers.members SET seen = seen - 2 * lease WHERE consumer = $1`)
	wantCode(t, "after its lease", ledger.Remove(t.Context(), s, s.name, ledger.Guard{}), ledger.Silent)
	if err := ledger.Remove(t.Context(), s, s.name, ledger.Guard{Watched: true}); err != nil {
		t.Fatal(err)
	}
	if tick := s.beat(b); tick.Alive {
		t.Errorf("got %+v, want that it is deleted", tick)
	}
}

// TestRemoveAfterLeaving checks that nobody has to be watched if all members have left.
func TestRemoveAfterLeaving(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	a := s.join(s.params(s.one))
	if err := ledger.Leave(t.Context(), s, a, nil); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		ledger.Rename(t.Context(), s, s.name, s.name+" new", ledger.Guard{}), ledger.Remove(t.Context(), s, s.name+" new", ledger.Guard{}),
	} {
		if err != nil {
			t.Error(err)
		}
	}
}
