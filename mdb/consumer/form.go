package consumer

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// A Handler is a function that handles messages, and the form in which it does. Make one with
// [Each], [Batch], [EachTx], [BatchTx] or [EachQueued].
type Handler struct {
	name  string // of the function that made it
	valid bool   // whether it was given a function
	form  func(formConfig) form

	batches       bool // whether the size of batches matters
	transactional bool
	adaptive      bool // whether the time of a transaction is limited
}

// A formConfig is what a form knows of its consumer.
type formConfig struct {
	store    *mdb.Store
	consumer string
	// member returns the member that this process is now.
	member func() ledger.Member
	// callbackFailed is called for an error or panic of a callback of EachQueued. It may be nil.
	callbackFailed func(m mdb.Message, err error)

	batchSize int // most messages of a call of Batch and BatchTx
	perTx     perTx
	isolation pgx.TxIsoLevel
	idle      time.Duration // after which the server ends a transaction without a statement; 0: never
	hooks     handlingHooks
}

// A perTx limits a transaction of EachTx, and a flush of EachQueued.
type perTx struct {
	messages int           // 0: the default of the form
	handling time.Duration // of EachTx
}

const (
	defaultBatchSize = 100
	defaultPerTx     = 100  // of EachTx, which calls handlers again if one fails
	defaultPerFlush  = 1000 // of EachQueued
	defaultHandling  = 50 * time.Millisecond
	defaultIdle      = time.Minute
)

// defaultForms returns the configuration of a consumer without options about forms.
func defaultForms() formConfig {
	return formConfig{
		batchSize: defaultBatchSize,
		perTx:     perTx{handling: defaultHandling},
		isolation: pgx.ReadCommitted,
		idle:      defaultIdle,
	}
}

// Each returns a Handler that calls f with each message, at least once.
//
// Messages with the same cardinal ID are handled in their order, one after the other; others
// in parallel if there are several workers. The consumer stores its progress about once a
// second and when it stops, so a call costs no statement. After a crash, after another process has
// taken over the partition, or after the connection that stores progress was lost, f is called
// again for the messages since then. Make what f does idempotent, for example with [Delivery.ID].
//
// No connection is used while f is running.
func Each(f mdb.Handler) Handler {
	return Handler{name: "Each", valid: f != nil, form: func(c formConfig) form {
		return form{
			lane: func(d *delivery) string { return d.key },
			most: 1,
			call: func(ctx context.Context, call call) (int, error) {
				d := &call.deliveries[0]
				if err := c.handle(c.context(ctx, d), d, nil, func(ctx context.Context) error { return f(ctx, d.message) }); err != nil {
					return 0, err
				}
				return 1, nil
			},
		}
	}}
}

// Batch returns a Handler that calls f with messages of one partition, in their order, at
// least once. It is for systems that take many changes in one request, such as a search
// engine.
//
// A batch contains the messages of a partition that are waiting, up to [WithBatchSize]. A single
// message does not wait for others, and messages of two partitions are never in one call: if
// batches are too small, make the consumer with fewer partitions, see [WithPartitions]. Progress is stored as with [Each], and after a crash whole batches are
// repeated.
//
// If f fails because of one message, let it return a [*BatchError]: then only that message is
// retried and parked. After another error the batch is divided until one message fails alone,
// so f is called again with messages that it may have handled.
//
// The slice is valid during the call only.
func Batch(f func(ctx context.Context, ms []mdb.Message) error) Handler {
	return Handler{name: "Batch", valid: f != nil, batches: true, form: func(c formConfig) form {
		return form{
			most: c.batchSize,
			call: func(ctx context.Context, call call) (int, error) {
				ds := call.deliveries
				ms := messages(ds)
				if err := c.handle(c.batchContext(ctx, ds), &ds[0], ms, func(ctx context.Context) error { return f(ctx, ms) }); err != nil {
					return 0, ofBatch(err, len(ds))
				}
				return len(ds), nil
			},
		}
	}}
}

func messages(ds []delivery) []mdb.Message {
	ms := make([]mdb.Message, len(ds))
	for i := range ds {
		ms[i] = ds[i].message
	}
	return ms
}

// protect calls f, and returns a panic as an error.
func protect(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &mdb.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return f()
}
