package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/messagedb-go/messagedb/mdb"
)

// EachQueued returns a Handler that calls f with each message, and then executes the statements
// that f has queued in b, in a transaction of the store's database that also moves the
// checkpoint: they take effect exactly once. It is the fastest form, for handlers that only
// write, such as projections.
//
// The messages of a partition that are waiting, up to 1,000 or what [PerTx] says, share a
// transaction, and all their statements take one round trip, with BEGIN, the checkpoint and
// COMMIT. A message that arrives alone is committed immediately. Partitions are handled in
// parallel if there are several workers.
//
// f does no I/O: it decodes the message and queues statements. It has no context, and so no
// [Delivery]: statements that take effect exactly once need no key. The arguments are used after f
// has returned, so f must not change them then. f may be called again for a message whose
// statements were not committed. If f or a statement fails, the statements of the messages before
// it are executed without it, and only its message is retried and parked. If the connection is
// lost, or the server cannot say which statement has failed, the batch is divided.
//
// Queue one statement in each call of b.Queue. Statements that begin or end a transaction or a
// savepoint, and SET without LOCAL, are rejected before anything is sent, as [Permanent].
//
// Callbacks of a queued statement, as its Exec and Query methods set them, are called after the
// commit, in the order of the statements, with results that are kept in memory until then. They
// are not called if the transaction fails, or if its outcome was unknown for a time. Their errors
// are logged and undo nothing. To decide by results, use [EachTx].
func EachQueued(f func(b *pgx.Batch, m mdb.Message) error) Handler {
	return Handler{name: "EachQueued", valid: f != nil, transactional: true, form: func(c formConfig) form {
		q := &queuedForm{config: c, handle: f, begin: beginSQL(c.isolation)}
		moving := &movingForm{config: c, attempt: q.attempt}
		return form{most: cmp.Or(c.perTx.messages, defaultPerFlush), call: moving.call, moves: true}
	}}
}

type queuedForm struct {
	config formConfig
	handle func(*pgx.Batch, mdb.Message) error
	begin  string
}

// A queued is a statement that a handler has queued.
type queued struct {
	*pgx.QueuedQuery // without its callback, which pgx would call before the commit

	callback func(pgx.BatchResults) error
	delivery int // its index
	result   result
}

func (f *queuedForm) attempt(ctx context.Context, c call) (done int, err error) {
	statements := make([]queued, 0, 2*len(c.deliveries))
	for i := range c.deliveries {
		if !c.mayBegin(i) {
			if i == 0 {
				return 0, errNotBegun
			}
			c.deliveries = c.deliveries[:i]
			break
		}
		var b pgx.Batch
		d := &c.deliveries[i]
		if err := f.config.handle(ctx, d, nil, func(context.Context) error { return f.handle(&b, d.message) }); err != nil {
			return 0, &BatchError{i, err}
		}
		for _, q := range b.QueuedQueries {
			statements = append(statements, queued{QueuedQuery: q, callback: q.Fn, delivery: i})
			q.Fn = nil
		}
	}
	pooled, err := f.config.store.Pool().Acquire(ctx)
	if err != nil {
		return 0, Transient(err)
	}
	defer pooled.Release()
	conn := pooled.Conn()
	var accepted acceptedSQL
	for i := range statements {
		if err := protect(func() error { return statements[i].prepare(ctx, conn, &accepted) }); err != nil {
			return 0, &BatchError{statements[i].delivery, err}
		}
	}
	if err := f.flush(ctx, conn, c, statements); err != nil {
		rollback(ctx, conn)
		return 0, err
	}
	f.callBack(c, statements, conn.TypeMap())
	return len(c.deliveries), nil
}

// acceptedSQL are texts that may be queued. Handlers use few different ones.
type acceptedSQL [4]string

func (a *acceptedSQL) check(sql string) error {
	if sql != "" && slices.Contains(a[:], sql) {
		return nil
	}
	if err := checkQueued(sql); err != nil {
		return Permanent(err)
	}
	copy(a[1:], a[:])
	a[0] = sql
	return nil
}

// prepare applies the statement's rewriter, and rejects what must not be queued.
func (q *queued) prepare(ctx context.Context, conn *pgx.Conn, accepted *acceptedSQL) error {
	for len(q.Arguments) > 0 {
		rewriter, ok := q.Arguments[0].(pgx.QueryRewriter)
		if !ok {
			break
		}
		sql, args, err := rewriter.RewriteQuery(ctx, conn, q.SQL, q.Arguments[1:])
		if err != nil {
			return fmt.Errorf("rewrite a queued statement: %w", err)
		}
		q.SQL, q.Arguments = sql, args
	}
	return accepted.check(q.SQL)
}

// flush executes the statements in a transaction that moves the checkpoint, in one round trip. A
// batch is an implicit transaction of its own. It begins an explicit one all the same: a
// statement that ends the implicit one, say in a procedure, would commit a part of it.
func (f *queuedForm) flush(ctx context.Context, conn *pgx.Conn, c call, statements []queued) error {
	b := pgx.Batch{QueuedQueries: make([]*pgx.QueuedQuery, 0, len(statements)+3)}
	b.Queue(f.begin)
	for i := range statements {
		b.QueuedQueries = append(b.QueuedQueries, statements[i].QueuedQuery)
	}
	moves := c.queue(&b)
	b.Queue("commit")

	results := conn.SendBatch(ctx, &b)
	_, err := results.Exec()
	if err != nil {
		_ = results.Close()
		return f.notBegun(conn, err, statements)
	}
	for i := range statements {
		if statements[i].callback != nil {
			err = statements[i].result.read(results)
		} else {
			_, err = results.Exec()
		}
		if err != nil {
			_ = results.Close()
			if !isRejected(conn, err) {
				return &lostError{err}
			}
			return &BatchError{statements[i].delivery, err}
		}
	}
	return endBatch(conn, results, moves)
}

// notBegun returns the error of a batch whose first statement has failed: the connection is
// lost, the server has rejected BEGIN, or pgx could not prepare or encode a statement.
func (f *queuedForm) notBegun(conn *pgx.Conn, err error, statements []queued) error {
	var preprocessing pgx.ErrPreprocessingBatch
	if errors.As(err, &preprocessing) {
		// Each delivery that has such a statement may be the cause.
		cause := -1
		for i := range statements {
			if statements[i].SQL != preprocessing.SQL() || statements[i].delivery == cause {
				continue
			}
			if cause >= 0 {
				return err
			}
			cause = statements[i].delivery
		}
		if cause >= 0 {
			return &BatchError{cause, err}
		}
		return Transient(fmt.Errorf("move the checkpoint: %w", err))
	}
	switch {
	case conn.IsClosed():
		return &lostError{err}
	case isRejected(conn, err) && (len(statements) == 0 || conn.Config().DefaultQueryExecMode != pgx.QueryExecModeSimpleProtocol):
		return Transient(fmt.Errorf("begin a transaction: %w", err))
	}
	return err // with the simple protocol, the server parses all statements before BEGIN
}

// callBack calls the callbacks of statements that are committed.
func (f *queuedForm) callBack(c call, statements []queued, types *pgtype.Map) {
	for i := range statements {
		q := &statements[i]
		if q.callback == nil {
			continue
		}
		err := protect(func() error { return q.callback(&resultReader{q.result, types}) })
		if err != nil && f.config.callbackFailed != nil {
			f.config.callbackFailed(c.deliveries[q.delivery].message, err)
		}
	}
}
