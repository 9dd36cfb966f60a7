// Package loosescan finds the names of categories and streams that have messages. In a loose index scan each step looks
// up the next name in an index, so the cost is that of the names, not of the messages.
package loosescan

const (
	// Category is the SQL expression for the category of a message m, as its index has it.
	Category = "message_store.category(m.stream_name)"
	// Stream is that for its stream.
	Stream = "m.stream_name"

	// MaxSteps is how many names a scan may look at.
	MaxSteps = 3000

	// ByIndex follows the BEGIN of a transaction and keeps the planner to the indexes. It may otherwise expect to read and
	// sort a whole category faster than by its index. The costs of what is off would start the compiler.
	ByIndex = "; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off; SET LOCAL jit = off"
)

// Walk returns the WITH clause of a statement. Its table walk has a row for each name that the scan has looked at: name,
// fits, and its number in steps. The key is Category or Stream, and fits an SQL expression about m.name.
//
// Its parameters are where to begin ($1), and how many names that fit ($2) and how many steps ($3) are enough.
func Walk(key, fits string) string {
	next := func(operator, begin string) string {
		return `(
		SELECT m.name, ` + fits + ` AS fits FROM (
			SELECT ` + key + `::text AS name FROM message_store.messages AS m
			WHERE ` + key + ` ` + operator + ` ` + begin + `::varchar ORDER BY ` + key + ` LIMIT 1) AS m) AS m`
	}
	return `WITH RECURSIVE walk(name, fits, fitting, steps) AS (
	SELECT m.name, m.fits, m.fits::integer, 1 FROM ` + next(">=", "$1") + `
	UNION ALL
	SELECT m.name, m.fits, w.fitting + m.fits::integer, w.steps + 1
	FROM walk AS w CROSS JOIN LATERAL ` + next(">", "w.name") + `
	WHERE w.fitting < $2::integer AND w.steps < $3::integer
)
`
}
