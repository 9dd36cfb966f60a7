package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// EachTx returns a Handler that calls f with each message in a transaction of the store's
// database. The transaction also moves the checkpoint, so what f writes with tx happens
// exactly once, even if processes crash, connections break, or f is called again.
//
// The messages of a partition are handled in their order, one after the other; partitions in
// parallel if there are several workers. A message that arrives alone is committed
// immediately. If messages wait, a transaction takes up to 100 of them, or what f handles in
// 50 milliseconds; [PerTx] changes that. If f fails for one of several, the transaction is
// rolled back, f is called again for the messages before it, and they are committed; only the
// failed message is retried and parked. So what f keeps in memory may be ahead of what is
// committed. With PerTx(1, 0) it never is, except after a failure to commit.
//
// With k statements for each of n messages, a transaction takes n·k + 2 round trips: BEGIN, and
// the checkpoint together with COMMIT.
//
// tx is rolled back or committed by the consumer: its Commit and Rollback return an error. Its
// Begin creates a savepoint, which works as usual. [mdb.Store.WithTx] writes messages in it; if f
// writes to several categories, call [mdb.Tx.LockCategories] first. Its Conn returns the
// connection: do not begin or end a transaction on it. tx must not be used after f has returned.
// Do not delete the message with tx, because the checkpoint moves past messages of the store only.
//
// The isolation level is read committed, see [WithIsolation]. The server ends the transaction if
// it waits for a statement for a minute, so that a process that was stopped holds no locks, see
// [WithIdleTimeout]. Keep calls of other services out of f.
func EachTx(f func(ctx context.Context, tx pgx.Tx, m mdb.Message) error) Handler {
	return transactional(Handler{name: "EachTx", valid: f != nil, adaptive: true},
		func(c *formConfig) int { return cmp.Or(c.perTx.messages, defaultPerTx) },
		func(ctx context.Context, c *formConfig, tx *openTx, call *call) (done int, begun time.Time, err error) {
			given := tx.given(c.store)
			first := time.Now()
			ds := call.deliveries
			for i := range ds {
				now := time.Now()
				if i > 0 && now.Sub(first) >= c.perTx.handling {
					return i, begun, nil
				}
				if !call.mayBegin(i) {
					if i == 0 {
						return 0, begun, errNotBegun
					}
					return i, begun, nil
				}
				begun = now
				if ctx.Err() != nil {
					return 0, begun, Transient(context.Cause(ctx))
				}
				err = tx.check(c.handle(c.context(ctx, &ds[i]), &ds[i], nil, func(ctx context.Context) error { return f(ctx, given, ds[i].message) }))
				if err != nil {
					return 0, begun, &BatchError{i, err}
				}
			}
			return len(ds), begun, nil
		})
}

// BatchTx returns a Handler that calls f with messages of one partition, in their order, in a
// transaction that also moves the checkpoint: what f writes with tx happens exactly once.
//
// A batch contains the messages of a partition that are waiting, up to [WithBatchSize], as in
// [Batch]. A single message does not wait for others. With k statements, a batch takes k + 2 round trips. The rules for tx are
// those of [EachTx], and those for errors are those of [Batch].
//
// The slice is valid during the call only.
func BatchTx(f func(ctx context.Context, tx pgx.Tx, ms []mdb.Message) error) Handler {
	return transactional(Handler{name: "BatchTx", valid: f != nil, batches: true},
		func(c *formConfig) int { return c.batchSize },
		func(ctx context.Context, c *formConfig, tx *openTx, call *call) (done int, begun time.Time, err error) {
			given := tx.given(c.store)
			begun = time.Now()
			ds := call.deliveries
			if !call.mayBegin(len(ds) - 1) {
				return 0, begun, errNotBegun
			}
			ms := messages(ds)
			err = tx.check(c.handle(c.batchContext(ctx, ds), &ds[0], ms, func(ctx context.Context) error { return f(ctx, given, ms) }))
			if err != nil {
				return 0, begun, ofBatch(err, len(ds))
			}
			return len(ds), begun, nil
		})
}

// transactional completes the Handler of a form whose function handle calls handlers in a
// transaction, for deliveries from the front. It returns their number, and when it called the
// last handler.
func transactional(h Handler, most func(*formConfig) int, handle func(context.Context, *formConfig, *openTx, *call) (int, time.Time, error)) Handler {
	h.transactional = true
	h.form = func(c formConfig) form {
		f := &movingForm{config: c}
		f.attempt = func(ctx context.Context, call call) (done int, err error) {
			tx, err := beginTx(ctx, c.store.Pool(), c.isolation, c.idle)
			if err != nil {
				return 0, Transient(err)
			}
			defer tx.close(ctx)
			done, begun, err := handle(ctx, &c, tx, &call)
			if err != nil {
				return 0, err
			}
			call.deliveries = call.deliveries[:done]
			if err := tx.commit(ctx, call, begun); err != nil {
				if h.adaptive && errors.As(err, new(*idleError)) {
					err = &BatchError{done - 1, err}
				}
				return 0, err
			}
			return done, nil
		}
		return form{most: most(&c), call: f.call, moves: true}
	}
	return h
}

