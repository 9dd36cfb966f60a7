package ledger

import (
	"context"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// The parameters have casts, so that their types are known in all modes of pgx.
const (
	// A process that names its consumer by the ID replaces no other member of its instance.
	sqlJoin = `SELECT j.consumer, j.partitions, j.layout, j.changes, coalesce(j.timeline, ''), pg_catalog.clock_timestamp()
FROM message_store_consumers.join($1::text, $2::uuid, NULLIF($3::text, ''), $4::text, $5::interval, $6::text[], NULLIF($7::integer, 0), $8::bigint,
	coalesce(NULLIF($9::bigint, 0), (
		SELECT pg_catalog.max(m.consumer) FROM message_store_consumers.members AS m JOIN message_store_consumers.consumers AS c ON c.id = m.consumer
		WHERE c.name = $1::text AND m.instance = $3::text AND m.joined > $10::timestamptz
	))) AS j`
	sqlLockName = `SELECT FROM message_store_consumers.consumers AS c WHERE c.name = $1::text FOR NO KEY UPDATE`
	sqlTick     = `SELECT t.alive, t.replaced, coalesce(t.changes, 0), coalesce(t.paused, false), t.barrier, coalesce(t.suspects, false), coalesce(t.due, false),
	coalesce(t.timeline, ''), t.moved, t.skipped, coalesce(t.parts, 0), coalesce(t.layout, 0), coalesce(t.name, '')
FROM message_store_consumers.tick($1::bigint, $2::uuid, NULLIF($3::text, ''), NULLIF($4::text, ''),
	$5::text[], $6::integer[], $7::bigint[], $8::bigint[], $9::bigint[], $10::uuid[], $11::timestamptz[]) AS t`
	// The changes are those before the statement: what comes later, a tick reports.
	sqlBalance = `SELECT b.members, b.quota, b.held, b.claimed, b.paused, b.barrier, coalesce(c.changes, 0), coalesce(message_store_consumers.timeline(), ''), b.renewed
FROM message_store_consumers.balance($1::bigint, $2::uuid, NULLIF($3::integer, 0), CASE WHEN $3::integer > 0 THEN $4::bigint END,
	$5::text[], $6::integer[], $7::bigint[]) AS b
LEFT JOIN message_store_consumers.consumers AS c ON c.id = $1::bigint`
	sqlRows = `SELECT c.category, c.partition, c.position, c.epoch, c.anchor, c.anchor_time, c.gone::text[], c.gone_times
FROM message_store_consumers.checkpoints AS c WHERE c.consumer = $1::bigint AND c.member = $2::uuid
ORDER BY c.partition, c.category`
	parkedColumns = `p.category, p.partition, p.key, p.stream, p.position, p.upto, p.global_position, p.attempts, p.replays, p.due`
	sqlParked     = `SELECT ` + parkedColumns + `
FROM message_store_consumers.parked AS p
JOIN message_store_consumers.checkpoints AS c ON c.consumer = p.consumer AND c.category = p.category AND c.partition = p.partition
WHERE p.consumer = $1::bigint AND c.member = $2::uuid
ORDER BY p.global_position, p.stream, p.position`
	sqlMove = `SELECT message_store_consumers.move($1::bigint, $2::text, $3::integer, $4::uuid, $5::bigint,
	$6::bigint, $7::bigint, $8::uuid, $9::timestamptz)`
	sqlRelease = `SELECT message_store_consumers.release($1::bigint, $2::uuid,
	$3::text[], $4::integer[], $5::bigint[], $6::bigint[], $7::bigint[], $8::uuid[], $9::timestamptz[])`
	sqlLeave = `SELECT message_store_consumers.leave($1::bigint, $2::uuid,
	$3::text[], $4::integer[], $5::bigint[], $6::bigint[], $7::bigint[], $8::uuid[], $9::timestamptz[])`
	sqlPark = `SELECT message_store_consumers.park($1::bigint, $2::text, $3::integer, $4::uuid, $5::bigint,
	$6::text, $7::text, $8::bigint, $9::bigint, $10::bigint, $11::integer, NULLIF($12::text, ''),
	coalesce($13::timestamptz, pg_catalog.clock_timestamp() + $14::interval))`
	sqlReplayed = `SELECT message_store_consumers.replayed($1::bigint, $2::text, $3::integer, $4::uuid, $5::bigint,
	$6::text, $7::bigint, $8::bigint)`
	sqlUnpark = `SELECT message_store_consumers.unpark($1::bigint, $2::text, $3::integer, $4::uuid, $5::bigint,
	$6::bigint, $7::bigint, $8::uuid, $9::timestamptz, $10::text)`
	sqlLockTimeout = `SELECT pg_catalog.set_config('lock_timeout', $1::text, true)`
	sqlCount       = `SELECT pg_catalog.count(*)::integer FROM (
	SELECT DISTINCT p.category, p.key FROM message_store_consumers.parked AS p WHERE p.consumer = $1::bigint LIMIT $2::integer
) AS k`
)

// Join adds a member, and creates its consumer and the checkpoints that are missing. A member of
// the same instance is replaced, and its partitions pass to the new one. The error has the
// SQLSTATE [Partitions] if the consumer has another number of partitions, [NoConsumer] if p.Former was deleted, and [Gone] if another
// member of the instance is not to be replaced, see p.Former and p.Since.
func Join(ctx context.Context, q Querier, p JoinParams) (j Joined, err error) {
	b := limited(ctx)
	if !p.Since.IsZero() {
		b.Queue(sqlLockName, p.Name) // so that the next statement sees all members
	}
	b.Queue(sqlJoin, p.Name, pgUUID(p.Member), p.Instance, p.Info,
		pgtype.Interval{Microseconds: p.Lease.Microseconds(), Valid: true}, p.Categories, p.Partitions, p.Start, p.Former,
		pgtype.Timestamptz{Time: p.Since, Valid: !p.Since.IsZero()}).Query(func(rows pgx.Rows) (err error) {
		j, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Joined])
		return err
	})
	err = q.SendBatch(ctx, b).Close()
	return j, err
}

