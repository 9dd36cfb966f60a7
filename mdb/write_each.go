package mdb

import (
	"context"
	"log/slog"

	"github.com/jackc/pgx/v5"
)

// A Write is one of the independent writes of [Store.WriteEach]. Its fields are the
// arguments of WriteMessage.
type Write struct {
	// Stream is the stream to write to.
	Stream StreamName
	// Message is the message to write.
	Message ProposedMessage
	// Options apply to this write alone.
	Options []WriteOption
}

// A WriteResult is the result of a [Write].
type WriteResult struct {
	// Written says where the message is, if Err is nil.
	Written Written
	// Err is an error of WriteMessage, or a [*SkippedError].
	Err error
}

// WriteEach does many independent writes in one call: each is a transaction of its own,
// with its own result at its own index, and the errors of WriteMessage. As long as none
// fails the call takes one connection and, for the first 256 writes, one round trip;
// beyond these, answers are read while further writes are on their way. Use WriteMessages
// to write all of several messages or none.
//
// Writes to one stream are done in their order. One that fails, or is rejected before it
// is sent, makes those after it to the same stream fail with a [*SkippedError], and no
// others. There is no order between streams. A write that waits for a category's lock
// delays those after it.
//
// Arguments of all writes are checked before any is sent; the valid writes are sent.
// Retries after transient errors, and looking for a repeat with [Idempotent], take
// further round trips. If the context ends, writes that were sent and not answered fail
// with an [*UnknownOutcomeError], and those that were not sent with the context's error.
//
// With [WithGroupCommit], the writes to one category are sent in one transaction, except those to
// a stream that the call writes to several times. Their results are the same, and do not depend
// on each other either. Each category takes a connection of its own.
//
// If the pool's DefaultQueryExecMode is pgx.QueryExecModeSimpleProtocol, which has no
// pipeline, the writes are sent one at a time. In the other modes the pool's tracer sees
// them as a batch, if it is a [pgx.BatchTracer].
func (s *Store) WriteEach(ctx context.Context, ws []Write) []WriteResult {
	call := WriteCall{Method: "WriteEach", Writes: len(ws), Messages: len(ws)}
	ctx, begun := s.config.hooks.startCall(ctx, call)
	e := eachCall{store: s, results: make([]WriteResult, len(ws)), failed: make(map[StreamName]int), place: place{gate: s.gate}}
	e.write(ctx, ws)
	s.config.hooks.endCall(ctx, call, begun, e.firstError())
	return e.results
}

// write does the writes.
func (e *eachCall) write(ctx context.Context, ws []Write) {
	pending := e.propose(ctx, ws)
	if e.store.config.execMode == pgx.QueryExecModeSimpleProtocol {
		e.oneByOne(ctx, pending)
		return
	}
	defer e.place.leave()
	grouped, alone := e.enterGroups(e.begin(ctx, pending)) //nolint:contextcheck // a group goes on, whichever of its callers leaves
	pending = append(e.round(ctx, alone), e.settle(ctx, e.leaveGroups(ctx, grouped), true)...)
	for len(pending) > 0 {
		pending = e.round(ctx, pending)
	}
}

// firstError returns the error of the first write that has failed.
func (e *eachCall) firstError() error {
	for i := range e.results {
		if e.results[i].Err != nil {
			return e.results[i].Err
		}
	}
	return nil
}

// An eachCall is a call of WriteEach.
type eachCall struct {
	store   *Store
	results []WriteResult
	failed  map[StreamName]int // the index of the first write to fail
	place   place              // at the store's gate
}

// An outcome is what the last attempt of a write has come to.
type outcome int

const (
	unsent  outcome = iota // it has not happened
	sent                   // it was not answered, so it may have happened
	done                   // it has happened
	skipped                // the server left it out because of an earlier write
	refused                // its error says why it has not happened
)

// An eachWrite is a write of a call.
type eachWrite struct {
	*proposedWrite
	index   int
	member  *member // nil: it is not sent in a group
	undone  bool    // its group was
	outcome outcome
	err     error // of an outcome other than done and skipped
}

// propose returns the writes that may be sent, those to one stream next to each
// other.
func (e *eachCall) propose(ctx context.Context, ws []Write) []*eachWrite {
	streams := make(map[StreamName][]*eachWrite)
	var order []StreamName
	for i, write := range ws {
		w, err := e.store.proposeWrite(ctx, write.Stream, []ProposedMessage{write.Message}, write.Options)
		if err == nil {
			err = e.skip(w, i)
		}
		if err != nil {
			e.fail(ctx, w, i, err)
			continue
		}
		if streams[w.stream] == nil {
			order = append(order, w.stream)
		}
		w.place = &e.place
		streams[w.stream] = append(streams[w.stream], &eachWrite{proposedWrite: w, index: i})
	}
	var pending []*eachWrite
	for _, stream := range order {
		pending = append(pending, streams[stream]...)
	}
	return pending
}

