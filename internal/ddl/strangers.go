package ddl

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// StrangersIn returns a query that finds roles that could replace, or hide by functions that fit arguments better,
// what is installed into a schema that exists. A superuser is a member of every role by
// pg_has_role, so that says nothing about whom it trusts.
func StrangersIn(schema string) string {
	return strings.ReplaceAll(`
SELECT format('schema SCHEMA: its owner is the role %I, which could replace what the role %I installs (ALTER SCHEMA SCHEMA OWNER TO %2$I)', o.rolname, current_user)
FROM pg_namespace AS n JOIN pg_roles AS o ON o.oid = n.nspowner JOIN pg_roles AS c ON c.rolname = current_user
WHERE n.nspname = 'SCHEMA' AND o.oid <> c.oid AND NOT o.rolsuper AND (c.rolsuper OR NOT pg_has_role(o.oid, 'MEMBER'))
UNION ALL
SELECT 'schema SCHEMA: every role may create objects in it (REVOKE CREATE ON SCHEMA SCHEMA FROM PUBLIC)'
FROM pg_namespace AS n, LATERAL aclexplode(n.nspacl) AS acl
WHERE n.nspname = 'SCHEMA' AND acl.grantee = 0 AND acl.privilege_type = 'CREATE'`, "SCHEMA", schema)
}

// Strangers describes roles that could replace what is installed into the schema.
func Strangers(ctx context.Context, tx pgx.Tx, schema string) ([]string, error) {
	rows, _ := tx.Query(ctx, StrangersIn(schema), pgx.QueryExecModeExec)
	strangers, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("inspect the owner of the schema: %w", err)
	}
	return strangers, nil
}
