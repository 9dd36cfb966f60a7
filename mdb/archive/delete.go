package archive

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
)

// Old says which messages are deleted: those of a stream or of a category that come before a position or a time, except the last
// message of each stream. Without the last message, the stream would begin at position 0 again, and subscriptions to it would end with a
// [*mdb.ForkError].
type Old struct {
	// Stream or Category is whose messages are deleted. One of them must be given.
	Stream   mdb.StreamName
	Category mdb.Category

	// Before is the first position that is kept, or 0 for any: a position in the stream, or a global position for a category.
	Before int64

	// BeforeTime is the time before which messages are deleted, or zero for any. One of Before and BeforeTime must be given; a
	// message must be before both. Times do not have the order of positions, so all messages of the stream or category are
	// looked at.
	BeforeTime time.Time

	// KeepFrom is the first global position that is kept in any case, for example because a consumer has not handled what
	// follows, or 0 for none.
	KeepFrom int64
}

// Count returns the number of messages that [Delete] would delete. It looks at 10,000 messages in each statement. The role needs
// the privilege to read the table messages.
func Count(ctx context.Context, pool *pgxpool.Pool, old Old) (int64, error) {
	return old.each(ctx, pool, counting, nil)
}

// Delete deletes old messages, and returns their number. Each statement looks at 10,000 messages and is committed by
// itself, so that VACUUM can follow, and that a deletion which was interrupted can be continued by the same call. It
// takes no lock that writers wait for. progress is called after each statement, if it is not nil, with the number of messages that are deleted
// so far.
//
// The role needs the privilege to delete from the table messages, which its owner has. Otherwise the error is an
// [*mdb.SetupError].
//
// Delete only what all subscriptions and consumers have handled, and leave what they know: a checkpoint contains the last handled
// message and up to 16 before it. If none of them is in the store, a subscription ends with a [*mdb.ForkError].
func Delete(ctx context.Context, pool *pgxpool.Pool, old Old, progress func(deleted int64)) (int64, error) {
	if err := old.check(); err != nil {
		return 0, err
	}
	var allowed bool
	if err := pool.QueryRow(ctx, `SELECT has_table_privilege('message_store.messages', 'DELETE')`).Scan(&allowed); err != nil {
		return 0, fmt.Errorf("archive: delete messages: %w", err)
	}
	if !allowed {
		return 0, &mdb.SetupError{Problem: "the role may not delete messages", Remedy: "connect as the owner of the table message_store.messages"}
	}
	return old.each(ctx, pool, deleting, progress)
}

func (o *Old) check() error {
	var wrong faults
	switch {
	case o.Stream == "" && o.Category == "":
		wrong.add("name", "none", "a stream or a category")
	case o.Stream != "" && o.Category != "":
		wrong.add("name", "a stream and a category", "one of them")
	case o.Category != "":
		wrong.category(o.Category)
	case o.Stream.Category() == "" || o.Stream.ID() == "":
		wrong.add("stream", strconv.Quote(string(o.Stream)), "a stream name, which is a category, a dash and an id")
	}
	wrong.position("first position that is kept", o.KeepFrom)
	if wrong.position("before", o.Before); o.Before == 0 && o.BeforeTime.IsZero() {
		wrong.add("before", "neither a position nor a time", "one of them")
	}
	return wrong.err()
}

const (
	counting = `
SELECT (SELECT count(*) FROM old)`
	deleting = `, deleted AS (
	DELETE FROM message_store.messages WHERE global_position = ANY (ARRAY(SELECT global_position FROM old)) RETURNING 1
)
SELECT (SELECT count(*) FROM deleted)`
)

// lookedAt is the number of messages that a statement looks at.
const lookedAt = 10000

// each counts or deletes the messages, part by part, and returns their number.
func (o *Old) each(ctx context.Context, pool *pgxpool.Pool, do string, progress func(int64)) (sum int64, err error) {
	if err := o.check(); err != nil {
		return 0, err
	}
	// As in direct SQL of package mdb, only the index of the category fits.
	name, looked := string(o.Stream), `position AS place FROM message_store.messages
	WHERE stream_name = $1::text AND position >= $2::bigint AND position < $3::bigint
	ORDER BY position`
	if o.Category != "" {
		name, looked = string(o.Category), `global_position AS place FROM message_store.messages
	WHERE (message_store.category(stream_name), global_position) >= ($1::varchar, $2::bigint)
		AND (message_store.category(stream_name), global_position) < ($1::varchar, $3::bigint)
	ORDER BY message_store.category(stream_name), global_position`
	}
	sql := `WITH looked AS MATERIALIZED (
	SELECT global_position, stream_name, position, time, ` + looked + ` LIMIT $5::bigint
), old AS (
	SELECT global_position FROM looked
	WHERE ($4::text = '' OR time < nullif($4::text, '')::timestamp) AND global_position < $6::bigint AND EXISTS (
		SELECT FROM message_store.messages AS later
		WHERE later.stream_name = looked.stream_name AND later.position > looked.position)
)` + do + `, (SELECT max(place) FROM looked), (SELECT count(*) FROM looked)`
	orNone := func(position int64) int64 { return cmp.Or(position, math.MaxInt64) }
	beforeTime := ""
	if !o.BeforeTime.IsZero() {
		beforeTime = o.BeforeTime.UTC().Format("2006-01-02 15:04:05.999999")
	}
	for from := int64(0); ; {
		var found, count int64
		var last *int64
		if err := pool.QueryRow(ctx, sql, name, from, orNone(o.Before), beforeTime, int64(lookedAt), orNone(o.KeepFrom)).Scan(&found, &last, &count); err != nil {
			return sum, fmt.Errorf("archive: delete messages: %w", err)
		}
		sum += found
		if progress != nil {
			progress(sum)
		}
		if count < lookedAt {
			return sum, nil
		}
		from = *last + 1
	}
}
