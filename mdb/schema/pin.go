package schema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ddl"
	"github.com/messagedb-go/messagedb/internal/searchpath"
)

// PinSearchPath makes Message DB's functions independent of the search path of the sessions
// that call them, by ALTER FUNCTION … SET search_path = message_store, pg_temp. Message DB's
// own script installs functions that depend on it: if the path of a session finds another
// table messages first, they write to that, and report success. After PinSearchPath, no
// session needs message_store in its path. Each call of a changed function costs more time,
// as the page docs/production.md says.
//
// PinSearchPath returns how many functions it has changed. It leaves those that [Install]
// creates, and those with a search path of their own, unchanged, so it can be repeated. The
// role must own the functions. Message DB's update script creates functions again, without the
// path: call PinSearchPath after it.
func PinSearchPath(ctx context.Context, db DB) (changed int, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		// Two callers at the same time would both update the same rows of the catalogue.
		if _, err := tx.Exec(ctx, ddl.Lock); err != nil {
			return fmt.Errorf("schema: wait for other installers: %w", err)
		}
		rows, err := tx.Query(ctx, pinStatements)
		if err != nil {
			return fmt.Errorf("schema: look for functions that depend on the search path: %w", err)
		}
		statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("schema: look for functions that depend on the search path: %w", err)
		}
		for _, sql := range statements {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return fmt.Errorf("schema: %s: %w", sql, err)
			}
		}
		changed = len(statements)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return changed, nil
}

const pinStatements = `
SELECT pg_catalog.format('ALTER FUNCTION message_store.%I(%s) SET search_path = message_store, pg_temp', proname, pg_catalog.oidvectortypes(proargtypes))
FROM (` + searchpath.Dependent + `) AS dependent
ORDER BY proname, oid`
