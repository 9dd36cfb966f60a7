package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
)

// partSize is the number of messages that a transaction copies. A reader of all categories of the new shard waits for it.
const partSize = 10_000

// querier is implemented by *pgx.Conn, pgx.Tx and *pgxpool.Pool.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// ofCategory selects the messages of a category, $1, after a global position, $2, by its index.
const ofCategory = ` FROM message_store.messages
WHERE (message_store.category(stream_name), global_position) > ($1::varchar, $2::bigint) AND message_store.category(stream_name) <= $1::varchar
ORDER BY message_store.category(stream_name), global_position`

// lastOf returns the global position of the category's last message, or 0.
func lastOf(ctx context.Context, db querier, category mdb.Category) (last int64, err error) {
	err = db.QueryRow(ctx, `SELECT coalesce(max(global_position), 0) FROM (SELECT global_position FROM message_store.messages
WHERE (message_store.category(stream_name), global_position) <= ($1::varchar, 9223372036854775807) AND message_store.category(stream_name) >= $1::varchar
ORDER BY message_store.category(stream_name) DESC, global_position DESC LIMIT 1) AS m`, string(category)).Scan(&last)
	return last, err
}

func lockCategory(ctx context.Context, tx pgx.Tx, category mdb.Category) error {
	_, err := tx.Exec(ctx, `SELECT message_store.acquire_lock($1::varchar)`, string(category))
	return err
}

// copyPart copies the messages that follow the last one on the new shard, and returns their number. It is less than
// partSize after the last part.
func (s *move) copyPart(ctx context.Context, from *pgx.Conn) (n int64, err error) {
	last, err := lastOf(ctx, s.To, s.Category)
	if err != nil {
		return 0, err
	}
	if err := s.same(ctx, from, last); err != nil {
		return 0, err
	}
	var end int64
	err = from.QueryRow(ctx, `SELECT count(*), coalesce(max(global_position), 0) FROM (SELECT global_position`+ofCategory+` LIMIT $3::bigint) AS m`,
		string(s.Category), last, int64(partSize)).Scan(&n, &end)
	if err != nil || n == 0 {
		return 0, err
	}
	err = inTx(ctx, s.To, func(tx pgx.Tx) error {
		// As a writer does, for those who read all categories: first the lock, then positions, then messages.
		if err := lockCategory(ctx, tx, s.Category); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE message_store_shard.closed SET writer = pg_catalog.pg_current_xact_id() WHERE category = $1`, string(s.Category)); err != nil {
			return err
		}
		if s.broken != withoutSequence {
			if err := draw(ctx, tx, end); err != nil {
				return err
			}
		}
		copied, err := transfer(ctx, from, tx.Conn(), s.Category, last, end)
		if err == nil && copied != n {
			err = fmt.Errorf("%d of %d messages were copied; were messages deleted meanwhile?", copied, n)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	s.done.Copied += n
	if s.Progress != nil {
		s.Progress(s.done.Copied)
	}
	return n, nil
}

// same checks that the last message on the new shard is that of the old one.
func (s *move) same(ctx context.Context, from querier, last int64) error {
	if last == 0 {
		return nil
	}
	const id = `SELECT id::text FROM message_store.messages WHERE global_position = $1`
	var here, there string
	if err := s.To.QueryRow(ctx, id, last).Scan(&there); err != nil {
		return err
	}
	if err := from.QueryRow(ctx, id, last).Scan(&here); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if here != there {
		return fmt.Errorf("the message at global position %d of the new shard is not that of the old one: abort the move, and begin again", last)
	}
	return nil
}

// columnsOfMessages are all columns of a message, in the same order on both shards.
const columnsOfMessages = `id, stream_name, type, position, global_position, data, metadata, time`

// transfer copies messages from one server to another one, without keeping them in memory.
func transfer(ctx context.Context, from, to *pgx.Conn, category mdb.Category, after, end int64) (int64, error) {
	// COPY takes no arguments.
	quoted := "'" + strings.ReplaceAll(string(category), "'", "''") + "'"
	source := fmt.Sprintf(`COPY (SELECT %s FROM message_store.messages
WHERE (message_store.category(stream_name), global_position) > (%s::varchar, %d) AND (message_store.category(stream_name), global_position) <= (%s::varchar, %d)
ORDER BY message_store.category(stream_name), global_position) TO STDOUT (FORMAT binary)`, columnsOfMessages, quoted, after, quoted, end)
	r, w := io.Pipe()
	read := make(chan error, 1)
	go func() {
		_, err := from.PgConn().CopyTo(ctx, w, source)
		_ = w.CloseWithError(err) // which never fails
		read <- err
	}()
	tag, err := to.PgConn().CopyFrom(ctx, r, `COPY message_store.messages (`+columnsOfMessages+`) FROM STDIN (FORMAT binary)`)
	_ = r.CloseWithError(errors.Join(err, io.ErrClosedPipe)) // which never fails
	if readErr := <-read; err == nil || errors.Is(err, readErr) {
		err = readErr
	}
	return tag.RowsAffected(), err
}

// removeAll deletes all messages of the category, the last ones first: what is left is what a copy begins with.
func (m *Mover) removeAll(ctx context.Context, pool *pgxpool.Pool) (sum int64, err error) {
	for {
		tag, err := pool.Exec(ctx, `DELETE FROM message_store.messages WHERE global_position = ANY (ARRAY(
	SELECT global_position FROM message_store.messages
	WHERE (message_store.category(stream_name), global_position) <= ($1::varchar, 9223372036854775807) AND message_store.category(stream_name) >= $1::varchar
	ORDER BY message_store.category(stream_name) DESC, global_position DESC LIMIT $2::bigint))`, string(m.Category), int64(partSize))
		if err != nil {
			return sum, err
		}
		sum += tag.RowsAffected()
		if m.Progress != nil {
			m.Progress(sum)
		}
		if tag.RowsAffected() < partSize {
			return sum, nil
		}
	}
}
