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

	"github.com/messagedb-go/messagedb/internal/ddl"
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
	err := ddl.WithShortWaits(ctx, ddl.ReadCommitted(db), map[string]string{
		"search_path":                 "pg_catalog, pg_temp", // the functions must not refer to other schemas' objects
		"standard_conforming_strings": "on",
	}, func(tx pgx.Tx) error {
		found, err := lookAtConsumers(ctx, tx)
		switch {
		case err != nil:
			return err
		case len(found.foreign) > 0:
			return &ForeignObjectsError{"message_store_consumers", found.foreign}
		case found.Version > len(migrations):
			return nil
		}
		scripts := slices.Clone(migrations[found.Version:])
		if len(scripts) > 0 || !found.granted {
			scripts = append(scripts, consumersGrants)
		}
		run := func() error {
			for _, sql := range scripts {
				if _, err := tx.Conn().PgConn().Exec(ctx, sql).ReadAll(); err != nil {
					return err
				}
			}
			return nil
		}
		switch {
		case len(scripts) == 0 || found.owner == "":
			return run()
		case !found.member:
			return fmt.Errorf("it belongs to the role %s; run this as that role, or as a member of it", found.owner)
		}
		// All objects have one owner.
		return ddl.WithSettings(ctx, tx, map[string]string{"role": found.owner}, run)
	})
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch pgErr.Code {
		case "42501":
			err = fmt.Errorf("%w (the role needs CREATE on the database)", err)
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
}

// ConsumersStatus reports whether [InstallConsumers] has installed its schema, and which
// version. It works without privileges on the schema, and also if Message DB is not installed.
func ConsumersStatus(ctx context.Context, db DB) (state ConsumersState, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		return ddl.WithSettings(ctx, tx, map[string]string{"search_path": "pg_catalog, pg_temp"}, func() error {
			found, err := lookAtConsumers(ctx, tx)
			state = found.ConsumersState
			return err
		})
	})
	if err != nil {
		return ConsumersState{}, fmt.Errorf("schema: look up the consumers' schema: %w", err)
	}
	return state, nil
}

// A consumersFound is what there is of the schema.
type consumersFound struct {
	ConsumersState
	owner   string   // of an installed schema
	member  bool     // the role that connects is a member of the owner
	granted bool     // the role message_store has all privileges
	foreign []string // what prevents the installation
}

// consumersInspection reads the version from the text of the function, because a function that
// may be another program's must not be called.
const consumersInspection = `
SELECT
	v.version, coalesce(v.owner, ''), coalesce(v.member, false),
	ARRAY(SELECT c.relname::text FROM pg_class AS c WHERE c.relnamespace = n.oid AND c.relkind NOT IN ('i', 'I', 't', 'S') ORDER BY 1),
	ARRAY(SELECT p.proname::text FROM pg_proc AS p WHERE p.pronamespace = n.oid ORDER BY 1),
	coalesce((
		SELECT has_schema_privilege(r.oid, n.oid, 'USAGE')
			AND (
				SELECT bool_and(has_table_privilege(r.oid, c.oid, p.privilege)) FROM pg_class AS c
				CROSS JOIN unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) AS p(privilege)
				WHERE c.relnamespace = n.oid AND c.relkind = 'r'
			)
			AND (SELECT bool_and(has_function_privilege(r.oid, p.oid, 'EXECUTE')) FROM pg_proc AS p WHERE p.pronamespace = n.oid)
		FROM pg_roles AS r WHERE r.rolname = 'message_store'
	), false)
FROM pg_namespace AS n
LEFT JOIN LATERAL (
	SELECT substring(p.prosrc FROM '^SELECT ([0-9]{1,9})$') AS version, pg_get_userbyid(p.proowner)::text AS owner, pg_has_role(p.proowner, 'MEMBER') AS member
	FROM pg_proc AS p WHERE p.pronamespace = n.oid AND p.proname = 'version' AND p.pronargs = 0
) AS v ON true
WHERE n.nspname = 'message_store_consumers'`

// consumersTables are those of the first version. Every later one has them, too.
var consumersTables = []string{"checkpoints", "consumers", "members", "parked"}

// lookAtConsumers needs a search path of pg_catalog only.
func lookAtConsumers(ctx context.Context, tx pgx.Tx) (found consumersFound, err error) {
	var version *string
	var tables, functions []string
	row := tx.QueryRow(ctx, consumersInspection, pgx.QueryExecModeExec)
	switch err := row.Scan(&version, &found.owner, &found.member, &tables, &functions, &found.granted); {
	case errors.Is(err, pgx.ErrNoRows):
		return consumersFound{}, nil
	case err != nil:
		return consumersFound{}, fmt.Errorf("inspect the schema: %w", err)
	}
	lacks := func(table string) bool { return !slices.Contains(tables, table) }
	if version != nil && !slices.ContainsFunc(consumersTables, lacks) {
		found.Installed = true
		found.Version, err = strconv.Atoi(*version)
		return found, err
	}
	foreign, err := ddl.Strangers(ctx, tx, "message_store_consumers")
	for _, table := range tables {
		foreign = append(foreign, fmt.Sprintf("relation %s exists already", table))
	}
	for _, function := range functions {
		foreign = append(foreign, fmt.Sprintf("function %s exists already", function))
	}
	return consumersFound{foreign: foreign}, err
}
