package mdb

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/scan"
	"github.com/messagedb-go/messagedb/internal/source"
)

// The statements that look for messages by their anchors. None of them reads a payload.
const (
	streamAnchor   = `SELECT position, id, time FROM message_store.messages `
	categoryAnchor = `SELECT global_position, id, time FROM message_store.messages `

	anchorsOfStream   = `WHERE stream_name = (SELECT $1::text) `
	anchorsOfCategory = `WHERE message_store.category(stream_name) >= (SELECT $1::varchar) AND message_store.category(stream_name) <= (SELECT $1::varchar) `
)

var (
	lookInStream   = newStatement("look_in_stream", streamAnchor+`WHERE stream_name = $1::text AND position = $2::bigint`)
	lookInCategory = newStatement("look_in_category", categoryAnchor+`WHERE global_position = $1::bigint`)

	lastInStream   = newStatement("last_in_stream", streamAnchor+anchorsOfStream+`ORDER BY position DESC LIMIT 1`)
	lastInCategory = newStatement("last_in_category", categoryAnchor+anchorsOfCategory+
		`ORDER BY message_store.category(stream_name) DESC, global_position DESC LIMIT 1`)

	beforeInStream   = newStatement("before_in_stream", streamAnchor+anchorsOfStream+`AND position <= (SELECT $2::bigint) ORDER BY position DESC LIMIT 1`)
	beforeInCategory = newStatement("before_in_category", categoryAnchor+`
WHERE message_store.category(stream_name) >= (SELECT $1::varchar)
	AND (message_store.category(stream_name), global_position) <= ((SELECT $1::varchar), (SELECT $2::bigint))
ORDER BY message_store.category(stream_name) DESC, global_position DESC LIMIT 1`)

	compareInStream   = newStatement("compare_in_stream", streamAnchor+`WHERE stream_name = $1::text AND position = ANY ($2::bigint[])`)
	compareInCategory = newStatement("compare_in_category", categoryAnchor+`WHERE global_position = ANY ($1::bigint[])`)

	// A standby may not have a message yet, unless it has a later one.
	recovery        = newStatement("recovery", `SELECT pg_is_in_recovery()`)
	laterInStream   = newStatement("later_in_stream", streamAnchor+anchorsOfStream+`AND position >= (SELECT $2::bigint) ORDER BY position LIMIT 1`)
	laterInCategory = newStatement("later_in_category", categoryAnchor+directCategoryRange+`
ORDER BY message_store.category(stream_name), global_position LIMIT 1`)

	// The last number of the sequence, or NULL on a standby, on a proxy, and for a role that
	// may not read it.
	lastNumber = newStatement("last_number", `SELECT CASE
	WHEN has_sequence_privilege(to_regclass('message_store.messages_global_position_seq'), 'USAGE, SELECT') AND NOT pg_is_in_recovery()
	THEN coalesce(pg_sequence_last_value(to_regclass('message_store.messages_global_position_seq')), 0) END`)

	// A sequence that was restarted has no last number until it is used, and that of a logical replica stays where it was.
	lastPosition = newStatement("last_position", `SELECT coalesce(max(global_position), 0) FROM message_store.messages`)
)

// anchorOf returns the anchor of a message at the position, in its stream or of its category.
func anchorOf(m *Message, position int64) anchor {
	return anchor{Position: position, ID: m.ID, Time: scan.Micros(m.Time)}
}

// anchorStatement is a statement of a stream or of a category.
func (r *pageRead) anchorStatement(ofStream, ofCategory *statement) *statement {
	if r.isStream {
		return ofStream
	}
	return ofCategory
}

// noAnchor is the anchor of no message.
func (r *pageRead) noAnchor() anchor {
	if r.isStream {
		return anchor{Position: NoStream}
	}
	return anchor{}
}

// anchorInto returns a function that reads at most one anchor.
func anchorInto(a *anchor) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		return eachAnchor(rows, func(found anchor) { *a = found })
	}
}

func eachAnchor(rows pgx.Rows, f func(anchor)) (err error) {
	var oids [3]uint32
	var formats [3]int16
	for rows.Next() {
		values := rows.RawValues()
		if len(values) != len(oids) {
			return fmt.Errorf("got rows with %d columns, want %d", len(values), len(oids))
		}
		for i, field := range rows.FieldDescriptions() {
			oids[i], formats[i] = field.DataTypeOID, field.Format
		}
		var a anchor
		if a.Position, a.ID, a.Time, err = scan.Triple(oids, formats, values); err != nil {
			return err
		}
		f(a)
	}
	return rows.Err()
}

