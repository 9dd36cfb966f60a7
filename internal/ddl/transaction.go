// Package ddl has what programs need that change the schemas of a database which is in use: they wait for one another, do not depend
// on the settings of the session, let writers through that wait for them, and find out who else could change what they create.
package ddl

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/trigger"
)

// DB begins transactions.
type DB interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Lock takes the advisory lock that concurrent installers of one database wait
// for. Its key has two numbers, so it differs from the keys of Message DB's categories,
// which have one.
var Lock = fmt.Sprintf("SELECT pg_catalog.pg_advisory_xact_lock(%d, 1)", trigger.Key)

// ReadCommitted returns a DB that begins transactions with that isolation level: a stricter one would show the
// catalogue from before the wait for the lock.
func ReadCommitted(db DB) DB { return readCommitted{db} }

type readCommitted struct{ DB }

func (d readCommitted) Begin(ctx context.Context) (pgx.Tx, error) {
	tx, err := d.DB.Begin(ctx)
	if err != nil {
		return nil, err
	}
	// It can be changed only before the first query.
	const isolation = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
	if _, err := tx.Exec(ctx, isolation); err != nil {
		_ = tx.Rollback(ctx)
		return nil, fmt.Errorf("%s: %w", isolation, err)
	}
	return tx, nil
}

// WithSettings calls f with settings, and then restores them. It also sets the encoding,
// because SQL is sent in UTF-8 whatever the database's encoding is.
func WithSettings(ctx context.Context, tx pgx.Tx, settings map[string]string, f func() error) error {
	const set = "SELECT pg_catalog.set_config($1, $2, true)"
	// First of all, so that the values of the others are read in UTF-8.
	names := append([]string{"client_encoding"}, slices.Sorted(maps.Keys(settings))...)
	before := make([]string, len(names))
	for i, name := range names {
		value := cmp.Or(settings[name], "UTF8")
		// This mode leaves no prepared statement on the server, which a pooler may lose, and the
		// simple protocol does not work with all settings.
		err := tx.QueryRow(ctx, "SELECT pg_catalog.current_setting($1)", pgx.QueryExecModeExec, name).Scan(&before[i])
		if err == nil {
			_, err = tx.Exec(ctx, set, pgx.QueryExecModeExec, name, value)
		}
		if err != nil {
			return fmt.Errorf("set %s to %s: %w", name, value, err)
		}
	}
	if err := f(); err != nil {
		return err
	}
	for i, name := range slices.Backward(names) {
		if _, err := tx.Exec(ctx, set, pgx.QueryExecModeExec, name, before[i]); err != nil {
			return fmt.Errorf("restore %s: %w", name, err)
		}
	}
	return nil
}
