package ledger

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

const (
	// sqlEndUpto is the position of a category's last message up to a position. It is not an equality, with which PostgreSQL may
	// scan the whole table by its primary key.
	sqlEndUpto = `coalesce((
	SELECT m.global_position FROM message_store.messages AS m
	WHERE message_store.category(m.stream_name) >= $2::text AND message_store.category(m.stream_name) <= $2::text AND m.global_position <= $3::bigint
	ORDER BY message_store.category(m.stream_name) DESC, m.global_position DESC LIMIT 1
), 0)`

	// sqlDone says whether the checkpoints of a category, or only that of a stream's partition, have reached the category's last message
	// up to a position, and whether the stream is parked before it.
	sqlDone = `SELECT o.id IS NOT NULL, EXISTS (
	SELECT FROM message_store_consumers.checkpoints AS c WHERE c.consumer = o.id AND c.category = $2::text
), NOT EXISTS (
	SELECT FROM message_store_consumers.checkpoints AS c WHERE c.consumer = o.id AND c.category = $2::text AND c.position < ` + sqlEndUpto + `
		AND (NULLIF($4::text, '') IS NULL OR c.partition = message_store_consumers.partition_of($5::text, o.partitions))
), EXISTS (
	SELECT FROM message_store_consumers.parked AS p WHERE p.consumer = o.id AND p.category = $2::text AND p.stream = NULLIF($4::text, '') AND EXISTS (
		SELECT FROM message_store.messages AS m WHERE m.stream_name = p.stream AND m.global_position <= $3::bigint
			AND m.position >= p.position AND (p.upto IS NULL OR m.global_position = $3::bigint AND m.position <= p.upto)
	)
), coalesce(message_store_consumers.is_elsewhere(o.id), false)
FROM (SELECT 1) AS one LEFT JOIN message_store_consumers.consumers AS o ON o.name = $1::text`

	sqlConsumers = `SELECT c.id, c.name, c.categories, c.partitions, c.paused, message_store_consumers.barrier_of(c), c.barrier_set, c.made, (
	SELECT pg_catalog.count(*)::integer FROM message_store_consumers.members AS m WHERE m.consumer = c.id AND m.seen >= pg_catalog.clock_timestamp() - m.lease
), (
	SELECT pg_catalog.count(*)::integer FROM (SELECT DISTINCT p.category, p.key FROM message_store_consumers.parked AS p WHERE p.consumer = c.id) AS k
), pg_catalog.clock_timestamp(), message_store_consumers.is_elsewhere(c.id)
FROM message_store_consumers.consumers AS c WHERE $1::text IS NULL OR c.name = $1::text ORDER BY c.name`

	sqlMembers = `SELECT m.id, coalesce(m.instance, ''), m.categories, m.info, m.joined, m.seen, m.lease, m.seen >= pg_catalog.clock_timestamp() - m.lease, m.layout <> o.layout, ARRAY(
	SELECT DISTINCT c.partition FROM message_store_consumers.checkpoints AS c WHERE c.consumer = m.consumer AND c.member = m.id ORDER BY 1
), (
	SELECT pg_catalog.max(c.moved) FROM message_store_consumers.checkpoints AS c WHERE c.consumer = m.consumer AND c.member = m.id
)
FROM message_store_consumers.members AS m JOIN message_store_consumers.consumers AS o ON o.id = m.consumer
WHERE m.consumer = $1::bigint ORDER BY m.joined, m.id`

	// sqlPending looks at some of the messages after the lowest checkpoint of a category.
	sqlPending = `WITH page AS MATERIALIZED (
	SELECT m.global_position, m.time, message_store_consumers.partition_of(CASE WHEN pg_catalog.strpos(m.stream_name, '-') = 0 THEN ''
		ELSE pg_catalog.split_part(pg_catalog.substr(m.stream_name, pg_catalog.strpos(m.stream_name, '-') + 1), '+', 1) END, $3::integer) AS partition
	FROM message_store.messages AS m
	WHERE message_store.category(m.stream_name) >= $2::text AND message_store.category(m.stream_name) <= $2::text AND m.global_position > (
		SELECT pg_catalog.min(c.position) FROM message_store_consumers.checkpoints AS c WHERE c.consumer = $1::bigint AND c.category = $2::text
	)
	ORDER BY message_store.category(m.stream_name), m.global_position LIMIT $4::integer
)
SELECT c.partition, c.position, c.member, c.epoch, c.moved, b.n, b.oldest, (SELECT pg_catalog.count(*) FROM page) = $4::integer
FROM message_store_consumers.checkpoints AS c
CROSS JOIN LATERAL (
	SELECT pg_catalog.count(*) AS n, pg_catalog.timezone('UTC', pg_catalog.min(p.time)) AS oldest FROM page AS p
	WHERE p.partition = c.partition AND p.global_position > c.position
) AS b
WHERE c.consumer = $1::bigint AND c.category = $2::text ORDER BY c.partition`

	sqlUneven = `SELECT u.categories FROM message_store_consumers.uneven($1::bigint) AS u`

	// sqlParkedKeys counts the messages of the parked streams of each key up to a limit.
	sqlParkedKeys = `WITH keys AS MATERIALIZED (
	SELECT p.category, p.key, pg_catalog.min(p.partition) AS partition, pg_catalog.count(DISTINCT p.stream)::integer AS streams,
		pg_catalog.min(p.global_position) AS first, pg_catalog.min(p.parked) AS parked, pg_catalog.min(p.due) AS due,
		pg_catalog.array_agg(p.stream ` + failedFirst + `) AS stream, pg_catalog.array_agg(p.position ` + failedFirst + `) AS position, pg_catalog.array_agg(p.upto ` + failedFirst + `) AS upto,
		pg_catalog.array_agg(p.attempts ` + failedFirst + `) AS attempts, pg_catalog.array_agg(coalesce(p.error, '') ` + failedFirst + `) AS error
	FROM message_store_consumers.parked AS p WHERE p.consumer = $1::bigint
	GROUP BY p.category, p.key ORDER BY first, p.category, p.key LIMIT $2::integer
)
SELECT k.category, k.partition, k.key, k.stream[1], k.position[1], k.streams, (
	SELECT pg_catalog.count(*) FROM (
		SELECT FROM ROWS FROM (pg_catalog.unnest(k.stream), pg_catalog.unnest(k.position), pg_catalog.unnest(k.upto)) AS u(stream, position, upto)
		CROSS JOIN LATERAL (
			SELECT FROM message_store.messages AS m
			WHERE m.stream_name = u.stream AND m.position >= u.position AND (u.upto IS NULL OR m.position <= u.upto) LIMIT $3::integer
		) AS m LIMIT $3::integer
	) AS l
), k.attempts[1], k.error[1], k.due, k.parked
FROM keys AS k ORDER BY k.first, k.category, k.key`

	sqlParkedOf = `SELECT ` + parkedColumns + `, coalesce(p.error, ''), p.parked, p.tried
FROM message_store_consumers.parked AS p WHERE p.consumer = $1::bigint AND ` + parkedFits + `
ORDER BY p.global_position, p.stream, p.position LIMIT $7::bigint`

	sqlCountParked = `SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE ` + parkedFits + `),
	coalesce(pg_catalog.array_agg(DISTINCT p.category), '{}'),
	coalesce(pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.string_agg(
		pg_catalog.json_build_array(p.category, p.stream, p.position)::text, ' ' ORDER BY p.category, p.stream, p.position) FILTER (WHERE ` + parkedFits + `), 'UTF8')), 'hex'), '')
FROM message_store_consumers.parked AS p WHERE p.consumer = $1::bigint`
)

