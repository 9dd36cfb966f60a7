package mdb

import (
	"context"
	"errors"
	"log/slog"

	"github.com/jackc/pgx/v5"
)

// A Write is one of those that [Store.WriteEach] does. Its fields are what
// WriteMessage takes.
type Write struct {
	Stream  StreamName
	Message ProposedMessage
	Options []WriteOption
}

// A WriteResult is what became of a [Write]: Written says where it is, if Err is
// nil.
type WriteResult struct {
	Written Written
	Err     error
}

// WriteEach does many writes at once that do not depend on each other: each is a
// transaction of its own, with its own result at its own index, and the errors of
// WriteMessage. As long as none fails all of it takes one connection and, for the
// first 256 writes, one round trip; beyond these, answers are read while further
// writes are under way. Use WriteMessages to write all of several messages or none.
//
// Writes to one stream are done in their order. One that fails, also one that is
// refused here, fails those behind it to the same stream with a [*SkippedError], and
// no others. There is no order between streams. A write that waits for a category's
// lock holds up those behind it.
//
// What can be checked here is checked of all writes before any is sent; those that
// pass are sent. After a failure that may pass, or with [Idempotent], what is left
// to do or to look for takes further round trips. If the context ends, writes that
// were sent and not answered fail with an [*UnknownOutcomeError], and those that
// were not sent with the context's error.
//
// Where the pool's DefaultQueryExecMode is pgx.QueryExecModeSimpleProtocol, which
// has no pipeline, the writes are done one by one. In the other modes pgx's tracers
// do not see them.
func (s *Store) WriteEach(ctx context.Context, ws []Write) []WriteResult {
	e := eachCall{store: s, results: make([]WriteResult, len(ws)), failed: make(map[StreamName]int), renewed: make(map[*pgx.Conn]bool)}
	pending := e.propose(ws)
	if s.config.execMode == pgx.QueryExecModeSimpleProtocol {
		e.oneByOne(ctx, pending)
		return e.results
	}
	for len(pending) > 0 {
		pending = e.round(ctx, pending)
	}
	return e.results
}

type eachCall struct {
	store   *Store
	results []WriteResult
	failed  map[StreamName]int // the index of the first write to fail
	renewed map[*pgx.Conn]bool // those that had forgotten the statement
}

// An eachWrite is a write of a call, and what its last attempt has come to.
type eachWrite struct {
	*proposedWrite
	index int
	done  bool
	err   error
}

// errSkipped is that of a write that the server has left out because of an earlier
// one, which says nothing about it.
var errSkipped = errors.New("left out behind an earlier write")

// propose returns the writes that may be sent, those to one stream next to each
// other.
func (e *eachCall) propose(ws []Write) []*eachWrite {
	streams := make(map[StreamName][]*eachWrite)
	var order []StreamName
	for i, write := range ws {
		w, err := e.store.proposeWrite(write.Stream, []ProposedMessage{write.Message}, write.Options)
		if err == nil {
			err = e.skip(w, i)
		}
		if err != nil {
			e.fail(write.Stream, i, err)
			continue
		}
		if streams[w.stream] == nil {
			order = append(order, w.stream)
		}
		streams[w.stream] = append(streams[w.stream], &eachWrite{proposedWrite: w, index: i})
	}
	var pending []*eachWrite
	for _, stream := range order {
		pending = append(pending, streams[stream]...)
	}
	return pending
}

// skip returns the error of a write behind one that has failed, or nil if none has.
func (e *eachCall) skip(w *proposedWrite, index int) error {
	first, ok := e.failed[w.stream]
	if !ok || first > index {
		return nil
	}
	return &SkippedError{Stream: w.stream, Failed: first, err: e.results[first].Err}
}

func (e *eachCall) fail(stream StreamName, index int, err error) {
	e.results[index].Err = err
	if first, ok := e.failed[stream]; !ok || index < first {
		e.failed[stream] = index
	}
}