// A movingForm moves the checkpoint in the transactions in which it handles messages.
type movingForm struct {
	config formConfig
	// attempt handles deliveries from the front in one transaction. It returns how many it has
	// committed, or an error, after which nothing is committed, unless the connection was lost.
	attempt func(ctx context.Context, c call) (done int, err error)
}

func (f *movingForm) call(ctx context.Context, c call) (done int, err error) {
	c.member = f.config.member()
	var failed *BatchError // of the delivery after those of c
	for {
		n, err := f.attempt(ctx, c)
		if err != nil {
			n, err = f.settle(ctx, c, err)
		}
		if n > 0 {
			committed := call{deliveries: c.deliveries[:n], from: c.from}
			c.from.From = committed.move().To
			c.deliveries = c.deliveries[n:]
			done += n
		}
		var batchErr *BatchError
		switch {
		case err == nil && failed == nil:
			return done, nil
		case err == nil && len(c.deliveries) == 0:
			return done, failed
		case err == nil:
		case !errors.As(err, &batchErr):
			return done, err
		default:
			failed = &BatchError{done + batchErr.Index, batchErr.Err}
			if batchErr.Index == 0 {
				return done, failed
			}
			c.deliveries = c.deliveries[:batchErr.Index]
		}
	}
}

// settle returns what follows from the error of an attempt. An earlier attempt whose outcome
// was unknown may have been committed. Then the fence rejects the move, or the handler fails on
// what is already there, for example with a unique violation. That is not the message's
// failure, so the checkpoint decides. It is not asked before an attempt, when the earlier one
// may still be about to commit: the attempt, in which one of both loses, comes first.
func (f *movingForm) settle(ctx context.Context, c call, err error) (done int, _ error) {
	var batchErr *BatchError
	switch what, _ := said(err); {
	case errors.Is(err, errNotBegun):
		return 0, err
	case isReadOnly(err): // after a failover, for example
		if errors.As(err, &batchErr) {
			err = batchErr.Err
		}
		return 0, Transient(err)
	case ctx.Err() != nil, what == toWait, what == byDefault && errors.As(err, new(*lostError)):
		return 0, err
	}
	held, readErr := ledger.Read(ctx, f.config.store.Pool(), c.member)
	if readErr != nil {
		return 0, Transient(fmt.Errorf("read the checkpoint after a failure: %w", readErr))
	}
	for _, row := range held.Rows {
		if row.Partition != c.from.Partition || row.Epoch != c.from.Epoch {
			continue
		}
		if c.isReplay() && (row.Position == c.from.From || row.Position == c.from.To) {
			if done = c.replayed(held.Parked); done > 0 {
				return done, nil
			}
		}
		if row.Position == c.from.From {
			return 0, err
		}
		for i := range c.deliveries {
			if c.deliveries[i].message.GlobalPosition == row.Position {
				return i + 1, nil
			}
		}
	}
	if ledger.IsFenced(err) {
		return 0, err
	}
	return 0, errFenced
}

// replayed returns how many deliveries from the front are done with, as what is parked says.
func (c *call) replayed(parked []ledger.Parked) (done int) {
	positions := make(map[string][]int64)
	for _, p := range parked {
		if p.Partition == c.from.Partition {
			positions[p.Stream] = append(positions[p.Stream], p.Position)
		}
	}
	for i := range c.deliveries {
		d := &c.deliveries[i]
		rows := positions[string(d.message.Stream)]
		moved := slices.ContainsFunc(rows, func(p int64) bool { return p > d.message.Position })
		if slices.Contains(rows, d.replayed.from) || !moved && !d.replayed.ends {
			break
		}
		done++
	}
	return done
}

// errFenced is the error of a failed attempt on a partition that is not this member's any more,
// or not at the expected position.
var errFenced = &pgconn.PgError{Severity: "ERROR", Code: "MC001", Message: "the partition has another owner or position"}

// isReadOnly reports whether the server has rejected a write because it is a standby, or
// otherwise read-only.
func isReadOnly(err error) bool { return codeOf(err) == "25006" }

// A lostError is that of a connection that was lost while a handler was running.
type lostError struct{ err error }

func (e *lostError) Error() string { return e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// An idleError says that the server has ended a transaction because a handler took too long.
type idleError struct {
	took, limit time.Duration
	text        string // of the error, which is not wrapped: a lost connection would not count
}

func (e *idleError) Error() string {
	return fmt.Sprintf("the handler took %v, and the server ends transactions that are idle for %v: %s", e.took, e.limit, e.text)
}

// ofBatch returns the error of a batch of n. A *BatchError outside of the batch names nothing.
func ofBatch(err error, n int) error {
	var batchErr *BatchError
	if errors.As(err, &batchErr) && (batchErr.Index < 0 || batchErr.Index >= n) {
		return fmt.Errorf("a BatchError with an index outside of the batch of %d messages: %d: %w", n, batchErr.Index, batchErr.Err)
	}
	return err
}
