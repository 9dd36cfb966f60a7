package mdb

import (
	"cmp"
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/beside"
)

func init() { beside.Of, beside.Explain, beside.NotifyLike = besideStore, explain, notifyLike }

func besideStore(s *Store) beside.Store {
	return beside.Store{
		Logger:   s.config.logger,
		Direct:   s.config.direct,
		Sharded:  s.lookSharded,
		Connect:  func(ctx context.Context) (*pgx.Conn, error) { return connectBeside(ctx, s.pool) },
		Watch:    s.bell.Watch,
		ReadOnly: s.readOnly.rejectedInPool,
		Explain:  explain,
	}
}

func notifyLike(s *Store) StoreOption {
	return storeOption(func(c *storeConfig) {
		c.notify = s.config.notify
		c.notify.enabled = true
	})
}

// connectBeside opens a connection for the ticks of consumers. Like a connection of the pool,
// it may lead through a pooler.
func connectBeside(ctx context.Context, pool *pgxpool.Pool) (*pgx.Conn, error) {
	cfg, err := configBeside(ctx, pool, nil, "message_store consumers")
	if err != nil {
		return nil, err
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	cfg.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, listenTimeout)
	return pgx.ConnectConfig(ctx, cfg)
}