func (e *eachCall) succeed(w *eachWrite) {
	e.results[w.index].Written = w.written[0]
	e.store.wrote(w.stream)
}

func (e *eachCall) oneByOne(ctx context.Context, pending []*eachWrite) {
	for _, w := range pending {
		err := e.skip(w.proposedWrite, w.index)
		if err == nil {
			err = e.store.settle(ctx, w.proposedWrite)
		}
		if err != nil {
			e.fail(w.stream, w.index, err)
			continue
		}
		e.succeed(w)
	}
}

// round sends the writes once, and returns those that are to be sent again.
func (e *eachCall) round(ctx context.Context, pending []*eachWrite) []*eachWrite {
	answered := e.send(ctx, pending)
	var again []*eachWrite
	var tried *eachWrite // the one that was tried the most often of those that failed
	var triedErr error
	var repeated StreamName // whose last write was there already
	for _, w := range pending {
		// Sent again, each repeat would hold up those behind it for a round.
		if w.err == errSkipped && w.stream == repeated && !e.isThere(ctx, w) { //nolint:errorlint // never wrapped
			repeated = ""
		}
		repeat, err := true, w.err
		var broken *brokenError
		unsent := errors.As(w.err, &broken) && !broken.sent
		// Nothing is known of these but that they have not happened. What was not sent
		// counts as tried only where nothing gets through.
		if w.err != errSkipped && (!unsent || !answered || ctx.Err() != nil) { //nolint:errorlint // never wrapped
			if repeat, err = e.store.judge(ctx, w.proposedWrite, w.err); repeat && (tried == nil || w.attempts > tried.attempts) {
				tried, triedErr = w, err
			}
		}
		if repeat {
			if skipped := e.skip(w.proposedWrite, w.index); skipped != nil {
				// Lost, it may have happened behind the one that is given up.
				if repeat, err = false, skipped; w.unknown != nil {
					err = w.giveUp(ctx, skipped)
				}
			}
		}
		switch {
		case repeat:
			again = append(again, w)
		case err != nil:
			e.fail(w.stream, w.index, err)
		default:
			if e.succeed(w); w.written[0].Duplicate {
				repeated = w.stream
			}
		}
	}
	if tried != nil && len(again) > 0 {
		e.store.config.logger.LogAttrs(ctx, slog.LevelWarn, "writes are tried again",
			slog.Int("writes", len(again)), slog.String("stream", string(tried.stream)), slog.Int("attempt", tried.attempts),
			slog.Bool("outcome_unknown", tried.unknown != nil), slog.Any("error", scrub(triedErr)))
		// If ctx ends, the next round finds that out for each write.
		_ = e.store.config.retry.wait(ctx, tried.attempts)
	}
	return again
}

// isThere looks for a write that was left out behind one that had happened before,
// and if it has happened, too, takes its error away.
func (e *eachCall) isThere(ctx context.Context, w *eachWrite) bool {
	if !w.idempotent && w.unknown == nil {
		return false
	}
	if present, err := e.store.look(ctx, w.proposedWrite); err != nil || present != nil {
		return false
	}
	w.err = nil
	return true
}

// send sets the error of each write, which is nil if it has happened, and tells
// whether the server has answered for any.
func (e *eachCall) send(ctx context.Context, pending []*eachWrite) (answered bool) {
	conn, err := acquire(ctx, e.store.pool)
	if err != nil {
		for _, w := range pending {
			w.err = err
		}
		return false
	}
	defer conn.Release()
	p := &pipeline{ctx: ctx, conn: conn.Conn(), mode: e.store.config.execMode}
	p.run(pending)
	if p.stale && !e.renewed[conn.Conn()] && forget(ctx, conn.Conn(), writeMessage) == nil {
		// Prepared anew it is as good as never tried.
		e.renewed[conn.Conn()] = true
		for _, w := range pending {
			if w.err != nil && classify(w.err) == classStale {
				w.err = errSkipped
			}
		}
	}
	return p.answered
}
