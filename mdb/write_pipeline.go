package mdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Sizes of a pipeline.
const (
	// pipelineAhead is how many writes are sent ahead of their answers: few enough
	// that the answers fit the buffers between the server and here, so that neither of
	// the two waits to be read while it writes.
	pipelineAhead = 256
	// pipelineSpan is how many writes to a stream are between two points at which the
	// server sends its answers.
	pipelineSpan = pipelineAhead / 4
	// pipelineBuffer is how many bytes are gathered before they are sent.
	pipelineBuffer = 64 << 10
	// pipelineOverhead is more than what a write takes besides its arguments.
	pipelineOverhead = 400
)

// A pipeline does writes on a connection, each as its own transaction, without
// waiting for one before it sends the next.
//
// A write that is alone on its stream is a statement with a Sync of its own, which
// commits it, and after which the server continues if it has failed. Writes to the same
// stream are a chain of transactions: COMMIT AND CHAIN follows each, and once one has
// failed the server rejects all that follows, up to the ROLLBACK at the chain's end. So
// none of them can overtake one that has failed, and nobody needs to wait for an answer to
// find that out. On success, too, the ROLLBACK has a transaction to end: the empty one
// that the last COMMIT AND CHAIN has begun.
type pipeline struct {
	ctx  context.Context //nolint:containedctx // of the one call that a pipeline is made for
	conn *pgx.Conn
	mode pgx.QueryExecMode

	watcher *watcher
	watched *call // of the connection

	*pgconn.Pipeline
	prepared map[*statement]*pgconn.StatementDescription // nil: in this mode none is prepared
	call     *rawCall

	trace  *trace               // nil: none
	tag    pgconn.CommandTag    // of the last write
	queued map[*eachWrite][]any // the arguments of each write, as a tracer sees them

	answered bool // any write
	stale    bool // the prepared statement, to the server
}

// A span is a piece of a pipeline between two Syncs.
type span struct {
	writes  []*eachWrite
	size    int // in bytes, at most
	chained bool
	begin   bool // of the chain
	end     bool
}

// spans cuts the writes, of which those to one stream are next to each other.
func spans(writes []*eachWrite) []span {
	var all []span
	for i, w := range writes {
		begin := i == 0 || w.stream != writes[i-1].stream
		end := i == len(writes)-1 || w.stream != writes[i+1].stream
		if begin || len(all[len(all)-1].writes) == pipelineSpan || all[len(all)-1].size >= pipelineBuffer {
			all = append(all, span{writes: writes[i:i:len(writes)], chained: !begin || !end, begin: begin})
		}
		last := &all[len(all)-1]
		last.writes = append(last.writes, w)
		last.size += w.size() + pipelineOverhead
		last.end = end
	}
	return all
}

// run sets the outcome of each write.
func (p *pipeline) run(writes []*eachWrite) {
	for _, w := range writes {
		w.outcome, w.err = unsent, nil
	}
	err := p.watcher.explain(p.watched, p.do(writes))
	if err == nil {
		return
	}
	var pgErr *pgconn.PgError
	unprepared := errors.As(err, &pgErr) && !p.conn.IsClosed()
	for _, w := range writes {
		switch {
		case w.err != nil, w.outcome != unsent && w.outcome != sent:
		case unprepared: // the server has rejected the statement, and knows of no write
			w.outcome, w.err = refused, err
		default:
			w.err = &brokenError{sent: w.outcome == sent, err: err}
		}
	}
}

// do sends the writes, and reads their answers. Its error is that of the connection.
func (p *pipeline) do(writes []*eachWrite) error {
	return p.within(writes, func() error { return p.exchange(spans(writes)) })
}

// within calls exchange while the pipeline is open.
func (p *pipeline) within(writes []*eachWrite, exchange func() error) (err error) {
	p.trace = traced(p.conn)
	if p.mode == pgx.QueryExecModeCacheStatement {
		if err := p.prepare(writes); err != nil {
			return err
		}
	}
	if p.trace != nil && p.trace.batch != nil {
		p.traceStart(writes)
		defer func() { p.trace.batch.TraceBatchEnd(p.ctx, p.conn, pgx.TraceBatchEndData{Err: err}) }()
	}
	p.call = newRawCall()
	defer p.call.release()
	p.Pipeline = p.conn.PgConn().StartPipeline(p.ctx)
	defer func() {
		if closeErr := p.Close(); err == nil {
			err = closeErr
		}
	}()
	return exchange()
}

// exchange sends the spans, and reads their answers.
func (p *pipeline) exchange(waiting []span) error {
	var unanswered []span
	ahead := 0 // writes in them
	for len(waiting) > 0 || len(unanswered) > 0 {
		n, size := 0, 0
		for n < len(waiting) && size < pipelineBuffer && ahead < pipelineAhead {
			size += waiting[n].size
			ahead += len(waiting[n].writes)
			n++
		}
		if n > 0 {
			if err := p.send(waiting[:n]); err != nil {
				return err
			}
			unanswered, waiting = append(unanswered, waiting[:n]...), waiting[n:]
		}
		rest := ahead
		switch {
		case len(waiting) == 0:
			rest = 0
		case ahead >= pipelineAhead:
			rest = pipelineAhead / 2 // so that the server has something to do
		}
		for ahead > rest {
			if err := p.receive(unanswered[0]); err != nil {
				return err
			}
			ahead -= len(unanswered[0].writes)
			unanswered = unanswered[1:]
		}
	}
	return nil
}

// prepare prepares the statements of the writes.
func (p *pipeline) prepare(writes []*eachWrite) (err error) {
	p.prepared = make(map[*statement]*pgconn.StatementDescription, 1)
	for _, w := range writes {
		st := w.statement()
		if p.prepared[st] != nil {
			continue
		}
		if p.prepared[st], err = p.trace.prepare(p.ctx, p.conn, st); err != nil {
			return err
		}
	}
	return nil
}

