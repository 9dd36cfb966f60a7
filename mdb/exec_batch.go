package mdb

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// queryBatch is the function of the same name, for fewer allocations where it can.
func (r *poolRunner) queryBatch(ctx context.Context, conn *pgx.Conn, steps []step) error {
	if r.mode == pgx.QueryExecModeCacheStatement && traced(conn) == nil {
		if ok, err := queryBatchRaw(ctx, conn, steps); ok {
			return err
		}
	}
	return queryBatch(ctx, conn, r.mode, steps)
}

// queryBatchRaw is to queryBatch what queryRaw is to query, on a connection without a
// tracer. A subscription's polls are such batches.
func queryBatchRaw(ctx context.Context, conn *pgx.Conn, steps []step) (ok bool, err error) {
	c := newRawCall()
	defer c.release()
	var batch pgconn.Batch
	for i := range steps {
		params, ok := c.encode(steps[i].args)
		if !ok {
			return false, nil
		}
		description, err := conn.Prepare(ctx, steps[i].st.name, steps[i].st.sql)
		if err != nil {
			return true, notSent(conn, err)
		}
		batch.ExecStatement(description, params, nil, binaryResults)
	}
	results := conn.PgConn().ExecBatch(ctx, &batch)
	for i := range steps {
		if !results.NextResult() {
			break // Close returns why
		}
		if err = readAll(pgx.RowsFromResultReader(conn.TypeMap(), results.ResultReader()), nil, steps[i].read); err != nil {
			break
		}
	}
	// The commit may fail although every step has succeeded, and although a result could not
	// be decoded.
	if closeErr := results.Close(); closeErr != nil && (err == nil || errors.As(err, new(*unreadableError))) {
		err = closeErr
	}
	return true, err
}
