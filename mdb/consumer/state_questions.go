package consumer

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// A question is a statement that reads the table of a store, and the one that a proxy sends to the shard of a category, which is
// its first argument.
type question struct {
	table, shard string
	ofCategory   bool // the category is the first argument of both
}

const placesOnShard = `SELECT global_position, id::text, time FROM message_store_shard.`

// What a consumer whose state is in another database asks the store.
var (
	// askUpto is not an equality, with which PostgreSQL may scan the whole table by its primary key.
	askUpto = question{
		table: `SELECT m.global_position, m.id::text, m.time FROM message_store.messages AS m
WHERE message_store.category(m.stream_name) >= $1::text AND message_store.category(m.stream_name) <= $1::text AND m.global_position <= $2::bigint
ORDER BY message_store.category(m.stream_name) DESC, m.global_position DESC LIMIT 1`,
		shard:      placesOnShard + `category_head($1::varchar, $2::bigint)`,
		ofCategory: true,
	}

	askUsed = question{
		table: `SELECT greatest((SELECT coalesce(max(m.global_position), 0) FROM message_store.messages AS m),
	coalesce(pg_sequence_last_value(to_regclass('message_store.messages_global_position_seq')), 0))`,
		shard: `SELECT message_store_shard.last_used($1::varchar)`,
	}

	// askFound looks for each message by its ID.
	askFound = question{
		table: `SELECT w.n, m.global_position, m.id::text, m.time
FROM ROWS FROM (pg_catalog.unnest($1::text[]::uuid[]), pg_catalog.unnest($2::bigint[])) WITH ORDINALITY AS w(id, upto, n)
JOIN message_store.messages AS m ON m.id = w.id AND m.global_position <= w.upto`,
		shard: `SELECT index, global_position, id::text, time FROM message_store_shard.find_places($1::varchar, $2::text[], $3::bigint[])`,
	}

	askThere = question{
		table: `SELECT EXISTS (SELECT FROM message_store.messages AS m WHERE m.id = $1::text::uuid
	AND ($2::timestamptz IS NULL OR m.time = pg_catalog.timezone('UTC', $2::timestamptz)))`,
		shard: `SELECT EXISTS (SELECT FROM message_store_shard.find_places($1::varchar, ARRAY[$2::text], ARRAY[9223372036854775807]) AS m
WHERE $3::timestamptz IS NULL OR m.time = pg_catalog.timezone('UTC', $3::timestamptz))`,
	}

	askAt = question{
		table: `SELECT m.global_position, m.id::text, m.time FROM message_store.messages AS m WHERE m.global_position = ANY ($1::bigint[])`,
		shard: placesOnShard + `places_at($1::varchar, $2::bigint[])`,
	}

	askFollows = question{
		table: `SELECT EXISTS (SELECT FROM message_store.messages AS m
WHERE message_store.category(m.stream_name) >= $1::text AND message_store.category(m.stream_name) <= $1::text AND m.global_position > $2::bigint)`,
		shard:      `SELECT EXISTS (SELECT FROM message_store_shard.category_head($1::varchar) AS h WHERE h.global_position > $2::bigint)`,
		ofCategory: true,
	}

	askNext = question{
		table: `SELECT coalesce((SELECT max(m.position) FROM message_store.messages AS m WHERE m.stream_name = w.stream AND m.global_position <= $2::bigint), -1) + 1
FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS w(stream, n) ORDER BY w.n`,
		shard: `SELECT next FROM message_store_shard.next_positions($1::varchar, $2::text[], $3::bigint) ORDER BY index`,
	}
)

const (
	sqlEndsOnShards = `SELECT coalesce((SELECT h.global_position FROM message_store_shard.category_head(w.category::varchar) AS h), 0)
FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS w(category, n) ORDER BY w.n`

	sqlRecovery = `SELECT pg_is_in_recovery()`
	sqlSession  = `SELECT session, standby FROM message_store_shard.session($1::varchar)`
)

// An answering is a pool, a connection or a transaction.
type answering interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// An asker asks the store.
type asker struct {
	db      answering
	sharded bool
}

// askerOf returns what asks a store, on its pool.
func askerOf(ctx context.Context, store *mdb.Store) (asker, error) {
	sharded, err := besideOf(store).Sharded(ctx)
	return asker{store.Pool(), sharded}, err
}

func (a asker) statement(q *question, category string, args []any) (string, []any) {
	if a.sharded || q.ofCategory {
		args = append([]any{category}, args...)
	}
	if a.sharded {
		return q.shard, args
	}
	return q.table, args
}

func (a asker) rows(ctx context.Context, q question, category string, args ...any) pgx.Rows {
	sql, args := a.statement(&q, category, args)
	rows, _ := a.db.Query(ctx, sql, args...)
	return rows
}

func (a asker) row(ctx context.Context, q question, category string, args ...any) pgx.Row {
	sql, args := a.statement(&q, category, args)
	return a.db.QueryRow(ctx, sql, args...)
}

func (a asker) ends(ctx context.Context, categories []string) ([]int64, error) {
	sql := sqlEnds
	if a.sharded {
		sql = sqlEndsOnShards
	}
	rows, _ := a.db.Query(ctx, sql, categories)
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// upto returns the last message of a category up to a position, or the zero value.
func (a asker) upto(ctx context.Context, category string, position int64) (last source.Anchor, err error) {
	found, err := pgx.CollectRows(a.rows(ctx, askUpto, category, position), toAnchor)
	if err == nil && len(found) > 0 {
		last = found[0]
	}
	return last, err
}

// isThere reports whether the store has the message of an anchor. The time is not known of a message that could not be read.
func (a asker) isThere(ctx context.Context, category string, anchor ledger.Anchor) (there bool, err error) {
	err = a.row(ctx, askThere, category, anchor.ID.String(), pgtype.Timestamptz{Time: anchor.Time, Valid: !anchor.Time.IsZero()}).Scan(&there)
	return there, err
}

// place returns what the answers for a category are about: the category, or the whole store.
func (a asker) place(category string) string {
	if a.sharded {
		return category
	}
	return ""
}

// A server is one that answers.
type server struct {
	session string // of the proxy, on the shard
	standby bool
}

func (a asker) server(ctx context.Context, category string) (s server, err error) {
	if a.sharded {
		err = a.db.QueryRow(ctx, sqlSession, category).Scan(&s.session, &s.standby)
	} else {
		err = a.db.QueryRow(ctx, sqlRecovery).Scan(&s.standby)
	}
	return s, err
}

var errOtherSession = errors.New("the proxy has another session on the shard than before")

// unchanged returns an error if a proxy has another session on a shard than before. Answers of two sessions may be those of two servers,
// after a failover, or of two shards, after a move. They do not belong together.
func (a asker) unchanged(ctx context.Context, before map[string]server) error {
	if !a.sharded {
		return nil
	}
	for category, was := range before {
		is, err := a.server(ctx, category)
		if err != nil {
			return err
		}
		if is.session != was.session {
			return errOtherSession
		}
	}
	return nil
}
