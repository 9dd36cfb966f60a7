package mdb

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Sizes of a pipeline.
const (
	// pipelineAhead is how many writes are sent ahead of their answers: few enough
	// that the answers fit the buffers between the server and here, so that none of
	// the two waits to be read while it writes.
	pipelineAhead = 256
	// pipelineSpan is how many writes to a stream lie between two points at which the
	// server sends its answers.
	pipelineSpan = pipelineAhead / 4
	// pipelineBuffer is how many bytes are gathered before they are sent.
	pipelineBuffer = 64 << 10
	// pipelineOverhead is more than what a write takes beside its arguments.
	pipelineOverhead = 400
)

// A pipeline does writes on a connection, each as its own transaction, without
// waiting for one before it sends the next.
//
// A write that is alone on its stream is a statement with a Sync of its own, which
// commits it, and which the server goes on from if it has failed. Writes to the same
// stream are a chain of transactions: COMMIT AND CHAIN lies behind each, and once
// one has failed the server refuses all that follows, up to the ROLLBACK at the
// chain's end. So none of them can overtake one that has failed, and nobody needs to
// wait for an answer to find that out. On success, too, the ROLLBACK has a
// transaction to end: the empty one that the last COMMIT AND CHAIN has begun.
type pipeline struct {
	ctx  context.Context //nolint:containedctx // of the one call that a pipeline is made for
	conn *pgx.Conn
	mode pgx.QueryExecMode

	*pgconn.Pipeline
	statement *pgconn.StatementDescription // nil: in this mode none is prepared
	call      *rawCall

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

// run sets what has become of each write.
func (p *pipeline) run(writes []*eachWrite) {
	for _, w := range writes {
		w.done, w.err = false, nil
	}
	unsent, unanswered := spans(writes), []span(nil)
	err := p.do(&unsent, &unanswered)
	if err == nil {
		return
	}
	var pgErr *pgconn.PgError
	refused := errors.As(err, &pgErr) && !p.conn.IsClosed() // to prepare the statement
	for sent, spans := range map[bool][]span{false: unsent, true: unanswered} {
		for _, s := range spans {
			for _, w := range s.writes {
				switch {
				case w.done || w.err != nil:
				case refused:
					w.err = err
				default:
					w.err = &brokenError{sent: sent, err: err}
				}
			}
		}
	}
}

// do moves spans from unsent to unanswered and out of that. What it leaves there
// when it fails is what the error is about.
func (p *pipeline) do(unsent, unanswered *[]span) (err error) {
	if p.mode == pgx.QueryExecModeCacheStatement {
		if p.statement, err = p.conn.Prepare(p.ctx, writeMessage.name, writeMessage.sql); err != nil {
			return err
		}
	}
	p.call = newRawCall()
	defer p.call.release()
	p.Pipeline = p.conn.PgConn().StartPipeline(p.ctx)
	defer func() {
		if closeErr := p.Close(); err == nil {
			err = closeErr
		}
	}()

	ahead := 0 // writes sent and not answered
	for len(*unsent) > 0 || len(*unanswered) > 0 {
		n, size := 0, 0
		for n < len(*unsent) && size < pipelineBuffer && ahead < pipelineAhead {
			size += (*unsent)[n].size
			ahead += len((*unsent)[n].writes)
			n++
		}
		if n > 0 {
			err := p.send((*unsent)[:n])
			if err == nil || !pgconn.SafeToRetry(err) {
				*unanswered = append(*unanswered, (*unsent)[:n]...)
				*unsent = (*unsent)[n:]
			}
			if err != nil {
				return err
			}
		}
		rest := ahead
		switch {
		case len(*unsent) == 0:
			rest = 0
		case ahead >= pipelineAhead:
			rest = pipelineAhead / 2 // so that the server has something to do
		}
		for ahead > rest {
			if err := p.receive((*unanswered)[0]); err != nil {
				return err
			}
			ahead -= len((*unanswered)[0].writes)
			*unanswered = (*unanswered)[1:]
		}
	}
	return nil
}

func (p *pipeline) send(spans []span) error {
	for _, s := range spans {
		if s.begin && s.chained {
			p.SendQueryParams("BEGIN", nil, nil, nil, nil)
		}
		for _, w := range s.writes {
			params, _ := p.call.encode(w.arguments())
			if p.statement != nil {
				p.SendQueryStatement(p.statement, params, nil, nil)
			} else {
				p.SendQueryParams(writeMessage.sql, params, nil, nil, nil)
			}
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
	return p.Flush()
}

// receive reads the answers to a span. The error is that of the connection; those
// of the server are the writes'.
func (p *pipeline) receive(s span) error {
	for i, w := range s.writes {
		err := p.receiveWrite(w, s, i == 0 && s.begin)
		var pgErr *pgconn.PgError
		if err != nil && (!errors.As(err, &pgErr) || p.conn.IsClosed()) {
			return err
		}
		p.answered = true
		if err == nil {
			w.done = true
			continue
		}
		w.err = err
		switch {
		case classify(err) == classStale:
			p.stale = true
		case !s.chained || i == 0 && s.begin:
		// No transaction: the last one has failed at its end, and so has had none to go
		// on in. What was done since is undone, as it could not be committed.
		case classify(err) == classAborted:
			w.err = errSkipped
		}
		for _, w := range s.writes[i+1:] {
			w.err = errSkipped
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
	rows, err := p.results()
	if err != nil {
		return err
	}
	return readAll(pgx.RowsFromResultReader(p.conn.TypeMap(), rows), nil, w.read)
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

// synced reads that the server is ready for what is behind a Sync.
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
