// Package schema installs Message DB into a PostgreSQL database from Go.
//
// What [Install] creates has the contract of Message DB 1.3.0: its tables,
// indexes, functions, views, grants and error texts, so that every client of
// Message DB works with it. The SQL is this project's own. It differs where that
// makes it faster or safer: the functions on names are inlined expressions, the
// retrieval functions run fixed plans, and every body names its schema, so that
// no search path is needed.
package schema

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/trigger"
)

// Version is the version of Message DB whose contract [Install] provides.
const Version = "1.3.0"

//go:embed sql/*.sql
var files embed.FS

// DB begins transactions. A *pgxpool.Pool and a *pgx.Conn are such.
type DB interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// ForeignObjectsError says that [Install] found objects with the names of
// Message DB's that are something else, and has changed nothing.
type ForeignObjectsError struct {
	// Found describes each of them, and what was expected in its place.
	Found []string
}

func (e *ForeignObjectsError) Error() string {
	return "schema: the database holds a schema message_store that is not Message DB's: " +
		strings.Join(e.Found, "; ") + "; install into another database, or remove them first"
}

// Install creates Message DB in the database that db is connected to. Where a
// Message DB exists already, of any origin, Install leaves it as it is and
// returns nil. Where the schema message_store holds anything else under the names
// that Message DB needs, it changes nothing and returns a [*ForeignObjectsError].
//
// All of it happens in one transaction, and concurrent calls wait for one
// another. The caller needs the right to create a schema in the database and, if
// the role message_store does not exist yet, to create roles. PostgreSQL 14 is
// the oldest version supported.
func Install(ctx context.Context, db DB) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		path, err := setting(ctx, tx, "search_path")
		if err != nil {
			return fmt.Errorf("schema: look at the search path: %w", err)
		}
		if err := install(ctx, tx); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "SELECT set_config('search_path', $1, true)", path)
		return err
	})
}

// setting returns a setting's value, which is put back behind a change of it: within a
// caller's transaction the change would last to its end.
func setting(ctx context.Context, tx pgx.Tx, name string) (value string, err error) {
	err = tx.QueryRow(ctx, "SHOW "+name, pgx.QueryExecModeSimpleProtocol).Scan(&value)
	return value, err
}

// installLock is the advisory lock that installers of one database take. The
// two-number keys are apart from the single-number ones that Message DB locks
// categories with.
var installLock = fmt.Sprintf("SELECT pg_catalog.pg_advisory_xact_lock(%d, 1)", trigger.Key)

func install(ctx context.Context, tx pgx.Tx) error {
	// With a stricter isolation the catalogue would be that from before the wait, and
	// with the caller's search path the objects might refer to others' functions.
	for _, sql := range []string{"SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "SET LOCAL search_path TO pg_catalog, pg_temp"} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fmt.Errorf("schema: %s: %w", sql, err)
		}
	}
	if _, err := tx.Exec(ctx, installLock); err != nil {
		return fmt.Errorf("schema: lock out other installers: %w", err)
	}
	installed, foreign, err := inspect(ctx, tx)
	switch {
	case err != nil || installed:
		return err
	case len(foreign) > 0:
		return &ForeignObjectsError{Found: foreign}
	}
	scripts, err := fs.Glob(files, "sql/*.sql")
	if err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	for _, name := range scripts {
		sql, err := files.ReadFile(name)
		if err != nil {
			return fmt.Errorf("schema: %w", err)
		}
		// Several statements at once take the simple protocol.
		if _, err := tx.Conn().PgConn().Exec(ctx, string(sql)).ReadAll(); err != nil {
			return fmt.Errorf("schema: run %s: %w", name, explain(err))
		}
	}
	return nil
}

// explain adds what to do to the errors that an administrator meets.
func explain(err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "42501" {
		return fmt.Errorf("%w (the installer needs CREATE on the database and, unless the role message_store exists, CREATEROLE)", err)
	}
	return err
}
