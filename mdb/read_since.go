package mdb

import (
	"context"
	"strings"
	"time"
)

// DefaultTimeMargin is how long before its time [Since] begins to read, see [TimeMargin].
const DefaultTimeMargin = time.Minute

// Since selects the messages that were written at a time or later, in the order of positions. The
// time of a message is that of the beginning of its transaction, so it may be earlier than that of
// a message before it. Since therefore begins to read at an earlier position, which it finds by a
// binary search in one more round trip, and drops what is older. It finds all messages of transactions
// that took less than [TimeMargin] from their beginning to their last write, but not those that were imported
// with times of their own.
//
// It reads the table messages, with or without [WithDirectSQL]; if the role may not do that, the
// error is a [*SetupError]. It cannot be combined with a position or with [Backwards], and subscriptions
// reject it.
func Since(t time.Time) ReadOption {
	return readOption(func(c *readConfig) {
		if y := t.UTC().Year(); y < 1 || y > 9999 {
			c.faults.add("time", t.String(), "a year from 1 to 9999")
			return
		}
		c.since = &t
	})
}

// TimeMargin sets how long before its time [Since] begins to read. A read with a longer margin drops
// more messages, and finds those of longer transactions. The default is [DefaultTimeMargin].
func TimeMargin(d time.Duration) ReadOption {
	return readOption(func(c *readConfig) {
		if d < 0 {
			c.faults.add("time margin", d.String(), "at least 0")
			return
		}
		c.margin = &d
	})
}

// checkSince rejects what Since cannot be combined with.
func (c *readConfig) checkSince() {
	switch {
	case c.since == nil && c.margin != nil:
		c.faults.add("time margin", "one without Since", "Since, too")
	case c.since != nil && c.positioned:
		c.faults.add("start", "Since and a position", "one of them")
	case c.since != nil && c.backwards:
		c.faults.add("order", "Since and Backwards", "one of them")
	}
}

// findSince finds where a read with [Since] begins, before its first page.
func (s *procedures) findSince(ctx context.Context, r *pageRead) error {
	if r.since == nil || r.sought {
		return nil
	}
	margin := DefaultTimeMargin
	if r.margin != nil {
		margin = *r.margin
	}
	begin := r.since.Add(-margin).UTC()
	if begin.Year() < 1 || begin.Year() > 9999 { // the margin is longer than all history
		begin = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	st, args := sinceInAll, []any{begin.Format("2006-01-02 15:04:05.000000"), r.name}
	switch {
	case r.isStream:
		st = sinceInStream
	case r.all == nil:
		st = sinceInCategory
	default:
		args = args[:1]
	}
	if err := s.run(ctx, st, number(&r.position), args...); err != nil {
		return r.explain(err)
	}
	r.sought = true
	return nil
}

// keepSince drops the messages of a step that are too old.
func (r *pageRead) keepSince() {
	if r.since == nil {
		return
	}
	kept := r.messages[:0]
	for _, m := range r.messages {
		if !m.Time.Before(*r.since) {
			kept = append(kept, m)
		}
	}
	clear(r.messages[len(kept):])
	if r.messages = kept; len(kept)+len(r.page) == 0 {
		r.bytes = 0
	}
}

// sinceSQL is a binary search for a message that is not older than a time. Below low there is an older one, or
// none; what comes after high is not older.
const sinceSQL = `WITH RECURSIVE search AS (
	SELECT {first}::bigint AS low, coalesce((
		SELECT {position} FROM message_store.messages {where} ORDER BY {last} LIMIT 1), {first} - 1) + 1 AS high
	UNION ALL
	SELECT CASE WHEN m.time < (SELECT $1::text::timestamp) THEN m.position + 1 ELSE s.low END,
		CASE WHEN m.time < (SELECT $1::text::timestamp) THEN s.high ELSE s.middle END
	FROM (SELECT low, high, low + (high - low) / 2 AS middle FROM search WHERE low < high) AS s
	LEFT JOIN LATERAL (
		SELECT {position} AS position, time FROM message_store.messages
		WHERE {from} AND {position} < s.high
		ORDER BY {order} LIMIT 1) AS m ON true
)
SELECT low FROM search WHERE low >= high`

func sinceStatement(name string, parts ...string) *statement {
	return newStatement(name, strings.NewReplacer(parts...).Replace(sinceSQL))
}

var (
	sinceInAll = sinceStatement("since_in_all", "{first}", "1", "{position}", "global_position", "{where}", "",
		"{from}", "global_position >= s.middle", "{order}", "global_position", "{last}", "global_position DESC")
	sinceInCategory = sinceStatement("since_in_category", "{first}", "1", "{position}", "global_position",
		"{where}", "WHERE message_store.category(stream_name) >= (SELECT $2::varchar) AND message_store.category(stream_name) <= (SELECT $2::varchar)",
		"{from}", "(message_store.category(stream_name), global_position) >= ((SELECT $2::varchar), s.middle) AND message_store.category(stream_name) <= (SELECT $2::varchar)",
		"{order}", "message_store.category(stream_name), global_position",
		"{last}", "message_store.category(stream_name) DESC, global_position DESC")
	sinceInStream = sinceStatement("since_in_stream", "{first}", "0", "{position}", "position",
		"{where}", "WHERE stream_name = (SELECT $2::text)",
		"{from}", "stream_name = (SELECT $2::text) AND position >= s.middle", "{order}", "position", "{last}", "position DESC")
)