// firstPlace returns a function that reads the first message's place, and ignores the rest
// of its row.
func firstPlace(isStream bool, a *anchor) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		page := scan.NewPage()
		defer page.Release()
		if rows.Next() {
			if err := describe(page, rows); err != nil {
				return err
			}
			place, err := page.Place(rows.RawValues())
			if err != nil {
				return err
			}
			*a = anchorAt(place, isStream)
		}
		return drain(rows)
	}
}

func anchorAt(p scan.Place, isStream bool) anchor {
	if isStream {
		return anchor{Position: p.Position, ID: p.ID, Time: p.Micros}
	}
	return anchor{Position: p.GlobalPosition, ID: p.ID, Time: p.Micros}
}

// lookStep looks for the read's anchor. It comes after the messages: history that is lost
// between the two would otherwise go unnoticed, and what comes after that is not there
// before it.
func (r *pageRead) lookStep() step {
	r.found = anchor{Position: math.MinInt64}
	if r.tableless {
		st, args := getCategoryMessages, []any{&r.name, &r.anchor.Position, &oneMessage, nil, nil, nil, nil}
		if r.isStream {
			st, args = getStreamMessages, args[:4]
		}
		return step{st: st, read: firstPlace(r.isStream, &r.found), args: args}
	}
	st, args := lookInCategory, append(r.lookArgs[:0], &r.anchor.Position)
	if r.isStream {
		st, args = lookInStream, append(r.lookArgs[:0], &r.name, &r.anchor.Position)
	}
	if r.readFound == nil {
		r.readFound = anchorInto(&r.found)
	}
	return step{st: st, read: r.readFound, args: args}
}

var oneMessage = int64(1)

// usesTable reports whether a read by procedures uses the table, too.
func (r *pageRead) usesTable() bool {
	return !r.tableless && (r.withHead || r.anchored)
}

// endOf returns the checkpoint after the last message.
func (s *Store) endOf(ctx context.Context, r *pageRead) (checkpoint, error) {
	last := r.noAnchor()
	if !s.headless.Load() {
		err := s.run(ctx, r.anchorStatement(lastInStream, lastInCategory), anchorInto(&last), r.name)
		if err == nil {
			if r.required && last.Position == NoStream {
				return checkpoint{}, noStream(r.name)
			}
			return checkpointAt(last, r), nil
		}
		if !r.isStream || s.config.direct || classify(err) != classSetup {
			return checkpoint{}, explain("find the end of "+r.kind(), err)
		}
	}
	if !r.isStream {
		head, err := s.CategoryHead(ctx, Category(r.name))
		return source.At(head), err
	}
	version, err := s.StreamVersion(ctx, StreamName(r.name))
	if err == nil && version == NoStream && r.required {
		err = noStream(r.name)
	}
	return source.At(version), err
}

// checkpointAt returns the checkpoint after a message, or at the beginning.
func checkpointAt(a anchor, r *pageRead) checkpoint {
	c := source.At(a.Position)
	if a == r.noAnchor() {
		return c
	}
	return c.Advance(1, func(int) anchor { return a })
}

func (r *pageRead) kind() string {
	switch {
	case r.all != nil:
		return r.allWhat()
	case r.isStream:
		return "stream " + r.name
	}
	return "category " + r.name
}

// anchorBefore returns the checkpoint of a position, with the last message up to it as its
// anchor. In a category the position may be that of another category's message, but no message
// can have one that the sequence has not reached.
func (s *Store) anchorBefore(ctx context.Context, r *pageRead, position int64) (checkpoint, error) {
	last, standby := int64(-1), true // unknown
	before, later := r.noAnchor(), r.noAnchor()
	steps := make([]step, 0, 3)
	if !r.isStream {
		steps = append(steps, step{st: lastNumber, read: number(&last)})
	}
	if !s.headless.Load() {
		if r.isStream {
			steps = append(steps, step{st: recovery, read: one(&standby)},
				step{st: laterInStream, read: anchorInto(&later), args: []any{r.name, position}})
		}
		steps = append(steps, step{
			st:   r.anchorStatement(beforeInStream, beforeInCategory),
			read: anchorInto(&before), args: []any{r.name, position},
		})
	}
	var err error
	if len(steps) > 0 {
		err = s.runBatch(ctx, nil, steps...)
	}
	if err != nil && classify(err) == classSetup {
		// The role may not read the table, or the server has none of these functions.
		last, standby, before = -1, true, r.noAnchor()
		err = nil
		if !r.isStream {
			if err = s.run(ctx, lastNumber, number(&last)); err != nil && classify(err) == classSetup {
				last, err = -1, nil
			}
		}
	}
	if err == nil && last >= 0 && position > last && !s.headless.Load() {
		stored := int64(0)
		if err = s.run(ctx, lastPosition, number(&stored)); err != nil && classify(err) == classSetup {
			err = nil
		}
		last = max(last, stored)
	}
	switch {
	case err != nil:
		return checkpoint{}, explain("find a position in "+r.kind(), err)
	case last >= 0 && position > last:
		return checkpoint{}, &AheadError{Category: Category(r.name), Position: position, Last: last}
	case r.isStream && !standby && later == r.noAnchor() && before.Position < position:
		if r.required && before == r.noAnchor() {
			return checkpoint{}, noStream(r.name)
		}
		stream := StreamName(r.name)
		return checkpoint{}, &AheadError{Category: stream.Category(), Stream: stream, Position: position, Last: before.Position}
	}
	return checkpointAt(before, r).Past(position), nil
}

