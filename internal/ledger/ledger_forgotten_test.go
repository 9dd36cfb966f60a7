package ledger_test

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

// TestRebalanceForgotten checks that rows of which a member has forgotten what it knew get new epochs, and no others: neither those of other
// members, nor those that have got a later epoch meanwhile, nor those that a transaction has locked. What was sent by the old epochs is rejected.
func TestRebalanceForgotten(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	m := g.join(g.params("one", "two"))
	_, held := g.balance(m)
	before := held.Rows
	find := func(rows []ledger.Row, p ledger.Partition) ledger.Row {
		return rows[slices.IndexFunc(rows, func(r ledger.Row) bool { return r.Partition == p })]
	}
	row := func(category string, n int) ledger.Row {
		return find(before, ledger.Partition{Category: category, Number: n})
	}
	locked, later, other := row("one", 1), row("one", 2), row("one", 3)
	g.exec(`UPDATE message_store_consumers.checkpoints SET epoch = epoch + 1 WHERE consumer = $1 AND category = 'one' AND partition = 2`)
	g.exec(`UPDATE message_store_consumers.checkpoints SET member = gen_random_uuid() WHERE consumer = $1 AND partition = 3`)
	tx, err := g.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	parked := ledger.Parked{Partition: locked.Partition, Key: "1", Stream: "one-1", GlobalPosition: 1, Attempts: 1}
	if err := ledger.Park(t.Context(), tx, m, locked.Epoch, parked, ""); err != nil {
		t.Fatal(err)
	}

	newest := row("one", 0)
	newest.Epoch += 2 // a failover has lost it
	b, held, err := ledger.Rebalance(t.Context(), g, m, locked, newest, later, other, row("two", 0))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(b.Renewed)
	equal(t, "renewed", b.Renewed, []int{1, 4})
	for _, r := range held.Rows {
		was := row(r.Category, r.Number).Epoch
		if r.Partition == later.Partition {
			was++
		}
		if isNew := r.Number == 0; r.Number != 3 && (isNew && r.Epoch <= newest.Epoch || !isNew && r.Epoch != was) {
			t.Errorf("%s %d: got the epoch %d after %d", r.Category, r.Number, r.Epoch, was)
		}
	}
	moves := func(r ledger.Row) error {
		var batch pgx.Batch
		ledger.QueueMove(&batch, m, move(r, r.Position))
		return g.SendBatch(t.Context(), &batch).Close()
	}
	if err := moves(row("one", 0)); !ledger.IsFenced(err) {
		t.Errorf("by the old epoch: got %v, want that it is rejected", err)
	}
	if err := moves(find(held.Rows, row("one", 0).Partition)); err != nil {
		t.Errorf("by the new epoch: %v", err)
	}

	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, held, err = ledger.Rebalance(t.Context(), g, m, locked)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "renewed after the transaction", b.Renewed, []int{0})
	equal(t, "parked", len(held.Parked), 1)
	if err := ledger.Park(t.Context(), g, m, locked.Epoch, parked, ""); !ledger.IsFenced(err) {
		t.Errorf("park by the old epoch: got %v, want that it is rejected", err)
	}
}
