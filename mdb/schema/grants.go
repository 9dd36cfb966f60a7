package schema

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// RoleError is the error of [Install] if Message DB is installed, but the role message_store is
// missing or lacks privileges, and the role that connects may not change that. Members of
// message_store cannot use Message DB, but its owner can.
type RoleError struct {
	// Missing are the statements to run as a superuser, or as the owner of the objects with
	// CREATEROLE.
	Missing []string
}

func (e *RoleError) Error() string {
	return "schema: Message DB is installed, but not for the role message_store, which this role may not change; run as the owner of the table messages: " +
		strings.Join(e.Missing, "; ")
}

// missingGrants returns the statements that the role message_store needs. Only those are run,
// because a GRANT changes the catalogue even if the privilege is granted already.
const missingGrants = `
WITH
	store AS (SELECT (SELECT oid FROM pg_roles WHERE rolname = 'message_store') AS role),
	relations AS (SELECT c.oid, c.relname, c.relkind FROM pg_class AS c WHERE c.relnamespace = to_regnamespace('message_store') AND c.relname = ANY ($1::text[]))
SELECT statement FROM (
	SELECT 1, 'CREATE ROLE message_store WITH LOGIN' FROM store WHERE role IS NULL
	UNION ALL SELECT 2, 'GRANT USAGE ON SCHEMA message_store TO message_store' FROM store
		WHERE has_schema_privilege(role, to_regnamespace('message_store'), 'USAGE') IS NOT TRUE
	UNION ALL SELECT 3, 'GRANT SELECT, INSERT ON message_store.messages TO message_store' FROM store, relations
		WHERE relname = 'messages' AND (has_table_privilege(role, oid, 'SELECT') AND has_table_privilege(role, oid, 'INSERT')) IS NOT TRUE
	UNION ALL SELECT 4, 'GRANT USAGE, SELECT ON SEQUENCE message_store.' || relname || ' TO message_store' FROM store, relations
		WHERE CASE relkind WHEN 'S' THEN (has_sequence_privilege(role, oid, 'USAGE') AND has_sequence_privilege(role, oid, 'SELECT')) IS NOT TRUE END
	UNION ALL SELECT 5, 'GRANT SELECT ON message_store.' || relname || ' TO message_store' FROM store, relations
		WHERE relkind = 'v' AND has_table_privilege(role, oid, 'SELECT') IS NOT TRUE
	UNION ALL SELECT 6, 'GRANT EXECUTE ON FUNCTION message_store.' || proname || '(' || oidvectortypes(proargtypes) || ') TO message_store' FROM store, pg_proc
		WHERE pronamespace = to_regnamespace('message_store') AND proname = ANY ($1::text[])
			AND has_function_privilege(coalesce(role, 0), pg_proc.oid, 'EXECUTE') IS NOT TRUE
) AS needed(n, statement)
ORDER BY n, statement`

// repair creates the role message_store and grants it what it lacks, as after a restore into
// another cluster.
func repair(ctx context.Context, tx pgx.Tx) error {
	missing, err := missingFor(ctx, tx)
	if err != nil || len(missing) == 0 {
		return err
	}
	for _, statement := range missing {
		err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, statement)
			return err
		})
		var pgErr *pgconn.PgError
		switch {
		case err == nil:
		case errors.As(err, &pgErr) && (pgErr.Code == "42501" || pgErr.Code == "42704"):
			// The role may not do that, or so could not create the role message_store.
		case errors.As(err, &pgErr) && (pgErr.Code == "42710" || pgErr.Code == "23505"):
			// The installer of another database has just created the role.
		default:
			return fmt.Errorf("schema: %s: %w", statement, err)
		}
	}
	if missing, err = missingFor(ctx, tx); err == nil && len(missing) > 0 {
		err = &RoleError{Missing: missing}
	}
	return err
}

func missingFor(ctx context.Context, tx pgx.Tx) ([]string, error) {
	rows, _ := tx.Query(ctx, missingGrants, pgx.QueryExecModeExec, names)
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("schema: inspect the privileges of the role message_store: %w", err)
	}
	return missing, nil
}
