package mdb

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// writeInTx executes w in the transaction, with one attempt.
func (s *procedures) writeInTx(ctx context.Context, w *proposedWrite) error {
	in := s
	if w.inSavepoint {
		in = &procedures{runner: &savepointRunner{s.runner.(*txRunner)}, config: s.config, tx: s.tx}
	}
	first := s.tx.failed == nil
	w.attempts++
	err := in.attempt(ctx, w)
	if err != nil {
		err = in.explainInTx(ctx, w, err)
	}
	if err == nil {
		s.tx.written = append(s.tx.written, w.ids...)
		s.tx.streams = append(s.tx.streams, w.stream)
		return nil
	}
	if first && s.tx.failed != nil {
		s.tx.failed = err
	}
	return err
}

// explainInTx returns the error of w, which failed with err, or nil if w is idempotent and
// its messages are in the store.
func (s *procedures) explainInTx(ctx context.Context, w *proposedWrite, err error) error {
	class := classify(err)
	if !w.idempotent || class != classDuplicateID && class != classWrongVersion {
		return w.explain(err)
	}
	found, lookErr := s.look(ctx, w)
	switch {
	case lookErr != nil:
		return explain("look for the messages of a repeated write to stream "+string(w.stream), lookErr)
	case found.same():
		return nil
	case len(found.ids) > 0 && (class == classDuplicateID || found.inPlace):
		return found.duplicate(err)
	}
	return w.explain(err)
}

// undoSavepoint is sent without arguments, for which pgx uses the simple protocol in every
// mode: an aborted transaction cannot prepare the second statement before it has executed
// the first.
const undoSavepoint = `ROLLBACK TO SAVEPOINT mdb_in_savepoint; RELEASE SAVEPOINT mdb_in_savepoint`

// A savepointRunner runs statements within a savepoint of a transaction. If they fail, it
// undoes them, and the transaction has not failed.
type savepointRunner struct{ *txRunner }

func (r *savepointRunner) run(ctx context.Context, st *statement, read func(pgx.Rows) error, args ...any) error {
	return r.runBatch(ctx, nil, step{st: st, read: read, args: args})
}

func (r *savepointRunner) runBatch(ctx context.Context, _ *statement, steps ...step) error {
	if err := r.check(ctx, steps); err != nil {
		return err
	}
	set := false
	all := make([]step, 0, len(steps)+2)
	all = append(all, step{st: savepoint, read: func(rows pgx.Rows) error {
		err := drain(rows)
		set = err == nil
		return err
	}})
	all = append(all, steps...)
	all = append(all, step{st: releaseSavepoint, read: drain})
	for again := true; ; again = false {
		set = false
		err := queryBatch(ctx, r.tx, r.mode, all)
		if err == nil {
			return nil
		}
		if !set || r.undo(ctx) != nil {
			return r.end(ctx, err, statements(all)...)
		}
		switch class := classify(err); {
		case class == classStale && again && r.forget(ctx, statements(all)...) == nil:
			continue
		case class.retryTransaction() != noRetry:
			r.state.undone = err
		}
		return contextError(ctx, err)
	}
}

// undo rolls back to the savepoint and releases it. If the savepoint was released although
// the rows could not be read, it fails and aborts the transaction.
func (r *savepointRunner) undo(ctx context.Context) error {
	// The context of the call may have ended while the connection is still usable.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	_, err := r.tx.Exec(ctx, undoSavepoint)
	return err
}