// skip returns the error of a write after one that has failed, or nil if none has.
func (e *eachCall) skip(w *proposedWrite, index int) error {
	first, ok := e.failed[w.stream]
	if !ok || first > index {
		return nil
	}
	return &SkippedError{Stream: w.stream, Failed: first, err: e.results[first].Err}
}

func (e *eachCall) fail(ctx context.Context, w *proposedWrite, index int, err error) {
	e.results[index].Err = err
	if first, ok := e.failed[w.stream]; !ok || index < first {
		e.failed[w.stream] = index
	}
	e.store.ended(ctx, w, err)
}

func (e *eachCall) succeed(ctx context.Context, w *eachWrite) {
	e.results[w.index].Written = w.written[0]
	if w.member == nil { // a group has told subscriptions
		e.store.wrote(w.stream)
	}
	e.store.ended(ctx, w.proposedWrite, nil)
}

func (e *eachCall) oneByOne(ctx context.Context, pending []*eachWrite) {
	for _, w := range pending {
		err := e.skip(w.proposedWrite, w.index)
		if err == nil {
			err = e.store.settle(ctx, w.proposedWrite)
		}
		if err != nil {
			e.fail(ctx, w.proposedWrite, w.index, err)
			continue
		}
		e.succeed(ctx, w)
	}
}

// begin waits if the gate is closed, and returns the writes to send.
func (e *eachCall) begin(ctx context.Context, pending []*eachWrite) []*eachWrite {
	var met *outage
	for _, w := range pending {
		if o := w.approach(e.store.config.retry, e.store.gate); o != nil {
			met = o
		}
	}
	if met == nil {
		return pending
	}
	if _, err := e.place.enter(ctx, met.deadline); err == nil {
		return pending
	}
	for _, w := range pending {
		e.fail(ctx, w.proposedWrite, w.index, w.giveUp(ctx, w.meet(e.store.config.retry, met.err).err))
	}
	return nil
}

// runner returns the runner for the next attempt of the writes. The time for retries of one
// that passes ends the wait of all for a connection.
func (e *eachCall) runner(pending []*eachWrite) *poolRunner {
	first := pending[0]
	for _, w := range pending {
		if w.outage != nil && (first.outage == nil || w.outage.deadline.Before(first.outage.deadline)) {
			first = w
		}
	}
	return e.store.retrying(&first.retries).runner.(*poolRunner)
}

// outcome records what the outcomes of writes on the connection say about the server.
func (e *eachCall) outcome(ctx context.Context, conn *pgx.Conn, pending []*eachWrite) {
	var readOnly, broken error
	for _, w := range pending {
		switch {
		case w.outcome == done:
			e.store.gate.answered()
		case w.outcome == refused && isReadOnly(w.err):
			if readOnly == nil {
				readOnly = e.store.readOnly.rejected(ctx, conn, w.err)
			}
			w.err = readOnly
		case w.outcome == refused:
			e.store.gate.note(ctx, w.err)
		case w.err != nil:
			broken = w.err
		}
	}
	if broken != nil { // the last outcome
		e.store.gate.note(ctx, broken)
	}
}

// round sends the writes once, and returns those that are to be sent again.
func (e *eachCall) round(ctx context.Context, pending []*eachWrite) (again []*eachWrite) {
	if len(pending) == 0 {
		return nil
	}
	return e.settle(ctx, pending, e.send(ctx, pending))
}

