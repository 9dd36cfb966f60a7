// Package pgserver connects the benchmarks to a PostgreSQL server on this machine and
// measures the CPU time of its processes.
package pgserver

import (
	"context"
	"fmt"
	"net/url"

	"github.com/jackc/pgx/v5/pgxpool"
)

// PoolURL adds the size of the pool to a URL.
func PoolURL(address string, connections int) string {
	u, err := url.Parse(address)
	if err != nil {
		panic(err) // pgtest built it
	}
	q := u.Query()
	q.Set("pool_max_conns", fmt.Sprint(connections))
	u.RawQuery = q.Encode()
	return u.String()
}

// Postmaster returns the process ID of the server.
func Postmaster(ctx context.Context, pool *pgxpool.Pool) (int, error) {
	const sql = "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int"
	var pid int
	err := pool.QueryRow(ctx, sql).Scan(&pid)
	return pid, err
}