// limited returns a batch for a function that locks the consumer's row. Whoever has that lock may be stopped, and a
// context that ends would leave a session that waits, on a connection that is lost. So the server stops the wait
// first, with the SQLSTATE 55P03: a third of the time until the deadline of ctx, because the functions wait for locks
// of members, too. Without a deadline there is no limit.
func limited(ctx context.Context) *pgx.Batch {
	var b pgx.Batch
	if deadline, ok := ctx.Deadline(); ok {
		limit := max(time.Until(deadline)/3, time.Millisecond) // 0 would be no limit
		b.Queue(sqlLockTimeout, strconv.FormatInt(limit.Milliseconds(), 10))
	}
	return &b
}

// Beat renews the lease of a member and makes the moves. An empty info leaves the stored one
// unchanged. The server does not wait until this is on disk or on a standby, so a crash or failover may undo it.
func Beat(ctx context.Context, q Querier, m Member, info string, moves []Move) (t Tick, err error) {
	rows, _ := q.Query(ctx, sqlTick, append([]any{m.Consumer, pgUUID(m.ID), m.Instance, info}, arrays(moves)...)...)
	var moved, skipped []int
	t, err = pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (t Tick, err error) {
		return t, row.Scan(&t.Alive, &t.Replaced, &t.Changes, &t.Paused, &t.Barrier, &t.Suspects, &t.Due, &t.Timeline, &moved, &skipped,
			&t.Partitions, &t.Layout, &t.Name)
	})
	if err != nil || !t.Alive {
		return t, err
	}
	refused := make([]bool, len(moves))
	for i := range refused {
		refused[i] = true
	}
	indexes := func(ordinals []int) (list []int) {
		for _, n := range ordinals {
			list = append(list, n-1)
			refused[n-1] = false
		}
		return list
	}
	t.Moved, t.Skipped = indexes(moved), indexes(skipped)
	for i, refused := range refused {
		if refused {
			t.Refused = append(t.Refused, i)
		}
	}
	return t, nil
}

