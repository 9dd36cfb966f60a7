package consumer

import (
	"context"
	"fmt"
	"time"

	"github.com/messagedb-go/messagedb/internal/beside"
	"github.com/messagedb-go/messagedb/mdb"
)

// handlingHooks are the hooks of a store that are called with handlers. The functions are nil if there are none.
type handlingHooks struct {
	start func(context.Context, mdb.Handling) (context.Context, time.Time)
	end   func(context.Context, mdb.Handling, time.Time, error)
}

func handlingOf(s *mdb.Store) (h handlingHooks) {
	of := beside.Handling.(func(*mdb.Store) ( //nolint:forcetypeassert // what mdb sets
		func(context.Context, mdb.Handling) (context.Context, time.Time),
		func(context.Context, mdb.Handling, time.Time, error),
	))
	h.start, h.end = of(s)
	return h
}

// observe adds the hooks of the store to the callbacks.
func (o observed) observe(s *mdb.Store, consumer string) observed {
	add := beside.Observe.(func(*mdb.Store, string, *func(bool), *func(mdb.Retry), *func([]int))) //nolint:forcetypeassert // what mdb sets
	add(s, consumer, &o.live, &o.retry, &o.partitions)
	return o
}

func failedOf(s *mdb.Store) func(mdb.FailedHandling) {
	return beside.Failed.(func(*mdb.Store) func(mdb.FailedHandling))(s) //nolint:forcetypeassert // what mdb sets
}

// handle calls a handler with the message of a delivery, or with a batch of which that is the first, and
// returns a panic as an error.
func (c *formConfig) handle(ctx context.Context, d *delivery, batch []mdb.Message, f func(ctx context.Context) error) error {
	if c.hooks.start == nil {
		return protect(func() error { return f(ctx) })
	}
	of := mdb.Handling{
		Subscriber: mdb.Subscriber{Consumer: c.consumer}, Partition: d.partition.Number, Attempt: d.attempt,
		Replayed: d.replayed != nil, Message: d.message, Batch: batch,
	}
	ctx, begun, err := c.hooks.begin(ctx, of)
	if err != nil {
		return err
	}
	returned := false
	defer func() {
		if !returned {
			c.hooks.end(ctx, of, begun, errHandlerExits)
		}
	}()
	err = protect(func() error { return f(ctx) })
	returned = true
	if failed := guard(func() error { c.hooks.end(ctx, of, begun, err); return nil }); failed != nil {
		return hookFailed(failed)
	}
	return err
}

// begin calls the hooks before a handler.
func (h handlingHooks) begin(ctx context.Context, of mdb.Handling) (next context.Context, begun time.Time, err error) {
	err = guard(func() error {
		next, begun = h.start(ctx, of) //nolint:fatcontext // it is the context of one call
		return nil
	})
	if err != nil {
		return ctx, begun, hookFailed(err)
	}
	return next, begun, nil
}

// hookFailed returns the error of a hook that panics. That is not the message's failure, so it stops the consumer.
func hookFailed(err error) error {
	return Stop(fmt.Errorf("a hook of the store failed: %w", err))
}

// failed calls hooks with what happens to a message.
func (r *running) failed(f Failure, a Action) {
	if r.onFailed == nil {
		return
	}
	r.onFailed(mdb.FailedHandling{
		Subscriber: mdb.Subscriber{Consumer: r.config.name}, Partition: f.Partition,
		Message: f.Message, Attempt: f.Attempt, Replayed: f.Replayed, Err: f.Err, Action: r.actionOf(a),
	})
}

func (r *running) actionOf(a Action) string {
	switch a.what {
	case toPark:
		if r.stream == nil { // otherwise nothing is parked
			return mdb.ActionPark
		}
	case toSkip:
		return mdb.ActionSkip
	case toStop:
		return mdb.ActionStop
	case byDefault, toRetry, toWait:
	}
	return mdb.ActionRetry
}
