package mdb

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

// ConnectReplica makes [Connect] open a second pool, to a hot standby, and use it as [WithReplica]
// says. The pool is configured as the store's own, and [Store.Close] closes it. Connect does not fail if the
// replica cannot be reached: reads then use the primary.
func ConnectReplica(connString string) ConnectOption { return replicaOption(connString) }

type replicaOption string

func (o replicaOption) connect(c *connectConfig) { c.replica = (*string)(&o) }

// openReplica opens the pool of [ConnectReplica]. The functions on a standby are those of its primary, so it
// needs the same search path.
func openReplica(ctx context.Context, connString string, opts []ConfigureOption, path string) (*pgxpool.Pool, error) {
	cfg, fault := parseConnString(connString)
	if fault != "" {
		return nil, fmt.Errorf("mdb: invalid connection string of the replica: %s", fault)
	}
	configureFor(cfg, connString, opts)
	if path != "" {
		parameters(cfg.ConnConfig.RuntimeParams).set("search_path", path)
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("mdb: open a pool to the replica: %w", err)
	}
	return pool, nil
}

// configureFor calls Configure, except that it keeps an exec mode that the connection string chooses.
func configureFor(cfg *pgxpool.Config, connString string, opts []ConfigureOption) {
	chosen := cfg.ConnConfig.DefaultQueryExecMode
	Configure(cfg, opts...)
	if choosesExecMode(connString) {
		cfg.ConnConfig.DefaultQueryExecMode = chosen
	}
}
