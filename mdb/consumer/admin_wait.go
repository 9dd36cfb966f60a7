package consumer

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// ErrParked is returned by [Operator.WaitForStream] if the stream is parked: the message is handled when somebody has fixed the
// cause.
var ErrParked = errors.New("consumer: the stream is parked")

var waitRetry = backoff.Policy{Min: 5 * time.Millisecond, Max: 250 * time.Millisecond}

// WaitFor waits until the consumer has handled, skipped or parked all messages of a category up to a global position, such as that
// of [mdb.Written]. After it, a program finds a message that it has written in the read model that the consumer builds. Its error is
// [context.Cause] of ctx, if ctx ends before.
//
// Call it when the transaction that writes the message is committed. Before that, the message does not exist for WaitFor, which then
// returns too early. A handler of the consumer must not call it: the wait would not end. To see the effects in a transaction, begin
// that after WaitFor, or use the isolation level READ COMMITTED.
//
// It polls the checkpoints. Consumers of [Each] and [Batch] store these every second, and all consumers those of
// partitions without new messages. [Operator.WaitForStream] does not wait for these.
func (o *Operator) WaitFor(ctx context.Context, consumer string, category mdb.Category, position int64) error {
	c := options(consumer, nil)
	c.category("category", category)
	return o.wait(ctx, consumer, c, category, position, "")
}

// WaitForStream is like [Operator.WaitFor], but waits only for the partition of a stream. A consumer with transactions stores its
// checkpoint together with the effects of the handler. Its error is [ErrParked] if the stream is parked before the position or at it.
func (o *Operator) WaitForStream(ctx context.Context, consumer string, stream mdb.StreamName, position int64) error {
	c := options(consumer, nil)
	c.text("stream", string(stream), "the name of a stream", 0)
	return o.wait(ctx, consumer, c, stream.Category(), position, stream)
}

func (o *Operator) wait(ctx context.Context, consumer string, c *adminConfig, category mdb.Category, position int64, stream mdb.StreamName) error {
	if position < 0 {
		c.fault("position", strconv.FormatInt(position, 10), "0 or more")
	}
	if err := o.check(c); err != nil {
		return err
	}
	return waitUntil(ctx, func() (bool, error) {
		done, err := ledger.Reached(ctx, o.pool, consumer, string(category), position, string(stream), stream.CardinalID())
		switch {
		case err != nil && ctx.Err() == nil && mdb.IsTransient(err):
			return false, nil
		case err != nil:
			return false, adminError(ctx, "wait for "+consumer, consumer, err)
		case !done.Exists:
			return false, &NotFoundError{consumer}
		case done.Elsewhere:
			return false, &ConflictError{consumer, "its messages are in another database than its state, for which nobody can wait there"}
		case !done.Reads:
			return false, &ConflictError{consumer, "it has never read category " + strconv.Quote(string(category))}
		case done.Parked:
			return false, ErrParked
		}
		return done.Reached, nil
	})
}

// waitUntil calls reached until it returns true or an error, or ctx ends.
func waitUntil(ctx context.Context, reached func() (bool, error)) error {
	for attempt := 1; ; attempt++ {
		yes, err := reached()
		switch {
		case ctx.Err() != nil && !yes:
			return context.Cause(ctx)
		case yes || err != nil:
			return err
		}
		if waitRetry.Wait(ctx, attempt) != nil {
			return context.Cause(ctx)
		}
	}
}
