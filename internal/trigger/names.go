package trigger

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/loosescan"
)

// beginNames limits the time, because an index may be missing, and a migration may have locked the table.
const beginNames = "BEGIN READ ONLY; SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '10s'" + loosescan.ByIndex

var sqlNames = loosescan.Walk(loosescan.Category, "true") + `SELECT pg_catalog.hashtext(w.name), w.name FROM walk AS w ORDER BY w.steps`

// Names returns the names of the first [loosescan.MaxSteps] categories that have messages, by the keys of the listeners that these
// messages notify. A key has several names if their hashes are the same. The role must be allowed to read the table messages.
func Names(ctx context.Context, pool *pgxpool.Pool) (map[int32][]string, error) {
	names := make(map[int32][]string)
	err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{BeginQuery: beginNames}, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, sqlNames, pgx.QueryExecModeExec, "", loosescan.MaxSteps, loosescan.MaxSteps)
		var (
			key  int32
			name string
		)
		_, err := pgx.ForEachRow(rows, []any{&key, &name}, func() error {
			names[key] = append(names[key], name)
			return nil
		})
		return err
	})
	return names, err
}
