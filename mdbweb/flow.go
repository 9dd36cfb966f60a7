package mdbweb

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// No index finds the messages that a message has caused, or those of the same correlation. They are written soon after it,
// as a rule, so the pages look at a limited number of messages after it, after the first of its causes, and, a fourth of it, before
// that. The causes are found by their places, however old they are.
const (
	maxCauses = 50
	// lookedAfter is how many messages are looked at first, and maxLookedAfter if the user asks for more.
	lookedAfter    = 10_000
	maxLookedAfter = 160_000
	maxCandidates  = 20_000
	maxFlow        = 120
)

const flowColumns = `m.id, m.stream_name, m.type, m.position, m.global_position, m.time,
	coalesce(pg_catalog.left(m.metadata->>'causationMessageStreamName', 2000), ''), coalesce(pg_catalog.left(m.metadata->>'causationMessagePosition', 20), ''),
	coalesce(pg_catalog.left(m.metadata->>'correlationStreamName', 2000), '')`

const sqlCause = `SELECT ` + flowColumns + ` FROM message_store.messages AS m WHERE m.stream_name = $1::text AND m.position = $2::bigint`

// $1: the position where the look begins; $2: how many messages; $3: correlations; $4: streams of causes; $5: how many at most.
const sqlFlow = `SELECT ` + flowColumns + `
FROM (SELECT * FROM message_store.messages WHERE global_position >= $1::bigint ORDER BY global_position LIMIT $2::integer) AS m
WHERE m.metadata->>'correlationStreamName' = ANY ($3::text[])
	OR m.metadata->>'correlationStreamName' IS NULL AND m.metadata->>'causationMessageStreamName' IS NOT NULL
	OR m.metadata->>'causationMessageStreamName' = ANY ($4::text[])
ORDER BY m.global_position LIMIT $5::integer`

// sqlBefore is the position that is a number of messages before another one.
const sqlBefore = `SELECT coalesce(pg_catalog.min(m.global_position), 0) FROM (
	SELECT global_position FROM message_store.messages WHERE global_position <= $1::bigint ORDER BY global_position DESC LIMIT $2::integer
) AS m`

// A step is a message of a flow, with what its metadata says of its cause and its correlation.
type step struct {
	ID             uuid.UUID
	Stream         string
	Type           string
	Position       int64
	GlobalPosition int64
	Time           time.Time
	Cause          place // Stream is empty if there is none
	Correlation    string
}

// A place identifies a message.
type place struct {
	Stream   string
	Position int64
}

func (s *step) place() place { return place{s.Stream, s.Position} }

func toStep(row pgx.CollectableRow) (s step, err error) {
	var (
		id       pgtype.UUID
		position string
	)
	err = row.Scan(&id, &s.Stream, &s.Type, &s.Position, &s.GlobalPosition, &s.Time, &s.Cause.Stream, &position, &s.Correlation)
	s.ID = id.Bytes
	n, parseErr := strconv.ParseInt(position, 10, 64)
	if parseErr != nil { // the metadata is somebody else's
		s.Cause = place{}
	}
	s.Cause.Position = n
	return s, err
}

// A flow is a message with its causes, its effects, and the messages of its correlation.
type flow struct {
	Steps  []step // by global position
	Looked int    // how many messages after it were looked at
	More   int    // how many are looked at if the user asks for more; 0: no more
	Hidden int    // messages that belong to the flow and are not shown
	// Lost says that the first cause is not in the store.
	Lost *place
}

// flowOf finds the flow of a message.
func flowOf(ctx context.Context, tx pgx.Tx, m *shown, look int) (f flow, err error) {
	self, err := stepAt(ctx, tx, place{string(m.Stream), m.Position})
	if err != nil || self == nil {
		return f, err
	}
	chain := []step{*self}
	known := map[place]step{self.place(): *self}
	for len(chain) <= maxCauses {
		cause := chain[len(chain)-1].Cause
		if _, ok := known[cause]; ok || cause.Stream == "" {
			break
		}
		next, err := stepAt(ctx, tx, cause)
		if err != nil {
			return f, err
		}
		if next == nil {
			f.Lost = &cause
			break
		}
		chain = append(chain, *next)
		known[next.place()] = *next
	}
	correlations, streams := []string{string(m.Stream)}, make([]string, 0, len(chain))
	for _, s := range chain {
		streams = append(streams, s.Stream)
		correlations = append(correlations, s.Stream)
		if s.Correlation != "" {
			correlations = append(correlations, s.Correlation)
		}
	}
	look = min(max(look, lookedAfter), maxLookedAfter)
	f.Looked = look + look/4
	if look < maxLookedAfter {
		f.More = look * 4
	}
	candidates := make(map[place]step)
	for _, from := range begins(chain, int64(look)) {
		var before int64
		if err := tx.QueryRow(ctx, sqlBefore, from, look/4).Scan(&before); err != nil {
			return f, err
		}
		rows, _ := tx.Query(ctx, sqlFlow, before, look+look/4, correlations, streams, maxCandidates)
		found, err := pgx.CollectRows(rows, toStep)
		if err != nil {
			return f, err
		}
		for _, s := range found {
			candidates[s.place()] = s
		}
	}
	f.Steps, f.Hidden = connected(self, known, candidates)
	return f, nil
}

// begins returns where to look: after the first cause, and after the message unless that is near.
func begins(chain []step, look int64) []int64 {
	self, first := chain[0].GlobalPosition, chain[len(chain)-1].GlobalPosition
	if self <= first || self-first < look/2 {
		return []int64{min(self, first)}
	}
	return []int64{first, self}
}

func stepAt(ctx context.Context, tx pgx.Tx, p place) (*step, error) {
	rows, _ := tx.Query(ctx, sqlCause, p.Stream, p.Position)
	found, err := pgx.CollectRows(rows, toStep)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

// connected returns those of the candidates that are effects of known ones, or have the same correlation as self. If there are
// too many, it returns the causes, and those that are near to self.
func connected(self *step, known, candidates map[place]step) (steps []step, hidden int) {
	effects := make(map[place][]step)
	for _, c := range candidates {
		if c.Cause.Stream != "" {
			effects[c.Cause] = append(effects[c.Cause], c)
		}
	}
	near := func(s step) int64 {
		return max(s.GlobalPosition-self.GlobalPosition, self.GlobalPosition-s.GlobalPosition)
	}
	var rest []step
	taken := make(map[place]bool)
	var queue []step
	for _, s := range known {
		taken[s.place()] = true
		steps = append(steps, s)
		queue = append(queue, s)
	}
	take := func(s step) {
		if !taken[s.place()] {
			taken[s.place()] = true
			rest = append(rest, s)
			queue = append(queue, s)
		}
	}
	if self.Correlation != "" {
		for _, c := range candidates {
			if c.Correlation == self.Correlation {
				take(c)
			}
		}
	}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		for _, e := range effects[s.place()] {
			take(e)
		}
	}
	slices.SortFunc(rest, func(a, b step) int {
		return cmp.Or(cmp.Compare(near(a), near(b)), cmp.Compare(a.GlobalPosition, b.GlobalPosition))
	})
	if room := max(maxFlow-len(steps), 0); len(rest) > room {
		hidden = len(rest) - room
		rest = rest[:room]
	}
	steps = append(steps, rest...)
	slices.SortFunc(steps, func(a, b step) int { return cmp.Compare(a.GlobalPosition, b.GlobalPosition) })
	return steps, hidden
}
