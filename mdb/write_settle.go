package mdb

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

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
	defer w.leave()
	if err := w.begin(ctx, s.config.retry, s.gate); err != nil {
		return w.giveUp(ctx, w.outage.err)
	}
	return s.settleAfter(ctx, w, s.retrying(&w.retries).attempt(ctx, w))
}

// settleAfter does the same after the first attempt, whose result is err.
func (s *procedures) settleAfter(ctx context.Context, w *proposedWrite, err error) error {
	defer w.leave()
	for ; ; err = s.retrying(&w.retries).attempt(ctx, w) {
		var again bool
		again, err = s.retrying(&w.retries).judge(ctx, w, err)
		if !again {
			return err
		}
		s.config.logger.LogAttrs(ctx, slog.LevelWarn, "retrying a write",
			slog.String("stream", string(w.stream)), slog.Int("attempt", w.attempts),
			slog.Bool("outcome_unknown", w.unknown != nil), slog.Any("error", scrub(err)))
		if w.wait(ctx, s.config.retry, s.gate) != nil {
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
	var limit limit
	if s.proxied() {
		err = proxyLost(err)
	}
	switch class := classify(err); class {
	case classDuplicateID, classWrongVersion:
		limit = byAttempts
		if w.unknown != nil || w.idempotent {
			found, lookErr := s.look(ctx, w)
			if lookErr == nil && class == classDuplicateID && len(found.ids) == 0 {
				lookErr = unseenError("the server reports a duplicate ID, but no message with one of the IDs is found")
			}
			switch {
			case lookErr != nil && s.proxied() && classify(lookErr) == classSetup:
				w.unknown = cmp.Or(w.unknown, error(&proxiedError{"look for the messages of a repeated write", whyNoLook}))
				return false, w.giveUp(ctx, err)
			case lookErr != nil && (w.unknown != nil || errors.As(lookErr, new(unseenError)) || classify(lookErr).retryWrite() != noRetry):
				// The write may be there already, so its outcome is unknown.
				again, err, w.unknown = true, lookErr, cmp.Or(w.unknown, scrub(lookErr))
				if classify(lookErr).retryWrite() == byTime && !errors.As(lookErr, new(unseenError)) {
					limit = byTime
				}
			case lookErr != nil:
				return false, explain("look for the messages of a repeated write to stream "+string(w.stream), lookErr)
			case found.same():
				return false, nil
			case w.lost && (found.inPlace || found.own):
				// The lost attempt has written them, and a trigger has changed them, unless
				// another write has used its IDs.
				w.unknown = &changedError{found.differs}
				return false, w.giveUp(ctx, err)
			case class == classDuplicateID || found.inPlace:
				return false, found.duplicate(err)
			}
		}
		// If the default isolation level is stricter than read committed, a write can lose
		// a race even if it expects no version.
		if overtaken := class == classWrongVersion && (w.expected == nil || w.expectsStream() && actualVersion(err) == unknownVersion); !again && !overtaken {
			if w.mayArrive(err) {
				return false, w.giveUp(ctx, err)
			}
			return false, w.explain(err)
		}
	default:
		if limit = class.retryWrite(); class.lost() {
			w.lost, w.unknown = true, scrub(err)
		}
	}
	if !w.allow(ctx, s.config.retry, limit, err) || ctx.Err() != nil {
		return false, w.giveUp(ctx, err)
	}
	return true, err
}

// mayArrive reports whether a lost attempt may still reach the server and write, although a
// later attempt has failed with err. It may if the stream has not reached the version that
// the write expects.
func (w *proposedWrite) mayArrive(err error) bool {
	actual := actualVersion(err)
	return w.lost && w.expected != nil && actual != unknownVersion && (actual < *w.expected || w.expectsStream())
}

// giveUp returns the error of a write that is not retried. If the outcome of any attempt is
// unknown, so is that of the write, even if the last attempt failed for another reason.
func (w *proposedWrite) giveUp(ctx context.Context, err error) error {
	if w.unknown != nil {
		return &UnknownOutcomeError{IDs: slices.Clone(w.ids), err: contextError(ctx, w.unknown)}
	}
	return w.explain(w.ended(ctx, err))
}

// A finding is what look has found of a write's messages.
type finding struct {
	ids []uuid.UUID // of those that are in the store, in order
	// inPlace says that all are there, in the write's stream, consecutive and in order, and
	// after the expected version.
	inPlace bool
	own     bool // whether one has an ID that this call has generated
	// differs is the part in which the first message that differs does so, and differing
	// the ID of that message.
	differs   string
	differing uuid.UUID
}

// same reports whether the write, or another one of the same messages, has happened.
func (f *finding) same() bool { return f.inPlace && f.differs == "" }

// duplicate returns the error of a write that failed with err because of what was found.
func (f *finding) duplicate(err error) error {
	return &DuplicateIDError{IDs: f.ids, Differs: f.differs, differing: f.differing, err: scrub(err)}
}

func (f *finding) differ(part string, id uuid.UUID) {
	if f.differs == "" {
		f.differs, f.differing = part, id
	}
}

// An unseenError says why a search for messages has not seen what must be there.
type unseenError string

func (e unseenError) Error() string { return string(e) }

// A changedError says that the messages of a write whose outcome is unknown are not as they
// were sent.
type changedError struct{ differs string }

func (e *changedError) Error() string {
	return "messages with the IDs are in the store, but differ in their " + e.differs + ": a trigger may have changed them, or another write has used the IDs"
}

// look finds w's messages in the store, and sets w.written. It compares where they are, and
// the types and data of those whose IDs this call did not generate. It does not compare
// metadata, which triggers and tracing change. What it has found is as durable as a write,
// once the transaction of the look has committed.
func (s *procedures) look(ctx context.Context, w *proposedWrite) (finding, error) {
	var f finding
	misplaced := false
	read := func(rows pgx.Rows) error {
		var begin int64 // where the first message is, by the position of the first that was found
		for rows.Next() {
			var index int64
			var standby bool
			var stream *string
			var position, globalPosition, micros *int64
			var sameType, sameData *bool
			if err := scanRow(rows, &index, &standby, &stream, &position, &globalPosition, &micros, &sameType, &sameData, nil); err != nil {
				return err
			}
			i := int(index) - 1
			switch {
			case i < 0 || i >= len(w.ids):
				return errors.New("got a row for an unknown message")
			case standby:
				return unseenError("the look for the messages has reached a standby, which may lag")
			case stream == nil:
				continue
			}
			if len(f.ids) == 0 {
				begin = *position - int64(i)
			}
			f.ids = append(f.ids, w.ids[i])
			f.own = f.own || w.minted[i]
			w.written[i] = Written{ID: w.ids[i], Position: *position, GlobalPosition: *globalPosition, Duplicate: true}
			if micros != nil {
				w.written[i].Time = time.UnixMicro(*micros).UTC()
			}
			switch {
			case *stream != string(w.stream):
				f.differ("stream", w.ids[i])
				misplaced = true
			case *position != begin+int64(i) || !w.begins(begin):
				f.differ("position", w.ids[i])
				misplaced = true
			case w.minted[i]:
			case !*sameType:
				f.differ("type", w.ids[i])
			case !*sameData:
				f.differ("data", w.ids[i])
			}
		}
		return rows.Err()
	}
	st, args := findMessages, []any{w.idTexts, w.types, payloads(w.data)}
	if s.sharded() { // an ID is unique in a shard
		st, args = findOnShard, append([]any{string(w.stream)}, args...)
	}
	err := s.run(ctx, st, read, args...)
	f.inPlace = len(f.ids) == len(w.ids) && !misplaced
	return f, err
}