// send sends the spans. Unless it fails in a way that proves the opposite, the server may
// have received them.
func (p *pipeline) send(spans []span) error {
	for _, s := range spans {
		if s.begin && s.chained {
			p.SendQueryParams("BEGIN", nil, nil, nil, nil)
		}
		for _, w := range s.writes {
			params, _ := p.call.encode(w.arguments())
			p.sendWrite(w, params)
			if s.chained {
				p.SendQueryParams("COMMIT AND CHAIN", nil, nil, nil, nil)
			}
		}
		p.SendPipelineSync()
		if s.end && s.chained {
			p.SendQueryParams("ROLLBACK", nil, nil, nil, nil)
			p.SendPipelineSync()
		}
	}
	err := p.Flush()
	if err != nil && pgconn.SafeToRetry(err) {
		return err
	}
	for _, s := range spans {
		for _, w := range s.writes {
			w.outcome = sent
		}
	}
	return err
}

func (p *pipeline) sendWrite(w *eachWrite, params [][]byte) {
	if st := w.statement(); p.prepared != nil {
		p.SendQueryStatement(p.prepared[st], params, nil, nil)
	} else {
		p.SendQueryParams(st.sql, params, nil, nil, nil)
	}
}

// receive reads the answers to a span. The error is that of the connection; those
// of the server are the writes'.
func (p *pipeline) receive(s span) error {
	for i, w := range s.writes {
		begun := p.now()
		forgetCancelledWait(p.conn)
		err := p.receiveWrite(w, s, i == 0 && s.begin)
		p.traceAnswer(w, begun, err)
		if p.isBroken(err) {
			return err
		}
		p.answered = true
		if err == nil {
			w.outcome = done
			if w.err = checkWait(p.conn, nil); w.err != nil {
				w.outcome = sent // as if it had not been answered
			}
			continue
		}
		w.outcome, w.err = refused, err
		switch {
		case classify(err) == classStale:
			p.stale = true
		case !s.chained || i == 0 && s.begin:
		// No transaction: the last one has failed at its end, and so has had none to
		// continue in. What was done since is undone, as it could not be committed.
		case classify(err) == classAborted:
			w.outcome = skipped
		}
		for _, w := range s.writes[i+1:] {
			w.outcome = skipped
		}
		if err := p.synced(); err != nil {
			return err
		}
		return p.endChain(s)
	}
	if s.chained {
		if err := p.synced(); err != nil {
			return err
		}
	}
	return p.endChain(s)
}

// isBroken reports whether err is that of the connection, and not of a statement.
func (p *pipeline) isBroken(err error) bool {
	var pgErr *pgconn.PgError
	return err != nil && (!errors.As(err, &pgErr) || p.conn.IsClosed())
}

func (p *pipeline) receiveWrite(w *eachWrite, s span, first bool) error {
	if s.chained && first {
		if err := p.executed(); err != nil {
			return err
		}
	}
	if err := p.written(w); err != nil {
		return err
	}
	if s.chained {
		return p.executed()
	}
	return p.synced()
}

func (p *pipeline) endChain(s span) error {
	if !s.chained || !s.end {
		return nil
	}
	if err := p.executed(); err != nil {
		return err
	}
	return p.synced()
}

// written reads the row of a write, which proves nothing yet.
func (p *pipeline) written(w *eachWrite) error {
	p.tag = pgconn.CommandTag{}
	rows, err := p.results()
	if err != nil {
		return err
	}
	r := pgx.RowsFromResultReader(p.conn.TypeMap(), rows)
	err = readAll(r, nil, w.read)
	p.tag = r.CommandTag()
	return err
}

// traceStart traces the writes as a batch, which is what they are to pgx's tracers. The
// statements that separate the transactions are left out.
func (p *pipeline) traceStart(writes []*eachWrite) {
	batch := new(pgx.Batch)
	p.queued = make(map[*eachWrite][]any)
	for _, w := range writes {
		args := p.trace.shown(w.arguments())
		p.queued[w] = args
		batch.Queue(w.statement().sql, args...)
	}
	p.ctx = p.trace.batch.TraceBatchStart(p.ctx, p.conn, pgx.TraceBatchStartData{Batch: batch})
}

// now returns the time if there is a tracer to tell it.
func (p *pipeline) now() (now time.Time) {
	if p.queued != nil {
		now = time.Now()
	}
	return now
}

// traceAnswer traces the answer to a write.
func (p *pipeline) traceAnswer(w *eachWrite, begun time.Time, err error) {
	if args, ok := p.queued[w]; ok {
		p.trace.batch.TraceBatchQuery(p.ctx, p.conn, pgx.TraceBatchQueryData{
			SQL: w.statement().sql, Args: args, CommandTag: p.tag, Err: err, ReadStartTime: begun,
		})
	}
}

// executed reads the answer to a statement without rows.
func (p *pipeline) executed() error {
	rows, err := p.results()
	if err != nil {
		return err
	}
	_, err = rows.Close()
	return err
}

func (p *pipeline) results() (*pgconn.ResultReader, error) {
	results, err := p.GetResults()
	if err != nil {
		return nil, err
	}
	rows, ok := results.(*pgconn.ResultReader)
	if !ok {
		return nil, fmt.Errorf("%T, want rows", results)
	}
	return rows, nil
}

// synced reads that the server is ready for what follows a Sync.
func (p *pipeline) synced() error {
	results, err := p.GetResults()
	if err != nil {
		return err
	}
	if _, ok := results.(*pgconn.PipelineSync); !ok {
		return fmt.Errorf("%T, want the end of a transaction", results)
	}
	return nil
}