// parkedFits is the condition of a ParkedFilter.
const parkedFits = `($2::text = '' OR p.category = $2) AND ($3::text = '' OR pg_catalog.starts_with(p.stream, $3))
	AND ($4::text = '' OR pg_catalog.strpos(pg_catalog.lower(p.error), pg_catalog.lower($4)) > 0)
	AND ($5::text = '' OR p.stream = $5) AND ($6::bigint IS NULL OR p.position = $6)`

// failedFirst is the order of the parked rows of a key: those come first whose messages have failed.
const failedFirst = `ORDER BY p.attempts = 0, p.global_position, p.stream, p.position`

// Done says how far a consumer is.
type Done struct {
	Exists  bool // the consumer
	Reads   bool // it has the category
	Reached bool
	Parked  bool // the stream, at the position or before it
	// Elsewhere says that the messages are in another database, and so that nothing is known of Reached and Parked.
	Elsewhere bool
}

// Reached reports whether everything of a category is done with up to a position, or only of a stream if that is not empty. key
// is the stream's cardinal ID.
func Reached(ctx context.Context, q Querier, name, category string, position int64, stream, key string) (Done, error) {
	rows, _ := q.Query(ctx, sqlDone, name, category, position, stream, key)
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Done])
}

// A Consumer is what operators see of one.
type Consumer struct {
	ID         int64
	Name       string
	Categories []string
	Partitions int
	Paused     *string // why; nil: it is not
	Barrier    *int64
	BarrierSet *time.Time // members that have not ticked since do not know the barrier; nil: nobody may know it
	Made       time.Time
	Members    int // with a lease that has not ended
	Parked     int // keys
	Now        time.Time
	Elsewhere  bool // its messages are in another database
}

