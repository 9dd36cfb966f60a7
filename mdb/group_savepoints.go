package mdb

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// sendInSavepoints sends the members of a group that the server has refused once more: in one
// transaction again, but each in a savepoint and by the statement of a write by itself. So the
// one that the server refuses is found, and the others are written.
func (g *groups) sendInSavepoints(ctx context.Context, r *poolRunner, conn *pgx.Conn, members []*member) {
	writes := make([]*eachWrite, len(members))
	for i, m := range members {
		own := *m.proposedWrite // whose caller may have left
		own.written = make([]Written, len(m.ids))
		m.written = own.written
		writes[i] = &eachWrite{proposedWrite: &own, index: i}
	}
	forgetCancelledWait(conn)
	c := r.watcher.begin(conn)
	p := &pipeline{ctx: ctx, conn: conn, mode: r.mode, watcher: r.watcher, watched: c}
	committing := false
	err := p.within(writes, func() error { return p.exchangeInSavepoints(writes, &committing) })
	if p.isBroken(err) {
		err = &brokenError{sent: committing, err: err} // without the COMMIT, the server undoes it
	}
	err = r.outcome(ctx, conn, checkWait(conn, r.watcher.end(ctx, c, err)))

	results := make([]memberResult, len(members))
	for i, w := range writes {
		n := news{kind: attempted, err: w.err}
		switch {
		case err != nil && classify(err).lost() && w.err == nil:
			n.err = err
		case err != nil || classify(w.err) == classStale:
			n = news{kind: undone}
		default:
			g.rests.failed(w.stream, w.err)
		}
		results[i] = memberResult{members[i], n}
	}
	g.tell(results)
}

const (
	groupSavepoint = `SAVEPOINT mdb_in_group`
	groupRelease   = `RELEASE SAVEPOINT mdb_in_group`
	groupRollback  = `ROLLBACK TO SAVEPOINT mdb_in_group`
)

// exchangeInSavepoints does the writes in one transaction, each in a savepoint. After a write
// that fails, the server rejects what follows up to the next Sync, and then the rollback to
// the savepoint makes it continue. After one that succeeds, there is a new savepoint, and the
// rollback undoes nothing. The errors of the writes are set, and the error that is returned is
// that of the transaction. It sets committing before it sends the COMMIT.
func (p *pipeline) exchangeInSavepoints(writes []*eachWrite, committing *bool) error {
	p.plain("BEGIN")
	p.SendQueryParams(acquireLock.sql, [][]byte{[]byte(writes[0].stream)}, nil, nil, nil)
	p.plain(groupSavepoint)
	p.SendPipelineSync()
	sent, begun := 0, false
	for received := range writes {
		for size := 0; sent < len(writes) && sent-received < pipelineSpan && size < pipelineBuffer; sent++ {
			params, err := p.paramsOf(writes[sent])
			if err != nil {
				return err
			}
			for _, param := range params {
				size += len(param)
			}
			p.plain(groupRollback)
			p.sendWrite(writes[sent], params)
			p.plain(groupRelease)
			p.plain(groupSavepoint)
			p.SendPipelineSync()
		}
		if sent == len(writes) && !*committing {
			p.plain(groupRollback)
			p.plain("COMMIT")
			p.SendPipelineSync()
			*committing = true
		}
		if err := p.Flush(); err != nil {
			return err
		}
		if !begun {
			if err := p.executedAll(3); err != nil {
				return err
			}
			begun = true
		}
		if err := p.receiveInSavepoint(writes[received]); err != nil {
			return err
		}
	}
	return p.executedAll(2)
}

// plain sends a statement without arguments.
func (p *pipeline) plain(sql string) { p.SendQueryParams(sql, nil, nil, nil, nil) }

// paramsOf returns the encoded arguments of a write.
func (p *pipeline) paramsOf(w *eachWrite) ([][]byte, error) {
	args := w.arguments()
	if params, ok := p.call.encode(args); ok {
		return params, nil
	}
	params := make([][]byte, len(args))
	for i, arg := range args {
		var err error
		switch v := arg.(type) {
		case []string:
			params[i], err = p.conn.TypeMap().Encode(pgtype.TextArrayOID, pgx.TextFormatCode, v, nil)
		case payloads:
			params[i], err = p.conn.TypeMap().Encode(pgtype.TextArrayOID, pgx.TextFormatCode, []*string(v), nil)
		case *int64:
			if v != nil {
				params[i], err = p.conn.TypeMap().Encode(pgtype.Int8OID, pgx.TextFormatCode, *v, nil)
			}
		case string:
			params[i] = []byte(v)
		}
		if err != nil {
			return nil, err
		}
	}
	return params, nil
}

// receiveInSavepoint reads the answers for a write, and sets its error.
func (p *pipeline) receiveInSavepoint(w *eachWrite) error {
	if err := p.executed(); err != nil {
		return err
	}
	begun := p.now()
	err := p.written(w)
	p.traceAnswer(w, begun, err)
	switch {
	case err == nil:
		return p.executedAll(2)
	case p.isBroken(err):
		return err
	}
	w.err = err
	return p.synced()
}

// executedAll reads the answers to n statements without arguments, and to a Sync.
func (p *pipeline) executedAll(n int) error {
	for range n {
		if err := p.executed(); err != nil {
			return err
		}
	}
	return p.synced()
}
