package mdb

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// settle sends w until its outcome is known.
//
// A write has happened when the server said so at its very end. If the connection
// is lost before that, it may have happened or may yet happen. So the same
// messages are sent again, with the same IDs: the repeat waits for the category's
// lock behind the first attempt, should that still run, and then meets its IDs, or
// a version that the first attempt has passed, or nothing, and writes. Only to
// look for the IDs would not do: the look might come before the first attempt's
// commit.
func (s *procedures) settle(ctx context.Context, w *proposedWrite) error {
	for {
		again, err := s.judge(ctx, w, s.attempt(ctx, w))
		if !again {
			return err
		}
		s.config.logger.LogAttrs(ctx, slog.LevelWarn, "write is tried again",
			slog.String("stream", string(w.stream)), slog.Int("attempt", w.attempts),
			slog.Bool("outcome_unknown", w.unknown != nil), slog.Any("error", scrub(err)))
		if s.config.retry.wait(ctx, w.attempts) != nil {
			return w.giveUp(ctx, err)
		}
	}
}

// judge takes what an attempt of w has come to, and tells whether to try again;
// if not, the error is that of the write. It may use a connection of the pool.
func (s *procedures) judge(ctx context.Context, w *proposedWrite, err error) (again bool, _ error) {
	w.attempts++
	if err == nil {
		return false, nil
	}
	switch class := classify(err); class {
	case classDuplicateID, classWrongVersion:
		if w.unknown != nil || w.idempotent {
			present, lookErr := s.look(ctx, w)
			switch {
			case lookErr != nil && (w.unknown != nil || classify(lookErr).retryWrite()):
				// It may be there already, so that is as good as unknown.
				again, err, w.unknown = true, lookErr, cmp.Or(w.unknown, scrub(lookErr))
			case lookErr != nil:
				return false, explain("look for the messages of a repeated write to stream "+string(w.stream), lookErr)
			case present == nil:
				return false, nil
			case class == classDuplicateID:
				return false, &DuplicateIDError{IDs: present, err: scrub(err)}
			}
		}
		// Where the default isolation is stricter than read committed, a write may
		// come too late even if it expects nothing.
		if overtaken := class == classWrongVersion && w.expected == nil; !again && !overtaken {
			return false, w.explain(err)
		}
		again = true
	default:
		if again = class.retryWrite(); class.lost() {
			w.unknown = scrub(err)
		}
	}
	if !again || ctx.Err() != nil || w.attempts >= s.config.retry.Attempts {
		return false, w.giveUp(ctx, err)
	}
	return true, err
}

// giveUp returns the error of a write that will not be tried again: that its
// outcome is unknown if any attempt's is, whatever became of the last one.
func (w *proposedWrite) giveUp(ctx context.Context, err error) error {
	if w.unknown != nil {
		return &UnknownOutcomeError{IDs: slices.Clone(w.ids), err: contextError(ctx, w.unknown)}
	}
	return w.explain(contextError(ctx, err))
}

// look finds w's messages in the store. It is w that wrote them, or another write
// of the same messages, if all are there, in w's stream, one behind the other in
// order, from the expected version on; those whose IDs this call has not minted
// itself also have to be equal in content. Then look fills w.written and returns
// no IDs. Otherwise it returns those IDs of w's that are in the store, or all of
// them if none is.
func (s *procedures) look(ctx context.Context, w *proposedWrite) (present []uuid.UUID, err error) {
	same := true
	read := func(rows pgx.Rows) error {
		for rows.Next() {
			var index, position, globalPosition int64
			var stream string
			var equal bool
			if err := rows.Scan(&index, &stream, &position, &globalPosition, &equal); err != nil {
				return err
			}
			i := int(index) - 1
			if i < 0 || i >= len(w.ids) {
				return errors.New("a row for no message")
			}
			first := position - int64(i)
			same = same && stream == string(w.stream) && (equal || w.minted[i]) &&
				(w.expected == nil || first == *w.expected+1) &&
				(i == 0 || first == w.written[0].Position)
			w.written[i] = Written{ID: w.ids[i], Position: position, GlobalPosition: globalPosition, Duplicate: true}
			present = append(present, w.ids[i])
		}
		return rows.Err()
	}
	if err := s.run(ctx, findMessages, read, w.idTexts, w.types, w.data, w.metadata); err != nil {
		return nil, err
	}
	switch {
	case same && len(present) == len(w.ids):
		return nil, nil
	case len(present) == 0:
		return slices.Clone(w.ids), nil
	}
	return present, nil
}
