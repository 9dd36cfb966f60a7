package ddl

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// WithShortWaits calls f in a transaction that never waits long for a lock, and retries it.
// Concurrent installers wait for one another, because two transactions cannot replace the
// same function.
func WithShortWaits(ctx context.Context, db DB, settings map[string]string, f func(tx pgx.Tx) error) error {
	settings = maps.Clone(settings)
	settings["lock_timeout"] = "100ms"
	for {
		err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
			return WithSettings(ctx, tx, settings, func() error {
				if _, err := tx.Conn().PgConn().Exec(ctx, Lock).ReadAll(); err != nil {
					return err
				}
				return f(tx)
			})
		})
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "55P03" {
			return err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}
