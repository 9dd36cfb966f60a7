package proctab

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Postmaster asks a server on this machine for its process.
func Postmaster(ctx context.Context, pool *pgxpool.Pool) (int, error) {
	const sql = "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int"
	var pid int
	err := pool.QueryRow(ctx, sql).Scan(&pid)
	return pid, err
}
