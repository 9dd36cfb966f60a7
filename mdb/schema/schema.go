// Package schema installs Message DB into a PostgreSQL database from Go.
//
// [Install] creates a database with the contract of Message DB 1.3.0: the same tables,
// indexes, functions, views, grants and error texts. Every client of Message DB works with
// it. The SQL is this project's own, and differs where that makes it faster or safer:
// PostgreSQL inlines the functions on names, the retrieval functions run with fixed plans,
// and all names are qualified by their schema, so that no search path is needed.
//
// [InstallNotify] adds a trigger that notifies subscriptions, and [InstallConsumers] a schema in
// which consumers store their positions. Both also work on Message DB's own SQL.
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

	"github.com/messagedb-go/messagedb/internal/ddl"
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
// objects with the names of Message DB's objects that are not Message DB's, or if another
// role owns the schema and so could replace what would be installed. [InstallNotify] returns
// it if another role owns the trigger's function, and [InstallConsumers] and [InstallShard] if the schema
// message_store_consumers or message_store_shard is not their own. Nothing was changed.
type ForeignObjectsError struct {
	// Schema has these objects.
	Schema string

	// Found describes each of these objects, and what was expected in its place.
	Found []string
}

func (e *ForeignObjectsError) Error() string {
	of, remedy := "this package's", "remove these objects first"
	if e.Schema == "message_store" {
		of, remedy = "Message DB's", "install Message DB into another database, or "+remedy
	}
	return fmt.Sprintf("schema: the schema %s of this database is not %s: %s; %s", e.Schema, of, strings.Join(e.Found, "; "), remedy)
}

// Install installs Message DB into the database to which db is connected. If Message DB
// is installed already, by this package or by another program, Install leaves it unchanged,
// except that it creates the role message_store and grants it the privileges that it lacks, as
// after a restore into another cluster. If the role that connects may not do that, Install does
// what it may and returns a [*RoleError]. If the schema message_store contains other objects with the names that
// Message DB needs, Install changes nothing and returns a [*ForeignObjectsError]. So it does
// if the schema exists without Message DB, and its owner is neither a superuser nor the role
// that connects, nor a role that it is a member of, or if every role may create
// objects in it: such roles could replace or shadow what other roles then call.
//
// Install runs in one transaction, and concurrent calls wait for one another. The role
// needs CREATE on the database, and CREATEROLE unless the role message_store exists. The
// oldest supported version is PostgreSQL 14.
func Install(ctx context.Context, db DB) error {
	var missing *RoleError
	err := pgx.BeginFunc(ctx, ddl.ReadCommitted(db), func(tx pgx.Tx) error {
		// Changes of settings would last to the end of the caller's transaction.
		var incomplete *RoleError
		err := ddl.WithSettings(ctx, tx, map[string]string{
			"search_path":                 "pg_catalog, pg_temp", // the objects must not refer to other schemas' functions
			"standard_conforming_strings": "on",
			"quote_all_identifiers":       "off", // it changes the names of types
		}, func() error {
			err := install(ctx, tx)
			if errors.As(err, &incomplete) {
				return nil // so that what was possible is kept
			}
			return err
		})
		missing = incomplete
		return err
	})
	if err == nil && missing != nil {
		return missing
	}
	return err
}

func install(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, ddl.Lock); err != nil {
		return fmt.Errorf("schema: wait for other installers: %w", err)
	}
	installed, foreign, err := inspect(ctx, tx)
	switch {
	case err != nil:
		return err
	case installed:
		return repair(ctx, tx)
	case len(foreign) > 0:
		return &ForeignObjectsError{"message_store", foreign}
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
	// Another role may have created the schema after the inspection.
	foreign, err = ddl.Strangers(ctx, tx, "message_store")
	switch {
	case err != nil:
		return fmt.Errorf("schema: %w", err)
	case len(foreign) > 0:
		return &ForeignObjectsError{"message_store", foreign}
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