// compareAnchors reports which of the anchors are in the store. On a standby it fails if the
// first one may not be there yet.
func (s *Store) compareAnchors(ctx context.Context, r *pageRead, known []anchor) (there []bool, err error) {
	there = make([]bool, len(known))
	if !s.headless.Load() && !s.sharded() {
		err = s.compareInTable(ctx, r, known, there)
		if err == nil || s.config.direct || classify(err) != classSetup || s.headed.Load() {
			return there, explainCompare(r, err)
		}
	}
	return there, explainCompare(r, s.compareByProcedures(ctx, r, known, there))
}

func explainCompare(r *pageRead, err error) error {
	if err == nil || errors.Is(err, errBehind) {
		return err
	}
	return explain("look for known messages of "+r.kind(), err)
}

// checkBehind returns errBehind if a standby may not have the newest known message yet. What
// it needs is read before the messages: with the later one, the standby had everything
// before it.
func checkBehind(standby bool, later, newest, none anchor, there bool) error {
	if standby && !there && later == none {
		return fmt.Errorf("%w, at position %d", errBehind, newest.Position)
	}
	return nil
}

func (s *Store) compareInTable(ctx context.Context, r *pageRead, known []anchor, there []bool) error {
	standby, later := false, r.noAnchor()
	compare := compareStep(compareInCategory, known, there)
	if r.isStream {
		compare = compareStep(compareInStream, known, there, r.name)
	}
	err := s.runBatch(ctx, nil,
		step{st: recovery, read: one(&standby)},
		step{st: r.anchorStatement(laterInStream, laterInCategory), read: anchorInto(&later), args: []any{r.name, known[0].Position}},
		compare)
	if err != nil {
		return err
	}
	return checkBehind(standby, later, known[0], r.noAnchor(), there[0])
}

// compareStep sets which of the anchors are there. The positions are the last argument.
func compareStep(st *statement, known []anchor, there []bool, args ...any) step {
	positions := make([]int64, len(known))
	index := make(map[int64]int, len(known))
	for i, a := range known {
		positions[i], index[a.Position] = a.Position, i
	}
	return step{st: st, args: append(args, positions), read: func(rows pgx.Rows) error {
		clear(there)
		return eachAnchor(rows, func(a anchor) {
			if i, ok := index[a.Position]; ok && known[i] == a {
				there[i] = true
			}
		})
	}}
}

// compareByProcedures compares a few anchors in each round trip, and no more after one that
// is there.
func (s *Store) compareByProcedures(ctx context.Context, r *pageRead, known []anchor, there []bool) error {
	const atOnce = 64
	message := func(position int64, a *anchor) step {
		if r.isStream {
			return step{st: getStreamMessages, read: firstPlace(true, a), args: []any{r.name, position, oneMessage, nil}}
		}
		return step{st: getCategoryMessages, read: firstPlace(false, a), args: []any{r.name, position, oneMessage, nil, nil, nil, nil}}
	}
	for begin := 0; begin < len(known); begin += atOnce {
		some := known[begin:min(begin+atOnce, len(known))]
		standby, later := false, r.noAnchor()
		found := make([]anchor, len(some))
		var steps []step
		if begin == 0 {
			steps = append(steps, step{st: recovery, read: one(&standby)}, message(known[0].Position, &later))
		}
		for i, a := range some {
			found[i] = r.noAnchor()
			steps = append(steps, message(a.Position, &found[i]))
		}
		if err := s.runBatch(ctx, nil, steps...); err != nil {
			return err
		}
		hit := false
		for i, a := range some {
			there[begin+i] = found[i] == a
			hit = hit || there[begin+i]
		}
		if begin == 0 {
			if err := checkBehind(standby, later, known[0], r.noAnchor(), there[0]); err != nil {
				return err
			}
		}
		if hit {
			return nil
		}
	}
	return nil
}
