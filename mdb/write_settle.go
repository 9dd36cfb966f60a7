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
// A write has happened once the server has reported the end of its transaction. If the
// connection is lost before that, it may have happened or may still happen. So settle
// sends the same messages again, with the same IDs. If the first attempt is still running,
// the second one waits for the category's lock until the first has ended. Then it fails
// because of the IDs, or because of a version that the first attempt has changed, or it
// finds neither and writes. It would not be enough to look for the IDs: that might happen
// before the first attempt commits.
func (s *procedures) settle(ctx context.Context, w *proposedWrite) error {
	for {
		again, err := s.judge(ctx, w, s.attempt(ctx, w))
		if !again {
			return err
		}
		s.config.logger.LogAttrs(ctx, slog.LevelWarn, "retrying a write",
			slog.String("stream", string(w.stream)), slog.Int("attempt", w.attempts),
			slog.Bool("outcome_unknown", w.unknown != nil), slog.Any("error", scrub(err)))
		if s.config.retry.wait(ctx, w.attempts) != nil {
			return w.giveUp(ctx, err)
		}
	}
}

// judge decides what follows from err, the result of an attempt of w. It reports whether to
// retry; if not, the error is the result of the write. It may use a connection of the pool.
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
				// The write may be there already, so its outcome is unknown.
				again, err, w.unknown = true, lookErr, cmp.Or(w.unknown, scrub(lookErr))
			case lookErr != nil:
				return false, explain("look for the messages of a repeated write to stream "+string(w.stream), lookErr)
			case present == nil:
				return false, nil
			case class == classDuplicateID:
				return false, &DuplicateIDError{IDs: present, err: scrub(err)}
			}
		}
		// If the default isolation level is stricter than read committed, a write can lose
		// a race even if it expects no version.
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

// giveUp returns the error of a write that is not retried. If the outcome of any attempt is
// unknown, so is that of the write, even if the last attempt failed for another reason.
func (w *proposedWrite) giveUp(ctx context.Context, err error) error {
	if w.unknown != nil {
		return &UnknownOutcomeError{IDs: slices.Clone(w.ids), err: contextError(ctx, w.unknown)}
	}
	return w.explain(contextError(ctx, err))
}

// look finds w's messages in the store. They were written by w, or by another write of the
// same messages, if all of them are there, in w's stream, consecutive and in order, and
// after the expected version. Messages whose IDs this call did not generate must also be
// equal in content. Then look sets w.written and returns no IDs. Otherwise it returns the
// IDs of w that are in the store, or all IDs of w if none is.
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
				return errors.New("got a row for an unknown message")
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