// Rebalance deletes members whose leases have ended, claims free partitions up to the member's
// quota, and then reads what the member has, in one round trip. If Held is greater than Quota,
// the member must release the rest. After a failover, it also gives the member new
// epochs for what it had before: call it when a tick reports another timeline, or when the fence refuses a move.
// forgotten are the rows of which the member has forgotten what it knew, as it knew them last. They get new epochs, see [Balance.Renewed]. The error
// has the SQLSTATE [Partitions] if the consumer has another number of partitions or another layout than m. Call it only if no handler is running
// that was called by an earlier layout.
func Rebalance(ctx context.Context, q Querier, m Member, forgotten ...Row) (balance Balance, held Held, err error) {
	categories, partitions, epochs := make([]string, len(forgotten)), make([]int32, len(forgotten)), make([]int64, len(forgotten))
	for i, row := range forgotten {
		categories[i], partitions[i], epochs[i] = row.Category, int32(row.Number), row.Epoch
	}
	b := limited(ctx)
	b.Queue(sqlBalance, m.Consumer, pgUUID(m.ID), m.Partitions, m.Layout, categories, partitions, epochs).Query(func(rows pgx.Rows) (err error) {
		balance, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Balance])
		return err
	})
	held.queue(b, m)
	err = q.SendBatch(ctx, b).Close()
	for i := range balance.Renewed {
		balance.Renewed[i]--
	}
	return balance, held, err
}

// Read reads what the member has.
func Read(ctx context.Context, q Querier, m Member) (held Held, err error) {
	var b pgx.Batch
	held.queue(&b, m)
	err = q.SendBatch(ctx, &b).Close()
	return held, err
}

// queue adds the statements that read into h. The rows come first: who parks needs the checkpoint, so what is parked of a claimed
// partition is complete.
func (h *Held) queue(b *pgx.Batch, m Member) {
	b.Queue(sqlRows, m.Consumer, pgUUID(m.ID)).Query(func(rows pgx.Rows) (err error) {
		h.Rows, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Row, err error) {
			var id pgtype.UUID
			var at *time.Time
			var gone []string
			var times []time.Time
			if err = row.Scan(&r.Category, &r.Number, &r.Position, &r.Epoch, &id, &at, &gone, &times); err == nil && gone != nil {
				err = h.note(r.Partition, gone, times)
			}
			if r.ID = id.Bytes; at != nil {
				r.Time = *at
			}
			return r, err
		})
		return err
	})
	b.Queue(sqlParked, m.Consumer, pgUUID(m.ID)).Query(func(rows pgx.Rows) (err error) {
		h.Parked, err = pgx.CollectRows(rows, toParked)
		return err
	})
}

func toParked(row pgx.CollectableRow) (p Parked, err error) {
	return p, row.Scan(p.columns()...)
}

// columns returns where parkedColumns are scanned into.
func (p *Parked) columns() []any {
	return []any{&p.Category, &p.Number, &p.Key, &p.Stream, &p.Position, &p.Upto, &p.GlobalPosition, &p.Attempts, &p.Replays, &p.Due}
}

// Release makes the moves and frees their partitions. A partition is released as a whole, with all its categories, or not at all: if
// the fence refuses one of its moves, or one of its checkpoints is locked. It returns the indexes of
// the moves that were made.
func Release(ctx context.Context, q Querier, m Member, moves []Move) (released []int, err error) {
	b := limited(ctx)
	b.Queue(sqlRelease, append([]any{m.Consumer, pgUUID(m.ID)}, arrays(moves)...)...).Query(func(rows pgx.Rows) (err error) {
		released, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[[]int])
		return err
	})
	err = q.SendBatch(ctx, b).Close()
	for i := range released {
		released[i]--
	}
	return released, err
}

// Leave deletes the member, which frees all its partitions, and makes those moves that the fence
// allows. It can be repeated.
func Leave(ctx context.Context, q Querier, m Member, moves []Move) error {
	b := limited(ctx)
	b.Queue(sqlLeave, append([]any{m.Consumer, pgUUID(m.ID)}, arrays(moves)...)...)
	return q.SendBatch(ctx, b).Close()
}

