package shop

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"
)

// createTables creates the tables of the shop, and one that stands for another company's system.
func createTables(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, `
		SELECT pg_advisory_xact_lock(7001); -- CREATE IF NOT EXISTS may fail if two instances start together
		CREATE SCHEMA IF NOT EXISTS shop;
		CREATE TABLE IF NOT EXISTS shop.orders (id text PRIMARY KEY, customer text NOT NULL, cents bigint NOT NULL, state text NOT NULL);
		CREATE TABLE IF NOT EXISTS shop.charges (key text PRIMARY KEY, cents bigint NOT NULL, receipt uuid NOT NULL DEFAULT gen_random_uuid())`)
	return err
}

// A provider of payments charges once for each key, and returns the same receipt again.
type provider struct{ pool *pgxpool.Pool }

func (p provider) charge(ctx context.Context, key string, cents int64) (receipt string, err error) {
	err = p.pool.QueryRow(ctx, `INSERT INTO shop.charges AS c (key, cents) VALUES ($1, $2)
		ON CONFLICT (key) DO UPDATE SET key = c.key RETURNING c.receipt::text`, key, cents).Scan(&receipt)
	return receipt, err
}