// settle records what the attempts of the writes have come to, and returns those that are to be sent again. The server has
// answered for any, or not.
func (e *eachCall) settle(ctx context.Context, pending []*eachWrite, answered bool) (again []*eachWrite) {
	var worst *eachWrite // the one that has failed the most often
	for i, w := range pending {
		// Sent again, each repeat would hold up those after it for a round.
		if w.outcome == skipped && i > 0 && pending[i-1].repeats(w.stream) && e.isThere(ctx, w) {
			w.outcome = done
		}
		judged, repeat, err := e.next(ctx, w, answered)
		if repeat {
			if err := e.skip(w.proposedWrite, w.index); err != nil {
				if w.unknown != nil { // it may have happened after the one that has failed
					err = w.giveUp(ctx, err)
				}
				e.fail(ctx, w.proposedWrite, w.index, err)
				continue
			}
		}
		switch {
		case repeat:
			again = append(again, w)
			if w.err = err; judged && (worst == nil || w.attempts > worst.attempts) {
				worst = w
			}
		case err != nil:
			if w.undone {
				e.store.groups.rests.failed(w.stream, err)
			}
			e.fail(ctx, w.proposedWrite, w.index, err)
		default:
			w.outcome = done
			e.succeed(ctx, w)
		}
	}
	if worst != nil {
		e.store.config.logger.LogAttrs(ctx, slog.LevelWarn, "retrying writes",
			slog.Int("writes", len(again)), slog.String("stream", string(worst.stream)), slog.Int("attempt", worst.attempts),
			slog.Bool("outcome_unknown", worst.unknown != nil), slog.Any("error", scrub(worst.err)))
		// If ctx or the time for retries ends, the next round finds that out for each write.
		_ = worst.wait(ctx, e.store.config.retry, e.store.gate)
	}
	return again
}

// next decides what follows from a write's outcome:
//
//	done     a success
//	refused  as for a single write, by its error
//	sent     as for a single write whose outcome is unknown
//	unsent   it is sent again; that counts as an attempt only where nothing got through
//	skipped  it is sent again, as it has not been tried
//
// It reports whether the outcome was judged as an attempt, and whether to send the write
// again; if not, the error is that of the write.
func (e *eachCall) next(ctx context.Context, w *eachWrite, answered bool) (judged, again bool, err error) {
	switch w.outcome {
	case skipped:
		return false, true, nil
	case unsent:
		if answered && ctx.Err() == nil {
			return false, true, w.err
		}
	case done:
		w.err = nil
	}
	again, err = e.store.retrying(&w.retries).judge(ctx, w.proposedWrite, w.err)
	return true, again, err
}

// repeats reports whether w was to the stream, and had happened before the call.
func (w *eachWrite) repeats(stream StreamName) bool {
	return w.outcome == done && w.stream == stream && w.written[0].Duplicate
}

// isThere reports whether a write that was skipped after one that had happened before has
// happened, too.
func (e *eachCall) isThere(ctx context.Context, w *eachWrite) bool {
	if !w.idempotent && w.unknown == nil {
		return false
	}
	found, err := e.store.retrying(&w.retries).look(ctx, w.proposedWrite)
	return err == nil && found.same()
}

// send sets the outcome of each write, and reports whether the server has answered for
// any.
func (e *eachCall) send(ctx context.Context, pending []*eachWrite) (answered bool) {
	conn, err := e.runner(pending).acquire(ctx)
	if err != nil {
		for _, w := range pending {
			w.outcome, w.err = refused, err
		}
		return false
	}
	defer conn.Release()
	defer func() { e.outcome(ctx, conn.Conn(), pending) }()
	for _, w := range pending {
		w.proxy = e.store.proxy()
	}
	c := e.store.watcher.begin(conn.Conn())
	defer func() { _ = e.store.watcher.end(ctx, c, nil) }()
	p := &pipeline{ctx: ctx, conn: conn.Conn(), mode: e.store.config.execMode, watcher: e.store.watcher, watched: c}
	p.run(pending)
	if !p.stale {
		return p.answered
	}
	switch e.store.proxy() {
	case shardProxy:
		err = forget(ctx, conn.Conn(), writeOnShard)
	case plainProxy:
		err = forget(ctx, conn.Conn(), writeProxied, appendProxied)
	default:
		err = forget(ctx, conn.Conn(), writeMessage, appendMessage)
	}
	stale := takeStale(pending, err)
	if err != nil {
		return false // so that this counts as an attempt
	}
	// A statement that was just prepared is not stale. If the server says so again, something
	// else raises the error.
	again := &pipeline{ctx: ctx, conn: conn.Conn(), mode: p.mode, watcher: p.watcher, watched: c}
	again.run(stale)
	return true
}

// takeStale returns the writes that have not been tried because the prepared statement was
// stale, as unsent because of err.
func takeStale(pending []*eachWrite, err error) (stale []*eachWrite) {
	var stream StreamName
	for _, w := range pending {
		if w.outcome == refused && classify(w.err) == classStale {
			stream = w.stream
		} else if w.outcome != skipped || w.stream != stream {
			continue
		}
		w.outcome, w.err = unsent, &brokenError{err: err}
		stale = append(stale, w)
	}
	return stale
}
