package schema

import (
	"context"
	_ "embed" // the SQL of the consumers' schema
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

//go:embed consumers.sql
var consumersSQL string

//go:embed consumers_grants.sql
var consumersGrants string

// consumersMigrations are the scripts that lead from each version to the next one. The first
// one creates the schema. Functions keep their signatures: a changed one gets a new name, because members
// that call the old one are running.
var consumersMigrations = []string{consumersSQL}

// ConsumersVersion is the version of the schema message_store_consumers that [InstallConsumers]
// installs.
const ConsumersVersion = 1

// InstallConsumers installs the schema message_store_consumers, in which consumers keep their
// positions and share their work. An older version is migrated, while consumers may be running.
// A newer version is left unchanged: each version works with programs that were made for an
// earlier one, so in a rolling deployment migrate first. Message DB's own objects
// are not changed, whoever has installed them.
//
// The role that connects becomes the owner, and needs CREATE on the database. Later versions have
// to be installed by the owner. Members of the role message_store may use consumers; that role must exist.
//
// If there is another schema of that name, or if another role could replace the functions in it,
// InstallConsumers changes nothing and returns a [*ForeignObjectsError].
//
// Concurrent calls wait for one another. A migration may have to wait for the statements
// of running consumers, and later statements wait for it. To let them through, it waits for a tenth
// of a second at most, and then retries until ctx ends.
func InstallConsumers(ctx context.Context, db DB) error {
	return installConsumers(ctx, db, consumersMigrations)
}

func installConsumers(ctx context.Context, db DB, migrations []string) error {
	err := withShortWaits(ctx, readCommitted{db}, map[string]string{
		"search_path":                 "pg_catalog, pg_temp", // the functions must not refer to other schemas' objects
		"standard_conforming_strings": "on",
	}, func(tx pgx.Tx) error {
		state, foreign, err := lookAtConsumers(ctx, tx)
		switch {
		case err != nil:
			return err
		case len(foreign) > 0:
			return &ForeignObjectsError{Found: foreign, consumers: true}
		case state.Version > len(migrations):
			return nil
		}
		scripts := migrations[state.Version:]
		if len(scripts) > 0 || !state.granted {
			scripts = append(scripts[:len(scripts):len(scripts)], consumersGrants)
		}
		for _, sql := range scripts {
			if _, err := tx.Conn().PgConn().Exec(ctx, sql).ReadAll(); err != nil {
				return err
			}
		}
		return nil
	})
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch pgErr.Code {
		case "42501":
			err = fmt.Errorf("%w (the role needs CREATE on the database, or must own the schema message_store_consumers)", err)
		case "42704":
			err = fmt.Errorf("%w (install Message DB first, or create the role message_store)", err)
		}
	}
	if err != nil {
		return fmt.Errorf("schema: install the consumers' schema: %w", err)
	}
	return nil
}

// ConsumersState is the state of the schema message_store_consumers. [ConsumersStatus]
// returns it.
type ConsumersState struct {
	// Installed reports whether the schema is installed.
	Installed bool

	// Version is its version, or 0. A program needs [ConsumersVersion] or a later one.
	Version int

	granted bool // to the role message_store
}

// ConsumersStatus reports whether [InstallConsumers] has installed its schema, and which
// version. It works without privileges on the schema, and also if Message DB is not installed.
func ConsumersStatus(ctx context.Context, db DB) (state ConsumersState, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		state, _, err = lookAtConsumers(ctx, tx)
		return err
	})
	if err != nil {
		return ConsumersState{}, fmt.Errorf("schema: look up the consumers' schema: %w", err)
	}
	state.granted = false // which only the installer needs
	return state, nil
}

// consumersFound reads the version from the text of the function, because a function that may be
// somebody else's is not to be called.
const consumersFound = `
SELECT
	(
		SELECT substring(p.prosrc FROM '^SELECT ([0-9]{1,9})$') FROM pg_catalog.pg_proc AS p
		WHERE p.pronamespace = n.oid AND p.proname = 'version' AND p.pronargs = 0
	),
	ARRAY(SELECT c.relname::text FROM pg_catalog.pg_class AS c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'v', 'm', 'f', 'p', 'c') ORDER BY 1),
	ARRAY(SELECT p.proname::text FROM pg_catalog.pg_proc AS p WHERE p.pronamespace = n.oid ORDER BY 1),
	coalesce((
		SELECT pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE')
			AND (
				SELECT pg_catalog.bool_and(pg_catalog.has_table_privilege(r.oid, c.oid, p.name)) FROM pg_catalog.pg_class AS c
				CROSS JOIN pg_catalog.unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) AS p(name)
				WHERE c.relnamespace = n.oid AND c.relkind = 'r'
			)
			AND (
				SELECT pg_catalog.bool_and(pg_catalog.has_function_privilege(r.oid, p.oid, 'EXECUTE'))
				FROM pg_catalog.pg_proc AS p WHERE p.pronamespace = n.oid
			)
		FROM pg_catalog.pg_roles AS r WHERE r.rolname = 'message_store'
	), false)
FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'message_store_consumers'`

// consumersTables are those of the first version. Every later one has them, too.
var consumersTables = []string{"checkpoints", "consumers", "members", "parked"}

// lookAtConsumers returns the state, or what prevents the installation.
func lookAtConsumers(ctx context.Context, tx pgx.Tx) (state ConsumersState, foreign []string, err error) {
	var version *string
	var tables, functions []string
	err = tx.QueryRow(ctx, consumersFound, pgx.QueryExecModeExec).Scan(&version, &tables, &functions, &state.granted)
	if errors.Is(err, pgx.ErrNoRows) {
		return ConsumersState{}, nil, nil
	}
	if err != nil {
		return ConsumersState{}, nil, err
	}
	if version != nil && !slices.ContainsFunc(consumersTables, func(name string) bool { return !slices.Contains(tables, name) }) {
		state.Installed = true
		state.Version, err = strconv.Atoi(*version)
		return state, nil, err
	}
	for _, table := range tables {
		foreign = append(foreign, "relation "+table+" exists already")
	}
	for _, function := range functions {
		foreign = append(foreign, "function "+function+" exists already")
	}
	strangers, err := ownedByStranger(ctx, tx, "message_store_consumers")
	return ConsumersState{}, append(foreign, strangers...), err
}
