package main

import (
	"context"
	"fmt"

	"github.com/messagedb-go/messagedb/mdb"
)

// prove reads everything once more, in both ways, and compares.
func (b *bank) prove(ctx context.Context) error {
	byCategory := make(map[mdb.StreamName]int64)
	positions := make(map[int64]mdb.StreamName)
	for m, err := range b.store.CategoryMessages(ctx, b.category) {
		if err != nil {
			return err
		}
		change, err := effect(m)
		if err != nil {
			return err
		}
		byCategory[m.Stream] += change
		positions[m.GlobalPosition] = m.Stream
	}

	var total int64
	for i := range b.accounts {
		l := ledger{version: mdb.NoStream}
		if err := b.catchUp(ctx, &l, i); err != nil {
			return err
		}
		if l.balance != byCategory[b.account(i)] {
			return fmt.Errorf("%s holds %d by its stream and %d by its category", b.account(i), l.balance, byCategory[b.account(i)])
		}
		total += l.balance
	}
	if want := int64(b.accounts * opening); total != want {
		return fmt.Errorf("the accounts hold %d together, want %d", total, want)
	}
	if want := b.accounts + 2*b.stats.count(); len(positions) != want {
		return fmt.Errorf("the category has %d messages, want %d", len(positions), want)
	}

	correlated := 0
	for _, err := range b.store.CategoryMessages(ctx, b.category, mdb.WithCorrelation("transfer")) {
		if err != nil {
			return err
		}
		correlated++
	}
	if want := 2 * b.stats.count(); correlated != want {
		return fmt.Errorf("%d messages are correlated with transfers, want %d", correlated, want)
	}

	seen := 0
	for i := range b.group {
		for _, position := range b.group[i].seen {
			stream, ok := positions[position]
			if !ok {
				return fmt.Errorf("member %d saw a message at %d, which no message has or another member saw as well", i, position)
			}
			hash := mdb.Hash64(stream.CardinalID())
			if owner := int(max(hash, -hash) % members); owner != i {
				return fmt.Errorf("member %d saw a message of %s, which belongs to member %d", i, stream, owner)
			}
			delete(positions, position)
			seen++
		}
	}
	if len(positions) > 0 {
		return fmt.Errorf("%d messages were seen by no member", len(positions))
	}
	fmt.Printf("proved: %d accounts hold %d together, as they did before %d transfers; each of %d messages was seen by exactly one of %d members\n",
		b.accounts, total, b.stats.count(), seen, members)
	return nil
}
