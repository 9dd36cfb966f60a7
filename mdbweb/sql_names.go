package mdbweb

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Names are found by loose index scans: each step looks up the next name in an index, so the
// cost is that of the names, not of the messages. A prefix selects names by their beginning. In most
// collations names of the same beginning are not exactly one range, so the walk begins at the prefix and
// skips what does not fit, for a limited number of steps.
const (
	// maxSteps is how many names a walk looks at.
	maxSteps = 3000
	// pageNames is the number of names of a page.
	pageNames = 50
)

// $1: where to begin; $2: the prefix; $3: a name to leave out, with which the page before has ended; $4: names; $5: steps.
const sqlCategories = `WITH RECURSIVE walk(name, fits, fitting, steps) AS (
	SELECT m.name, m.fits, m.fits::integer, 1 FROM (
		SELECT m.name, pg_catalog.starts_with(m.name, $2::text) AND m.name <> $3::text AS fits FROM (
			SELECT message_store.category(m.stream_name)::text AS name FROM message_store.messages AS m
			WHERE message_store.category(m.stream_name) >= $1::varchar ORDER BY message_store.category(m.stream_name) LIMIT 1) AS m) AS m
	UNION ALL
	SELECT m.name, m.fits, w.fitting + m.fits::integer, w.steps + 1
	FROM walk AS w CROSS JOIN LATERAL (
		SELECT m.name, pg_catalog.starts_with(m.name, $2::text) AND m.name <> $3::text AS fits FROM (
			SELECT message_store.category(m.stream_name)::text AS name FROM message_store.messages AS m
			WHERE message_store.category(m.stream_name) > w.name::varchar ORDER BY message_store.category(m.stream_name) LIMIT 1) AS m) AS m
	WHERE w.fitting < $4::integer AND w.steps < $5::integer
)
SELECT w.name, l.position, l.global_position, l.type, l.time, (SELECT pg_catalog.max(steps) FROM walk)
FROM walk AS w CROSS JOIN LATERAL (
	SELECT m.position, m.global_position, m.type, m.time FROM message_store.messages AS m
	WHERE message_store.category(m.stream_name) >= w.name::varchar AND message_store.category(m.stream_name) <= w.name::varchar
	ORDER BY message_store.category(m.stream_name) DESC, m.global_position DESC LIMIT 1
) AS l
WHERE w.fits ORDER BY w.steps`

// The parameters are those of sqlCategories.
const sqlStreams = `WITH RECURSIVE walk(name, fits, fitting, steps) AS (
	SELECT m.name, m.fits, m.fits::integer, 1 FROM (
		SELECT m.name, pg_catalog.starts_with(m.name, $2::text) AND m.name <> $3::text AS fits FROM (
			SELECT m.stream_name AS name FROM message_store.messages AS m WHERE m.stream_name >= $1::text ORDER BY m.stream_name LIMIT 1) AS m) AS m
	UNION ALL
	SELECT m.name, m.fits, w.fitting + m.fits::integer, w.steps + 1
	FROM walk AS w CROSS JOIN LATERAL (
		SELECT m.name, pg_catalog.starts_with(m.name, $2::text) AND m.name <> $3::text AS fits FROM (
			SELECT m.stream_name AS name FROM message_store.messages AS m WHERE m.stream_name > w.name ORDER BY m.stream_name LIMIT 1) AS m) AS m
	WHERE w.fitting < $4::integer AND w.steps < $5::integer
)
SELECT w.name, l.position, l.global_position, l.type, l.time, (SELECT pg_catalog.max(steps) FROM walk)
FROM walk AS w CROSS JOIN LATERAL (
	SELECT m.position, m.global_position, m.type, m.time FROM message_store.messages AS m
	WHERE m.stream_name = w.name ORDER BY m.position DESC LIMIT 1
) AS l
WHERE w.fits ORDER BY w.steps`

// sqlActive returns the streams of the last messages, of which it looks at $1.
const sqlActive = `SELECT l.stream_name, l.position, l.global_position, l.type, l.time, 0
FROM (
	SELECT DISTINCT ON (m.stream_name) m.stream_name, m.position, m.global_position, m.type, m.time
	FROM (SELECT stream_name, position, global_position, type, time FROM message_store.messages ORDER BY global_position DESC LIMIT $1::integer) AS m
	ORDER BY m.stream_name, m.global_position DESC
) AS l ORDER BY l.global_position DESC LIMIT $2::integer`

// sqlCount counts the messages of each category up to a limit. The range has equal ends, and not an equality, with which
// PostgreSQL may scan the whole table.
const sqlCount = `SELECT c.name, (
	SELECT pg_catalog.count(*) FROM (
		SELECT FROM message_store.messages AS m
		WHERE message_store.category(m.stream_name) >= c.name::varchar AND message_store.category(m.stream_name) <= c.name::varchar
		ORDER BY message_store.category(m.stream_name), m.global_position LIMIT $2::integer) AS m
) FROM pg_catalog.unnest($1::text[]) AS c(name)`

// A named is a category or a stream with its last message.
type named struct {
	Name           string
	Position       int64
	GlobalPosition int64
	Type           string
	Time           time.Time
	steps          int
}

// names are a page of names.
type names struct {
	List []named
	Next string // the last name, if there may be more
	// Ended says that the search has ended before it had found enough.
	Ended bool
}

// walk returns the names with a prefix after another one, of the statement that finds those of categories or of streams.
func walk(ctx context.Context, tx pgx.Tx, sql, prefix, after string) (n names, err error) {
	begin := prefix
	if after != "" {
		begin = after
	}
	rows, _ := tx.Query(ctx, sql, begin, prefix, after, pageNames+1, maxSteps)
	if n.List, err = pgx.CollectRows(rows, toNamed); err != nil {
		return n, err
	}
	switch {
	case len(n.List) > pageNames:
		n.List = n.List[:pageNames]
		n.Next = n.List[pageNames-1].Name
	case len(n.List) > 0 && n.List[0].steps >= maxSteps:
		n.Ended = true
	}
	return n, nil
}

func toNamed(row pgx.CollectableRow) (n named, err error) {
	return n, row.Scan(&n.Name, &n.Position, &n.GlobalPosition, &n.Type, &n.Time, &n.steps)
}

// counts returns how many messages the categories have.
func counts(ctx context.Context, tx pgx.Tx, categories []string) (map[string]count, error) {
	found := make(map[string]count, len(categories))
	if len(categories) == 0 {
		return found, nil
	}
	rows, _ := tx.Query(ctx, sqlCount, categories, maxCount+1)
	var (
		name string
		n    int64
	)
	_, err := pgx.ForEachRow(rows, []any{&name, &n}, func() error {
		found[name] = count{N: min(n, maxCount), More: n > maxCount}
		return nil
	})
	return found, err
}