// Consumers returns all consumers, or the one of the name if it is not nil.
func Consumers(ctx context.Context, q Querier, name *string) ([]Consumer, error) {
	rows, _ := q.Query(ctx, sqlConsumers, name)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Consumer])
}

// A Process is what operators see of a member.
type Process struct {
	ID           uuid.UUID
	Instance     string
	Categories   []string
	Info         string
	Joined, Seen time.Time
	Lease        time.Duration
	Alive        bool  // its lease has not ended
	Unconfirmed  bool  // a handler may be running that was called by an earlier layout
	Partitions   []int // their numbers
	Moved        *time.Time
}

// Processes returns the members of a consumer.
func Processes(ctx context.Context, q Querier, consumer int64) ([]Process, error) {
	rows, _ := q.Query(ctx, sqlMembers, consumer)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Process, err error) {
		var id pgtype.UUID
		err = row.Scan(&id, &p.Instance, &p.Categories, &p.Info, &p.Joined, &p.Seen, &p.Lease, &p.Alive, &p.Unconfirmed, &p.Partitions, &p.Moved)
		p.ID = id.Bytes
		return p, err
	})
}

// A Progress is how far a partition is.
type Progress struct {
	Number   int
	Position int64
	Member   uuid.UUID // zero: none
	Epoch    int64
	Moved    time.Time
	Pending  int64      // how many messages of the partition are not done with
	Oldest   *time.Time // when the first of them was written
	More     bool       // there may be more messages than were looked at
}

// Pending returns how far a consumer is in a category, by a look at no more than a number of messages.
func Pending(ctx context.Context, q Querier, consumer int64, category string, partitions, most int) ([]Progress, error) {
	rows, _ := q.Query(ctx, sqlPending, consumer, category, partitions, most)
	return pgx.CollectRows(rows, toProgress)
}

func toProgress(row pgx.CollectableRow) (p Progress, err error) {
	var id pgtype.UUID
	err = row.Scan(&p.Number, &p.Position, &id, &p.Epoch, &p.Moved, &p.Pending, &p.Oldest, &p.More)
	p.Member = id.Bytes
	return p, err
}

// A ParkedRow is what operators see of what is parked.
type ParkedRow struct {
	Parked
	Error     string
	At, Tried time.Time
}

// A ParkedFilter selects some of what is parked of a consumer. A field that is empty selects everything.
type ParkedFilter struct {
	Category string
	Prefix   string // of the stream
	Error    string // what the error contains, in any case
	Stream   string
	At       *int64 // the position
}

func (f *ParkedFilter) arguments(consumer int64) []any {
	return []any{consumer, f.Category, f.Prefix, f.Error, f.Stream, f.At}
}

// A ParkedCount says how much is parked of a consumer, and what a filter selects of it.
type ParkedCount struct {
	All, Selected int
	Categories    []string // of all
	Digest        string   // of the streams and positions that are selected
}

// CountSelected counts what is parked of a consumer.
func CountSelected(ctx context.Context, q Querier, consumer int64, f *ParkedFilter) (ParkedCount, error) {
	rows, _ := q.Query(ctx, sqlCountParked, f.arguments(consumer)...)
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[ParkedCount])
}

// ParkedOf returns what is parked of a consumer and selected by a filter, at most so many rows, or all if that is nil.
func ParkedOf(ctx context.Context, q Querier, consumer int64, f *ParkedFilter, most *int) ([]ParkedRow, error) {
	rows, _ := q.Query(ctx, sqlParkedOf, append(f.arguments(consumer), most)...)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (p ParkedRow, err error) {
		return p, row.Scan(append(p.columns(), &p.Error, &p.At, &p.Tried)...)
	})
}

// Uneven returns the categories whose partitions have handled different messages.
func Uneven(ctx context.Context, q Querier, consumer int64) ([]string, error) {
	rows, _ := q.Query(ctx, sqlUneven, consumer)
	return pgx.CollectExactlyOneRow(rows, pgx.RowTo[[]string])
}

// A ParkedKey is what operators see of a key of which streams are parked.
type ParkedKey struct {
	Category string
	Number   int // the partition
	Key      string
	Stream   string // the one whose message has failed, as the next fields say
	Position int64
	Streams  int   // that are parked
	Messages int64 // that these have from their positions on, up to a limit
	Attempts int
	Error    string
	Due      *time.Time // the first one
	At       time.Time  // when the first one was parked
}

// ParkedKeys returns the keys of which streams are parked, those first that were parked first. most limits how many, and look how
// many messages of each one are looked at.
func ParkedKeys(ctx context.Context, q Querier, consumer int64, most, look int) ([]ParkedKey, error) {
	rows, _ := q.Query(ctx, sqlParkedKeys, consumer, most, look)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[ParkedKey])
}
