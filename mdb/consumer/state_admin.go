package consumer

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// An OperatorOption configures an [Operator].
type OperatorOption func(*Operator)

// Messages says where the messages are of consumers with [StateIn].
//
// What an [Operator] does with such a consumer is limited. Seek moves it to [ToBeginning], [ToPosition] or [ToEnd], without [KeepParked], and streams
// that would remain parked have to be skipped first. Skip works without [AndWaiting], and Resize for multiples of the number of
// partitions. WaitFor and WaitForStream do not work. Otherwise the error is a [*ConflictError], and nothing is changed. Show and List do not count
// messages.
func Messages(store *mdb.Store) OperatorOption { return func(o *Operator) { o.store = store } }

// seek moves a consumer, wherever its messages are.
func (o *Operator) seek(ctx context.Context, tx pgx.Tx, consumer string, p ledger.SeekParams) (changed []ledger.Sought, err error) {
	elsewhere, categories, err := ledger.Elsewhere(ctx, tx, consumer)
	if err != nil {
		return nil, err
	}
	if !elsewhere {
		return ledger.Seek(ctx, tx, consumer, p)
	}
	upto := int64(math.MaxInt64)
	if p.Position != nil {
		upto = *p.Position
	}
	problem := ""
	switch {
	case p.Keep:
		problem = "its messages are in another database than its state, which KeepParked does not support"
	case !p.Time.IsZero():
		problem = "its messages are in another database than its state, which ToTime does not support"
	case upto > 0 && o.store == nil:
		problem = "its messages are in another database than its state: pass their store to Admin, with Messages"
	}
	if problem != "" {
		return nil, &ConflictError{consumer, problem}
	}
	if p.Categories != nil {
		categories = p.Categories
	}
	for _, category := range slices.SortedFunc(slices.Values(categories), cmp.Compare[string]) {
		start := ledger.Start{Category: category}
		if upto > 0 {
			if start, err = startOf(ctx, o.store, category, upto, p.Position != nil); err != nil {
				return nil, &ConflictError{consumer, err.Error()}
			}
		}
		s, err := ledger.SeekTo(ctx, tx, consumer, start)
		if err != nil {
			return nil, err
		}
		changed = append(changed, s)
	}
	return changed, nil
}

// pending returns how far a consumer is in a category.
func pending(ctx context.Context, tx pgx.Tx, c *ledger.Consumer, category string) ([]ledger.Progress, error) {
	if c.Elsewhere {
		return ledger.ProgressElsewhere(ctx, tx, c.ID, category)
	}
	return ledger.Pending(ctx, tx, c.ID, category, c.Partitions, maxPending)
}

// parkedKeys returns the keys of which streams are parked.
func parkedKeys(ctx context.Context, tx pgx.Tx, c *ledger.Consumer) ([]ledger.ParkedKey, error) {
	if c.Elsewhere {
		return ledger.KeysElsewhere(ctx, tx, c.ID, maxParkedKeys)
	}
	return ledger.ParkedKeys(ctx, tx, c.ID, maxParkedKeys, maxParkedMessages)
}
