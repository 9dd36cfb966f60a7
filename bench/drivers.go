package main

import (
	"context"
	"database/sql"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A message is what a program without mdb would scan a row into.
type message struct {
	ID, Stream, Type         string
	Position, GlobalPosition int64
	Data, Metadata           *string
	Time                     time.Time
}

// pgxQuerier is what a program on pgx alone would do.
type pgxQuerier struct{ pool *pgxpool.Pool }

func (q pgxQuerier) messages(ctx context.Context, text string, args ...any) (int, error) {
	rows, err := q.pool.Query(ctx, text, args...)
	if err != nil {
		return 0, err
	}
	messages, err := pgx.CollectRows(rows, pgx.RowToStructByPos[message])
	return len(messages), err
}

func (q pgxQuerier) value(ctx context.Context, text string, args ...any) error {
	var value *int64
	return q.pool.QueryRow(ctx, text, args...).Scan(&value)
}

func (q pgxQuerier) inOneTransaction(ctx context.Context, text string, args [][]any) error {
	return pgx.BeginFunc(ctx, q.pool, func(tx pgx.Tx) error {
		batch := new(pgx.Batch)
		for _, a := range args {
			batch.Queue(text, a...)
		}
		return tx.SendBatch(ctx, batch).Close()
	})
}

// sqlQuerier is what a program on database/sql would do.
type sqlQuerier struct {
	db *sql.DB
	// prepared contains the statements if they are prepared once, and is nil if each
	// call prepares its own, as gomdb does.
	prepared map[string]*sql.Stmt
}

func newSQLQuerier(ctx context.Context, db *sql.DB, once bool) (*sqlQuerier, error) {
	q := &sqlQuerier{db: db}
	if !once {
		return q, nil
	}
	q.prepared = make(map[string]*sql.Stmt)
	for _, text := range allSQL {
		st, err := db.PrepareContext(ctx, text) //nolint:sqlclosecheck // it is used until the process ends
		if err != nil {
			return nil, err
		}
		q.prepared[text] = st
	}
	return q, nil
}

func (q *sqlQuerier) statement(ctx context.Context, text string) (st *sql.Stmt, done func(), err error) {
	if q.prepared != nil {
		return q.prepared[text], func() {}, nil
	}
	st, err = q.db.PrepareContext(ctx, text)
	if err != nil {
		return nil, nil, err
	}
	return st, func() { _ = st.Close() }, nil
}

func (q *sqlQuerier) messages(ctx context.Context, text string, args ...any) (int, error) {
	st, done, err := q.statement(ctx, text) //nolint:sqlclosecheck // done closes it
	if err != nil {
		return 0, err
	}
	defer done()
	rows, err := st.QueryContext(ctx, args...)
	if err != nil {
		return 0, err
	}
	defer func() { _ = rows.Close() }()
	var messages []message
	for rows.Next() {
		var m message
		if err := rows.Scan(&m.ID, &m.Stream, &m.Type, &m.Position, &m.GlobalPosition, &m.Data, &m.Metadata, &m.Time); err != nil {
			return 0, err
		}
		messages = append(messages, m)
	}
	return len(messages), rows.Err()
}

func (q *sqlQuerier) value(ctx context.Context, text string, args ...any) error {
	st, done, err := q.statement(ctx, text) //nolint:sqlclosecheck // done closes it
	if err != nil {
		return err
	}
	defer done()
	var value *int64
	return st.QueryRowContext(ctx, args...).Scan(&value)
}

func (q *sqlQuerier) inOneTransaction(ctx context.Context, text string, args [][]any) (err error) {
	tx, err := q.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	for _, a := range args {
		st, done, err := q.statement(ctx, text)
		if err != nil {
			return err
		}
		var position int64
		err = tx.StmtContext(ctx, st).QueryRowContext(ctx, a...).Scan(&position) //nolint:sqlclosecheck // done closes the statement it is derived from
		done()
		if err != nil {
			return err
		}
	}
	return tx.Commit()
}
