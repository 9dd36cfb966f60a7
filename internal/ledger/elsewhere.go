package ledger

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// The functions for consumers whose messages are in another database than their state. See the end of consumers.sql.
const (
	sqlPrepare = `SELECT message_store_consumers.prepare($1::text, NULLIF($2::integer, 0), NULLIF($3::bigint, 0), $4::text[], $5::bigint[], $6::uuid[], $7::timestamptz[])`
	sqlRewind  = `SELECT message_store_consumers.rewind($1::bigint, $2::text, $3::integer, $4::uuid, $5::bigint,
	$6::bigint, $7::bigint, $8::uuid, $9::timestamptz, $10::uuid[], $11::timestamptz[], $12::text[], $13::bigint[])`
	sqlElsewhere = `SELECT message_store_consumers.is_elsewhere(c.id), c.categories FROM message_store_consumers.consumers AS c WHERE c.name = $1::text FOR NO KEY UPDATE`
	sqlSeekTo    = `SELECT s.lowest, s.highest, s.unparked FROM message_store_consumers.seek_to($1::text, $2::text, $3::bigint, $4::uuid, $5::timestamptz) AS s`
)

// What is known of such a consumer without its messages.
const (
	sqlProgress = `SELECT c.partition, c.position, c.member, c.epoch, c.moved, 0::bigint, NULL::timestamptz, true
FROM message_store_consumers.checkpoints AS c WHERE c.consumer = $1::bigint AND c.category = $2::text ORDER BY c.partition`

	sqlKeys = `SELECT DISTINCT ON (p.category, p.key) p.category, p.partition, p.key, p.stream, p.position,
	pg_catalog.count(*) OVER k::integer, 0::bigint, p.attempts, coalesce(p.error, ''), pg_catalog.min(p.due) OVER k, pg_catalog.min(p.parked) OVER k
FROM message_store_consumers.parked AS p WHERE p.consumer = $1::bigint
WINDOW k AS (PARTITION BY p.category, p.key)
ORDER BY p.category, p.key, p.attempts = 0, p.global_position, p.stream, p.position LIMIT $2::integer`
)

// ProgressElsewhere is [Pending] without a look at messages.
func ProgressElsewhere(ctx context.Context, q Querier, consumer int64, category string) ([]Progress, error) {
	rows, _ := q.Query(ctx, sqlProgress, consumer, category)
	return pgx.CollectRows(rows, toProgress)
}

// KeysElsewhere is [ParkedKeys] without a look at messages.
func KeysElsewhere(ctx context.Context, q Querier, consumer int64, most int) ([]ParkedKey, error) {
	rows, _ := q.Query(ctx, sqlKeys, consumer, most)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[ParkedKey])
}

// note remembers that the messages of a partition are in another database, and which of them were lost.
func (h *Held) note(p Partition, ids []string, times []time.Time) error {
	gone := make([]Anchor, len(ids))
	for i := range gone {
		id, err := uuid.Parse(ids[i])
		if err != nil {
			return err
		}
		gone[i] = Anchor{id, times[i]}
	}
	if h.Gone == nil {
		h.Gone = make(map[Partition][]Anchor)
	}
	h.Gone[p] = gone
	return nil
}

// A Start is where the new checkpoints of a category begin: at the position of the anchor, or at 0.
type Start struct {
	Category string
	Position int64
	Anchor
}

// Prepare creates what is missing of a consumer before a member joins it. The error has the SQLSTATE [Conflict] if the consumer
// has its messages in the database of its state.
func Prepare(ctx context.Context, q Querier, p JoinParams, starts []Start) error {
	n := len(starts)
	categories, positions, anchors := make([]string, n), make([]int64, n), make([]Anchor, n)
	for i, s := range starts {
		categories[i], positions[i], anchors[i] = s.Category, s.Position, s.Anchor
	}
	ids, times := columns(anchors)
	b := limited(ctx)
	b.Queue(sqlPrepare, p.Name, p.Partitions, p.Former, categories, positions, ids, times)
	return q.SendBatch(ctx, b).Close()
}

// A Rewind moves a checkpoint back from Move.From to Move.To, which is the position of the anchor, or 0.
type Rewind struct {
	Move
	Lost    []Anchor // the first message that was lost of each loss
	Streams []string // that are parked
	Nexts   []int64  // the positions in them after their last messages up to To
}

// QueueRewind queues a rewind. The fence refuses it like a move.
func QueueRewind(b *pgx.Batch, m Member, r Rewind) *pgx.QueuedQuery {
	args := append([]any{m.Consumer, r.Category, r.Number, pgUUID(m.ID), r.Epoch}, ends(r.Move)...)
	ids, times := columns(r.Lost)
	return b.Queue(sqlRewind, append(args, ids, times, r.Streams, r.Nexts)...)
}

func columns(anchors []Anchor) ([]pgtype.UUID, []pgtype.Timestamptz) {
	ids, times := make([]pgtype.UUID, len(anchors)), make([]pgtype.Timestamptz, len(anchors))
	for i, a := range anchors {
		ids[i], times[i] = a.values()
	}
	return ids, times
}

// Elsewhere locks a consumer to the end of the transaction, and reports whether its messages are in another database. It returns the
// consumer's categories. The answer is no if there is no such consumer.
func Elsewhere(ctx context.Context, q Querier, name string) (yes bool, categories []string, err error) {
	rows, _ := q.Query(ctx, sqlElsewhere, name)
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (none struct{}, err error) {
		return none, row.Scan(&yes, &categories)
	})
	return yes, categories, err
}

// SeekTo moves the checkpoints of a category whose messages are in another database.
func SeekTo(ctx context.Context, q Querier, name string, to Start) (s Sought, err error) {
	id, at := to.values()
	rows, _ := q.Query(ctx, sqlSeekTo, name, to.Category, to.Position, id, at)
	return pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (Sought, error) {
		s := Sought{Category: to.Category, Position: to.Position}
		return s, row.Scan(&s.Lowest, &s.Highest, &s.Unparked)
	})
}
