// Package schema installs Message DB into a PostgreSQL database from Go.
//
// [Install] creates a database with the contract of Message DB 1.3.0: the same tables,
// indexes, functions, views, grants and error texts. Every client of Message DB works with
// it. The SQL is this project's own, and differs where that makes it faster or safer:
// PostgreSQL inlines the functions on names, the retrieval functions run with fixed plans,
// and all names are qualified by their schema, so that no search path is needed.
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

// Version is the version of Message DB whose contract [Install] implements.
const Version = "1.3.0"

//go:embed sql/*.sql
var files embed.FS

// DB begins transactions. It is implemented by *pgxpool.Pool, *pgx.Conn and pgx.Tx.
type DB interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// ForeignObjectsError is the error of [Install] if the schema message_store contains
// objects with the names of Message DB's objects that are not Message DB's. Nothing was
// changed.
type ForeignObjectsError struct {
	// Found describes each of these objects, and what was expected in its place.
	Found []string
}

func (e *ForeignObjectsError) Error() string {
	return "schema: the schema message_store of this database is not Message DB's: " +
		strings.Join(e.Found, "; ") + "; install Message DB into another database, or remove these objects first"
}

// Install installs Message DB into the database to which db is connected. If Message DB
// is installed already, by this package or by another program, Install leaves it unchanged
// and returns nil. If the schema message_store contains other objects with the names that
// Message DB needs, Install changes nothing and returns a [*ForeignObjectsError].
//
// Install runs in one transaction, and concurrent calls wait for one another. The role
// needs CREATE on the database, and CREATEROLE unless the role message_store exists. The
// oldest supported version is PostgreSQL 14.
func Install(ctx context.Context, db DB) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		path, err := setting(ctx, tx, "search_path")
		if err != nil {
			return fmt.Errorf("schema: read the search path: %w", err)
		}
		if err := install(ctx, tx); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "SELECT set_config('search_path', $1, true)", path)
		return err
	})
}

// setting returns the value of a setting, so that it can be restored after a change.
// Otherwise the change would last to the end of the caller's transaction.
func setting(ctx context.Context, tx pgx.Tx, name string) (value string, err error) {
	err = tx.QueryRow(ctx, "SHOW "+name, pgx.QueryExecModeSimpleProtocol).Scan(&value)
	return value, err
}

// installLock takes the advisory lock that concurrent installers of one database wait
// for. Its key has two numbers, so it differs from the keys of Message DB's categories,
// which have one.
var installLock = fmt.Sprintf("SELECT pg_catalog.pg_advisory_xact_lock(%d, 1)", trigger.Key)

func install(ctx context.Context, tx pgx.Tx) error {
	// A stricter isolation would show the catalogue from before the wait for the lock.
	// With the caller's search path, the objects might refer to other schemas' functions.
	for _, sql := range []string{"SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "SET LOCAL search_path TO pg_catalog, pg_temp"} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fmt.Errorf("schema: %s: %w", sql, err)
		}
	}
	if _, err := tx.Exec(ctx, installLock); err != nil {
		return fmt.Errorf("schema: wait for other installers: %w", err)
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
		// Only the simple protocol runs several statements in one call.
		if _, err := tx.Conn().PgConn().Exec(ctx, string(sql)).ReadAll(); err != nil {
			return fmt.Errorf("schema: run %s: %w", name, explain(err))
		}
	}
	return nil
}

// explain adds the remedy to the error for missing rights.
func explain(err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "42501" {
		return fmt.Errorf("%w (the role needs CREATE on the database, and CREATEROLE unless the role message_store exists)", err)
	}
	return err
}
