package ledger

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	sqlDue = `SELECT DISTINCT p.category, p.partition, p.key
FROM message_store_consumers.parked AS p
JOIN message_store_consumers.checkpoints AS c ON c.consumer = p.consumer AND c.category = p.category AND c.partition = p.partition
WHERE p.consumer = $1::bigint AND p.due <= pg_catalog.clock_timestamp() AND c.member = $2::uuid`
	sqlKey = `SELECT ` + parkedColumns + `, coalesce(p.due <= pg_catalog.clock_timestamp(), false)
FROM message_store_consumers.parked AS p
WHERE p.consumer = $1::bigint AND p.category = $2::text AND p.partition = $3::integer AND p.key = $4::text
ORDER BY p.global_position, p.stream, p.position`
	sqlPostpone = `SELECT message_store_consumers.postpone($1::bigint, $2::text, $3::integer, $4::uuid, $5::bigint,
	$6::text, $7::bigint, $8::integer, $9::integer, NULLIF($10::text, ''), $11::interval)`
	sqlReplay = `SELECT message_store_consumers.replay($1::text, $2::text[])`
)

// A Key is what is parked together: all streams of a cardinal ID in a category.
type Key struct {
	Partition
	Key string
}

// Due returns the keys of the member's partitions of which a stream is due.
func Due(ctx context.Context, q Querier, m Member) ([]Key, error) {
	rows, _ := q.Query(ctx, sqlDue, m.Consumer, pgUUID(m.ID))
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (k Key, err error) {
		return k, row.Scan(&k.Category, &k.Number, &k.Key)
	})
}

// QueueKey queues a query of what is parked of a key, in the order of the global positions, and calls f with it.
func QueueKey(b *pgx.Batch, m Member, k Key, f func([]Parked)) {
	b.Queue(sqlKey, m.Consumer, k.Category, k.Number, k.Key).Query(func(rows pgx.Rows) error {
		parked, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Parked, err error) {
			return p, row.Scan(append(p.columns(), &p.IsDue)...)
		})
		if err == nil {
			f(parked)
		}
		return err
	})
}

// A Postponed says that a parked stream could not be replayed.
type Postponed struct {
	Stream            string
	Position          int64 // at which it is parked
	Attempts, Replays int
	Error             string
	Wait              time.Duration // until it is due; 0: until somebody asks for it
}

// QueuePostpone queues that the replay of a parked stream has failed. The key's other streams are no longer due.
func QueuePostpone(b *pgx.Batch, m Member, p Partition, epoch int64, f Postponed) *pgx.QueuedQuery {
	return b.Queue(sqlPostpone, m.Consumer, p.Category, p.Number, pgUUID(m.ID), epoch,
		f.Stream, f.Position, f.Attempts, f.Replays, clean(f.Error), interval(f.Wait))
}

// Replay lets parked streams of a consumer be replayed immediately, all if streams is nil, and returns their number. The error has the SQLSTATE
// [NoConsumer] if there is no consumer of the name.
func Replay(ctx context.Context, q Querier, name string, streams []string) (n int64, err error) {
	rows, _ := q.Query(ctx, sqlReplay, name, streams)
	return pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
}