// QueueMove queues a move in a batch, whose last statement should be COMMIT: if the fence refuses
// it, the server skips the rest of the batch, so nothing is committed. See [IsFenced].
func QueueMove(b *pgx.Batch, m Member, mv Move) *pgx.QueuedQuery {
	return b.Queue(sqlMove, append([]any{m.Consumer, mv.Category, mv.Number, pgUUID(m.ID), mv.Epoch}, ends(mv)...)...)
}

// Park parks a stream, or adds an attempt to what is parked at the position. The checkpoint may
// pass the message after this has committed. An error text of more than 1,000 characters is cut.
func Park(ctx context.Context, q Querier, m Member, epoch int64, p Parked, errText string) error {
	_, err := ParkFor(ctx, q, m, epoch, p, errText, 0)
	return err
}

// ParkFor is like Park, but if p.Due is nil and wait is greater than 0, the stream is due after that time by the server's clock.
// It reports whether the stream was not yet parked at the position.
func ParkFor(ctx context.Context, q Querier, m Member, epoch int64, p Parked, errText string, wait time.Duration) (created bool, err error) {
	rows, _ := q.Query(ctx, sqlPark, m.Consumer, p.Category, p.Number, pgUUID(m.ID), epoch,
		p.Key, p.Stream, p.Position, p.Upto, p.GlobalPosition, p.Attempts, clean(errText), p.Due, interval(wait))
	return pgx.CollectExactlyOneRow(rows, pgx.RowTo[bool])
}

// interval returns a time for PostgreSQL, or NULL if it is not greater than 0.
func interval(d time.Duration) pgtype.Interval {
	return pgtype.Interval{Microseconds: d.Microseconds(), Valid: d > 0}
}

// CountParked returns how many keys of the consumer are parked, but at most a number.
func CountParked(ctx context.Context, q Querier, m Member, most int) (int, error) {
	rows, _ := q.Query(ctx, sqlCount, m.Consumer, most)
	return pgx.CollectExactlyOneRow(rows, pgx.RowTo[int])
}

// QueueReplayed queues that a parked message was replayed: its stream is parked from the position
// next on, or no longer if upto was less. The fence refuses it if the stream is not parked at the position.
func QueueReplayed(b *pgx.Batch, m Member, p Partition, epoch int64, stream string, position, next int64) *pgx.QueuedQuery {
	return b.Queue(sqlReplayed, m.Consumer, p.Category, p.Number, pgUUID(m.ID), epoch, stream, position, next)
}

// QueueUnpark queues a move that also deletes what is parked of a key, except for single messages. The move has to reach at least
// the last message that was replayed: if the checkpoint stayed before it, a crash would deliver that message again.
func QueueUnpark(b *pgx.Batch, m Member, mv Move, key string) *pgx.QueuedQuery {
	return b.Queue(sqlUnpark, append(append([]any{m.Consumer, mv.Category, mv.Number, pgUUID(m.ID), mv.Epoch}, ends(mv)...), key)...)
}

// ends returns the last arguments of a move.
func ends(mv Move) []any {
	id, at := mv.values()
	return []any{mv.From, mv.To, id, at}
}

// arrays returns the moves as the last arguments of tick, release and leave.
func arrays(moves []Move) []any {
	n := len(moves)
	categories, partitions := make([]string, n), make([]int32, n)
	epochs, froms, tos := make([]int64, n), make([]int64, n), make([]int64, n)
	ids, times := make([]pgtype.UUID, n), make([]pgtype.Timestamptz, n)
	for i, mv := range moves {
		categories[i], partitions[i] = mv.Category, int32(mv.Number)
		epochs[i], froms[i], tos[i] = mv.Epoch, mv.From, mv.To
		ids[i], times[i] = mv.values()
	}
	return []any{categories, partitions, epochs, froms, tos, ids, times}
}

func (a Anchor) values() (pgtype.UUID, pgtype.Timestamptz) {
	return pgtype.UUID{Bytes: a.ID, Valid: a.ID != uuid.Nil}, pgtype.Timestamptz{Time: a.Time, Valid: !a.Time.IsZero()}
}

func pgUUID(id uuid.UUID) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: true} }
