package mdb

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestErrorsOfPgx checks the class of each error that pgx makes itself when it executes a
// statement, in all modes. An update of pgx may change how these errors are to be recognized.
func TestErrorsOfPgx(t *testing.T) {
	t.Parallel()
	cfg, err := pgx.ParseConfig(testdb.Shared(t))
	if err != nil {
		t.Fatal(err)
	}
	two := newStatement("two", `SELECT $1::bigint + $2::bigint`)
	row := newStatement("row", `SELECT $1::text, $2::bigint`)
	many := func(rows pgx.Rows) error {
		var a, b int64
		for rows.Next() {
			if err := scanRow(rows, &a, &b); err != nil {
				return err
			}
		}
		return rows.Err()
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			cfg := cfg.Copy()
			cfg.DefaultQueryExecMode = mode
			conn, err := pgx.ConnectConfig(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.Background())
			closedTx, err := conn.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := closedTx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, tt := range []struct {
				name    string
				session session
				ctx     context.Context
				st      *statement
				read    func(pgx.Rows) error
				args    []any
				want    class
			}{
				{"unencodable argument", conn, t.Context(), two, drain, []any{int64(1), make(chan int)}, classUnsendable},
				{"ended transaction", closedTx, t.Context(), two, drain, []any{int64(1), int64(2)}, classUnsendable},
				{"ended context", conn, canceled, two, drain, []any{int64(1), int64(2)}, classNotSent},
				{"type of a column", conn, t.Context(), row, many, []any{"x", int64(2)}, classUnreadable},
				{"number of columns", conn, t.Context(), two, many, []any{int64(1), int64(2)}, classUnreadable},
				{"reader's own error", conn, t.Context(), two, func(pgx.Rows) error { return errors.New("not as expected") }, []any{int64(1), int64(2)}, classUnreadable},
			} {
				err := query(tt.ctx, tt.session, mode, tt.st, tt.read, tt.args)
				if got := classify(err); err == nil || got != tt.want {
					t.Errorf("%s: got error %v of class %d, want class %d", tt.name, err, got, tt.want)
				}
				err = queryBatch(tt.ctx, tt.session, mode, []step{{st: tt.st, read: tt.read, args: tt.args}})
				if got := classify(err); err == nil || got != tt.want {
					t.Errorf("%s, in a batch: got error %v of class %d, want class %d", tt.name, err, got, tt.want)
				}
			}
			// The connection is as good as before.
			if err := query(t.Context(), conn, mode, two, drain, []any{int64(1), int64(2)}); err != nil {
				t.Error(err)
			}
			// In the mode exec, it is the server that finds out.
			if err := query(t.Context(), conn, mode, two, drain, []any{int64(1)}); mode != pgx.QueryExecModeExec && classify(err) != classUnsendable {
				t.Errorf("missing argument: got error %v of class %d, want class %d", err, classify(err), classUnsendable)
			}
			if err := conn.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			err = query(t.Context(), conn, mode, two, drain, []any{int64(1), int64(2)})
			if got := classify(err); got.retryWrite() != byTime {
				t.Errorf("closed connection: got error %v of class %d, want a retry", err, got)
			}
		})
	}
}
