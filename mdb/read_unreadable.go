package mdb

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/scan"
)

// A search finds the message because of which a step of one message fails. That is usually
// the first one that the filter selects, which the table shows without its payload. But a
// filter may look at a payload, and then any message before the first selected one may be
// the cause; and the role may not be allowed to read the table. Then the search reads with
// an upper limit of positions, and finds the smallest limit with which the read fails.
type search struct {
	cause error            // the step's
	found *UnreadableError // the first message that the filter selects, or nil

	byLimit   bool
	low, high int64 // a read up to low succeeds, and one up to high fails, or high is unknownPosition
}

// searchStep takes the next step of the search, which is one statement. It ends with an
// [*UnreadableError], or with the error of the page if no message can be named.
func (s *procedures) searchStep(ctx context.Context, r *pageRead) (done bool, err error) {
	f := r.search
	switch {
	case f.found != nil:
		return s.confirmStep(ctx, r)
	case f.byLimit && f.high-f.low == 1:
		found := UnreadableError{err: f.cause, GlobalPosition: f.high, Position: unknownPosition}
		st, args := identifyMessage, []any{f.high}
		if r.isStream {
			found = UnreadableError{err: f.cause, Stream: StreamName(r.name), Position: f.high}
			st, args = identifyInStream, []any{r.name, f.high}
		}
		n, err := s.identify(ctx, &found, st, args...)
		switch {
		case err != nil && classify(err) != classSetup: // without the table, its position is all that is known
			return false, r.explain(err)
		case err == nil && (n == 0 || r.isStream && found.Position != f.high): // it has been deleted
			return false, r.searchAgain()
		}
		return true, r.pass(&found)
	case f.byLimit:
		return s.limitStep(ctx, r)
	case r.condition != nil:
		f.byLimit = true
		return false, nil
	}
	found := UnreadableError{err: f.cause}
	st, args := identifyInCategory, []any{r.name, r.position, r.correlation, r.member, r.size}
	switch {
	case r.all != nil:
		st, args = r.allStatements().identify, []any{r.position, r.allBound(), r.types, r.categories}
	case r.isStream && r.backwards:
		st, args = identifyStreamBackwards, args[:2]
	case r.isStream:
		st, args = identifyInStream, args[:2]
	case r.backwards:
		st = identifyCategoryBackwards
	}
	n, err := s.identify(ctx, &found, st, args...)
	switch {
	case err != nil && r.all == nil && !r.backwards && (isMessageFault(err) || classify(err) == classSetup):
		f.byLimit = true
		return false, nil
	case err != nil:
		return false, r.explain(err)
	case n == 0:
		return false, r.searchAgain()
	}
	f.found = &found
	return false, nil
}

// confirmStep reads the message that was found, alone: a server that sorts the messages may
// fail because of a later one.
func (s *procedures) confirmStep(ctx context.Context, r *pageRead) (done bool, err error) {
	err = s.runSearch(ctx, r, nil, step{st: directMessage, args: []any{r.search.found.GlobalPosition}, read: r.read})
	var row *scan.RowError
	switch {
	case isStale(err):
		return false, err
	case errors.As(err, &row):
		return true, r.pass(unreadableRow(row, err))
	case isMessageFault(err):
		return true, r.pass(r.search.found)
	case err != nil:
		return false, r.explain(err)
	}
	r.search, r.fails = nil, 0
	return r.add(), nil
}

// limitStep reads up to a position between low and high, or beyond low.
func (s *procedures) limitStep(ctx context.Context, r *pageRead) (done bool, err error) {
	f := r.search
	limit := f.low + (f.high-f.low)/2
	if f.high == unknownPosition {
		distance := f.low - r.position + 2
		limit = math.MaxInt64
		if distance < math.MaxInt64/4 {
			limit = min(f.low, limit-distance) + distance
		}
	}
	condition := r.until(limit)
	one, none := int64(1), (*string)(nil)
	st, args := getCategoryMessages, []any{r.name, r.position, one, none, r.member, r.size, condition}
	if r.isStream {
		st, args = getStreamMessages, []any{r.name, r.position, one, condition}
	}
	err = s.runSearch(ctx, r, conditionOff,
		step{st: conditionOn, read: drain},
		step{st: st, args: args, read: r.read},
		step{st: conditionOff, read: drain})
	switch {
	case errors.Is(err, errGone):
		return false, err
	case err != nil && isMessageFault(err):
		f.high = limit
	case err != nil && classify(err).retryRead(false):
		return false, r.explain(err)
	case err == nil && len(r.messages) > 0: // a server that sorts the messages fails because of a later one
		r.search, r.fails = nil, 0
		return r.add(), nil
	case err != nil || limit == math.MaxInt64: // it does not fail in the same way
		return false, r.searchAgain()
	default:
		f.low = limit
	}
	return false, nil
}

