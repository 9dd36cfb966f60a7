package mdb

import (
	"strings"

	"github.com/messagedb-go/messagedb/internal/barrier"
)

// The statements that read all categories, which read the table in any store. As those of
// direct SQL, they have one plan for all arguments. $1 is the position where the read begins, and $2
// the last one that it may look at.
const (
	// A statement with a filter looks at a limited number of messages, so that no statement is
	// long. It returns those that are selected, and the last one that it has looked at, without
	// data if that is not selected. Nothing is left between the two.
	chosenMessages = `, found AS MATERIALIZED (
	SELECT global_position FROM looked WHERE wanted ORDER BY global_position {DESC} LIMIT (SELECT $3::bigint)
), chosen AS (
	SELECT global_position FROM found
	UNION ALL
	SELECT {max}(global_position) FROM looked WHERE (SELECT count(*) FROM found) < (SELECT $3::bigint)
)
SELECT id, stream_name, type, position, global_position,
	CASE WHEN {wanted} THEN data END AS data, CASE WHEN {wanted} THEN metadata END AS metadata, time
FROM message_store.messages
WHERE global_position = ANY (ARRAY(SELECT global_position FROM chosen))
ORDER BY global_position {DESC}`

	ofTypes = `(type = ANY ((SELECT $5::text[])::text[]))`

	lookedInAll = `WITH looked AS MATERIALIZED (
	SELECT global_position, {wanted} AS wanted FROM message_store.messages
	WHERE global_position {>=} (SELECT $1::bigint) AND global_position {<=} (SELECT $2::bigint)
	ORDER BY global_position {DESC} LIMIT (SELECT $4::bigint)
)`

	// One range of the index for each category. What is looked at ends where the first of the
	// ranges ends that were not looked at to their ends.
	lookedInCategories = `WITH ranges AS MATERIALIZED (
	SELECT m.global_position, m.wanted, count(*) OVER (PARTITION BY c.name) AS looked, {max}(m.global_position) OVER (PARTITION BY c.name) AS last
	FROM unnest($6::text[]) AS c(name), LATERAL (
		SELECT global_position, {wanted} AS wanted FROM message_store.messages
		WHERE (message_store.category(stream_name), global_position) {>=} (c.name::varchar, (SELECT $1::bigint))
			AND message_store.category(stream_name) {<=} c.name::varchar AND global_position {<=} (SELECT $2::bigint)
		ORDER BY message_store.category(stream_name) {DESC}, global_position {DESC} LIMIT (SELECT $4::bigint)) AS m
), looked AS MATERIALIZED (
	SELECT global_position, wanted FROM ranges
	WHERE global_position {<=} coalesce((SELECT {min}(last) FROM ranges WHERE looked >= (SELECT $4::bigint)), global_position)
)`

	// $5 is NULL.
	ofAnyType = `((SELECT $5::text[]) IS NULL)`
)

// allStatements are the statements that read all categories in one direction.
type allStatements struct{ all, ofTypes, inCategories, ofTypesInCategories, identify *statement }

func newAllStatements(suffix string, backwards bool) allStatements {
	directed := []string{"{>=}", ">=", "{<=}", "<=", "{max}", "max", "{min}", "min", " {DESC}", ""}
	if backwards {
		directed = []string{"{>=}", "<=", "{<=}", ">=", "{max}", "min", "{min}", "max", " {DESC}", " DESC"}
	}
	build := func(name, sql, wanted string) *statement {
		return newStatement(name+suffix, strings.NewReplacer(append(directed, "{wanted}", wanted)...).Replace(sql))
	}
	return allStatements{
		all: build("all_messages", directColumns+`
WHERE global_position {>=} (SELECT $1::bigint) ORDER BY global_position {DESC} LIMIT (SELECT $2::bigint)`, ""),
		ofTypes:             build("all_of_types", lookedInAll+chosenMessages, ofTypes),
		inCategories:        build("all_in_categories", lookedInCategories+chosenMessages, ofAnyType),
		ofTypesInCategories: build("all_of_types_in_categories", lookedInCategories+chosenMessages, ofTypes),
		identify: build("identify_in_all", identifyingColumns+`
WHERE global_position {>=} (SELECT $1::bigint) AND global_position {<=} (SELECT $2::bigint)
	AND ((SELECT $3::text[]) IS NULL OR type = ANY ((SELECT $3::text[])::text[]))
	AND ((SELECT $4::text[]) IS NULL OR message_store.category(stream_name) = ANY ((SELECT $4::text[])::text[]))
ORDER BY global_position {DESC} LIMIT 1`, ""),
	}
}

var (
	barrierDrawn    = newStatement("barrier_drawn", barrier.DrawnSQL)
	barrierHolders  = newStatement("barrier_holders", barrier.HoldersSQL)
	barrierLeft     = newStatement("barrier_left", barrier.LeftSQL)
	barrierSessions = newStatement("barrier_sessions", barrier.SessionsSQL)

	allForwards  = newAllStatements("", false)
	allBackwards = newAllStatements("_backwards", true)

	// The last of the positions that follow the given one without a gap, of a limited number, and
	// whether there are any. A gap is what drawn.missing reports.
	contiguousInAll = newStatement("contiguous_in_all", `WITH sequence AS MATERIALIZED (
	SELECT `+barrier.StrideSQL+` AS stride, d.seqstart AS start
	FROM message_store.messages_global_position_seq AS s, pg_catalog.pg_sequence AS d
	WHERE d.seqrelid = 'message_store.messages_global_position_seq'::regclass
), following AS MATERIALIZED (
	SELECT global_position, coalesce(lag(global_position) OVER (ORDER BY global_position), (SELECT $1::bigint)) AS before FROM message_store.messages
	WHERE global_position > (SELECT $1::bigint) ORDER BY global_position LIMIT (SELECT $2::bigint)
)
SELECT coalesce(max(global_position) FILTER (WHERE NOT gap), (SELECT $1::bigint)), count(*) > 0
FROM (
	SELECT global_position, bool_or((global_position - 1) / stride + ((global_position - 1) % stride >= start % stride)::int
		> before / stride + (before % stride >= start % stride)::int) OVER (ORDER BY global_position) AS gap
	FROM following, sequence
) AS m`)

	beforeInAll = newStatement("before_in_all", categoryAnchor+`WHERE global_position <= (SELECT $1::bigint) ORDER BY global_position DESC LIMIT 1`)

	// The positions are a text, because a statement with an array costs more.
	latestInAll = newStatement("latest_in_all", categoryAnchor+`WHERE global_position = ANY ((SELECT $1::text::bigint[])::bigint[])`)
)
