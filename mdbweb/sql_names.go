package mdbweb

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/loosescan"
)

// pageNames is the number of names of a page.
const pageNames = 50

// The parameters are those of the walk, $4 the prefix, and $5 a name to leave out, with which the page before has ended. In most
// collations names of the same beginning are not exactly one range, so the walk begins at the prefix and skips what does not
// fit.
const ofPage = `pg_catalog.starts_with(m.name, $4::text) AND m.name <> $5::text`

var (
	sqlCategories = loosescan.Walk(loosescan.Category, ofPage) + selectLast + `
	WHERE message_store.category(m.stream_name) >= w.name::varchar AND message_store.category(m.stream_name) <= w.name::varchar
	ORDER BY message_store.category(m.stream_name) DESC, m.global_position DESC LIMIT 1` + inOrder

	sqlStreams = loosescan.Walk(loosescan.Stream, ofPage) + selectLast + `
	WHERE m.stream_name = w.name ORDER BY m.position DESC LIMIT 1` + inOrder
)

const (
	selectLast = `SELECT w.name, l.position, l.global_position, l.type, l.time, (SELECT pg_catalog.max(steps) FROM walk)
FROM walk AS w CROSS JOIN LATERAL (
	SELECT m.position, m.global_position, m.type, m.time FROM message_store.messages AS m`
	inOrder = `
) AS l
WHERE w.fits ORDER BY w.steps`
)

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
	rows, _ := tx.Query(ctx, sql, begin, pageNames+1, loosescan.MaxSteps, prefix, after)
	if n.List, err = pgx.CollectRows(rows, toNamed); err != nil {
		return n, err
	}
	switch {
	case len(n.List) > pageNames:
		n.List = n.List[:pageNames]
		n.Next = n.List[pageNames-1].Name
	case len(n.List) > 0 && n.List[0].steps >= loosescan.MaxSteps:
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