// runSearch runs steps of a search, and looks for the anchor, as each read does.
func (s *procedures) runSearch(ctx context.Context, r *pageRead, undo *statement, steps ...step) error {
	r.beginStep()
	r.inclusive = false
	if r.all != nil && !r.backwards {
		return s.runInAll(ctx, r, steps[0], func() {})
	}
	if r.anchored {
		return r.checkAnchor(s.runBatch(ctx, undo, append(steps, r.lookStep())...))
	}
	if len(steps) == 1 {
		return s.run(ctx, steps[0].st, steps[0].read, steps[0].args...)
	}
	return s.runBatch(ctx, undo, steps...)
}

// until returns the read's condition with an upper limit of positions. It includes the
// correlation, so that CASE keeps it from looking at messages beyond the limit.
func (r *pageRead) until(limit int64) string {
	column, condition := "global_position", "true"
	if r.isStream {
		column = "position"
	}
	if r.condition != nil {
		condition = *r.condition
	}
	if r.correlation != nil {
		condition = fmt.Sprintf("message_store.category(metadata->>'correlationStreamName') = '%s' AND (%s\n)",
			strings.ReplaceAll(*r.correlation, "'", "''"), condition)
	}
	return fmt.Sprintf("%[1]s <= %[2]d AND CASE WHEN %[1]s <= %[2]d THEN (%[3]s\n) END", column, limit, condition)
}

// identify reads what identifies a message into e, and returns the number of messages.
func (s *procedures) identify(ctx context.Context, e *UnreadableError, st *statement, args ...any) (n int, err error) {
	var id, stream string
	err = s.run(ctx, st, func(rows pgx.Rows) error {
		for ; rows.Next(); n++ {
			if err := rows.Scan(&id, &stream, &e.Type, &e.Position, &e.GlobalPosition); err != nil {
				return err
			}
		}
		return rows.Err()
	}, args...)
	if err != nil || n == 0 {
		return n, err
	}
	e.Stream = StreamName(stream)
	e.ID, err = uuid.Parse(id)
	return n, err
}

// findOne returns the error of a read of one message if that cannot be read, and otherwise nil. The
// statement identifies the message.
func (s *procedures) findOne(ctx context.Context, cause error, st *statement, args ...any) error {
	var row *scan.RowError
	switch e := (&UnreadableError{err: cause}); {
	case errors.As(cause, &row):
		return unreadableRow(row, cause)
	case s.tx != nil || !isMessageFault(cause):
		return nil
	default:
		if n, err := s.identify(ctx, e, st, args...); err == nil && n > 0 {
			return e
		}
		return nil
	}
}

// searchAgain ends a search that has found no message, as it may have been deleted meanwhile.
// The next step reads again; if the same happens then, the error is the step's.
func (r *pageRead) searchAgain() error {
	cause := r.search.cause
	r.search = nil
	if r.searched {
		return r.explain(cause)
	}
	r.searched = true
	return nil
}

// pass makes the next step begin after the message that cannot be read.
func (r *pageRead) pass(e *UnreadableError) *UnreadableError {
	r.search, r.searched, r.fails = nil, false, 0
	r.position = r.past(e.GlobalPosition)
	if r.isStream {
		r.position = r.past(e.Position)
	}
	return e
}

// unreadableRow returns the error for a row that cannot be decoded.
func unreadableRow(row *scan.RowError, err error) *UnreadableError {
	return &UnreadableError{
		ID: row.ID, Stream: StreamName(row.Stream), Type: row.Type,
		Position: row.Position, GlobalPosition: row.GlobalPosition, err: err,
	}
}
