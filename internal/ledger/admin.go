package ledger

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// The functions of operators. Each one locks the consumer's row, and waits for transactions that have moved a checkpoint, to the end
// of the caller's transaction. Set a lock_timeout with [LimitWait].
const (
	sqlLock  = `SELECT message_store_consumers.lock($1::text)`
	sqlPause = `SELECT message_store_consumers.pause($1::text, $2::text)`
	sqlSeek  = `SELECT s.category, s.position, s.lowest, s.highest, s.unparked
FROM message_store_consumers.seek($1::text, $2::text[], $3::bigint, $4::timestamptz, $5::interval, $6::boolean) AS s`
	sqlSkip   = `SELECT message_store_consumers.skip($1::text, $2::text, $3::bigint, $4::boolean)`
	sqlResize = `SELECT r.done, r.barrier, coalesce(r.waiting, 0), coalesce(r.unread, '{}')
FROM message_store_consumers.resize($1::text, NULLIF($2::integer, 0), $3::interval) AS r`
	sqlCreate = `INSERT INTO message_store_consumers.consumers (name, categories, partitions) VALUES ($1::text, '{}', $2::integer)
ON CONFLICT ON CONSTRAINT consumers_name_key DO NOTHING RETURNING true`
	sqlFork   = `SELECT message_store_consumers.fork($1::text, $2::text)`
	sqlRename = `SELECT message_store_consumers.rename($1::text, $2::text, $3::boolean, $4::boolean)`
	sqlRemove = `SELECT message_store_consumers.remove($1::text, $2::boolean, $3::boolean)`
)

// LimitWait limits how long each wait for a lock may take, to the end of the transaction. What waits for longer fails with
// the SQLSTATE 55P03.
func LimitWait(ctx context.Context, q Querier, d time.Duration) error {
	return call(ctx, q, sqlLockTimeout, strconv.FormatInt(max(d, time.Millisecond).Milliseconds(), 10))
}

// Lock locks the row of a consumer to the end of the transaction, and returns its ID.
func Lock(ctx context.Context, q Querier, name string) (id int64, err error) {
	rows, _ := q.Query(ctx, sqlLock, name)
	return pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
}

// Pause lets the members of a consumer call no handlers, because of why. nil ends that.
func Pause(ctx context.Context, q Querier, name string, why *string) error {
	return call(ctx, q, sqlPause, name, why)
}

// SeekParams say where the checkpoints of a consumer are moved to: to a position, or before the first message of each category that
// was written at a time or later, or to the categories' ends.
type SeekParams struct {
	Categories []string      // nil: all
	Position   *int64        // nil: none
	Time       time.Time     // zero: none
	Slack      time.Duration // how long transactions that write messages take, at most
	Keep       bool          // what is parked
}

// A Sought is what Seek has changed of a category.
type Sought struct {
	Category        string
	Position        int64 // of all checkpoints
	Lowest, Highest int64 // of the checkpoints before
	Unparked        int64 // rows
}

// Seek moves the checkpoints of a consumer. See seek in consumers.sql.
func Seek(ctx context.Context, q Querier, name string, p SeekParams) ([]Sought, error) {
	rows, _ := q.Query(ctx, sqlSeek, name, p.Categories, p.Position, pgtype.Timestamptz{Time: p.Time, Valid: !p.Time.IsZero()},
		pgtype.Interval{Microseconds: p.Slack.Microseconds(), Valid: true}, p.Keep)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Sought])
}

// Skip leaves out the message at which a stream is parked, if it is parked at the position unless that is nil, or everything
// that waits for its key. It returns the number of rows that have changed.
func Skip(ctx context.Context, q Querier, name, stream string, position *int64, everything bool) (n int64, err error) {
	rows, _ := q.Query(ctx, sqlSkip, name, stream, position, everything)
	return pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
}

// A Resized says how far a change of the number of partitions is.
type Resized struct {
	Done    bool
	Barrier *int64   // at which members stop
	Waiting int64    // how many checkpoints are not there
	Unread  []string // categories of those that no running member reads
}

// Resize gives the consumer another number of partitions. If it is not done, members stop at a barrier, and the call has to be
// repeated, at intervals of less than patience. 0 partitions remove the barrier. See resize in consumers.sql.
func Resize(ctx context.Context, q Querier, name string, partitions int, patience time.Duration) (Resized, error) {
	rows, _ := q.Query(ctx, sqlResize, name, partitions, interval(patience))
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Resized])
}

// Create creates a consumer without categories, unless there is one of the name. Nobody else can create or join one of the name
// before the end of the transaction.
func Create(ctx context.Context, q Querier, name string, partitions int) (created bool, err error) {
	rows, _ := q.Query(ctx, sqlCreate, name, partitions)
	created, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[bool])
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return created, err
}

// Fork creates a consumer that has done what the other one has.
func Fork(ctx context.Context, q Querier, name, fork string) error {
	return call(ctx, q, sqlFork, name, fork)
}

// A Guard says whether a consumer is changed that members may be running. Otherwise the error has the SQLSTATE [Conflict] if one has a
// lease that has not ended, and [Silent] if there are others.
type Guard struct {
	Force   bool // whatever they do
	Watched bool // although there are members whose leases have ended: they have not ticked while the caller has watched them
}

// Rename renames a consumer.
func Rename(ctx context.Context, q Querier, name, renamed string, g Guard) error {
	return call(ctx, q, sqlRename, name, renamed, g.Force, g.Watched)
}

// Remove deletes a consumer.
func Remove(ctx context.Context, q Querier, name string, g Guard) error {
	return call(ctx, q, sqlRemove, name, g.Force, g.Watched)
}

// call runs a statement without a result.
func call(ctx context.Context, q Querier, sql string, args ...any) error {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	rows.Close()
	return rows.Err()
}
