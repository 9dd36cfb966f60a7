package schema

import (
	"context"
	"crypto/sha256"
	_ "embed" // the functions of a shard
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/ddl"
	"github.com/messagedb-go/messagedb/internal/inspection"
	"github.com/messagedb-go/messagedb/internal/searchpath"
)

//go:embed shard.sql
var shardTemplate string

// shardSQL installs the functions. They can be replaced while they are called.
var shardSQL = strings.NewReplacer(
	"{path}", searchpath.Inspection,
	"{check}", inspection.Check,
	"{sequence}", inspection.Sequence,
	"{collation}", inspection.Collation,
).Replace(shardTemplate)

// shardComment is that of the schema, and says which functions are installed.
var shardComment = fmt.Sprintf("functions that a proxy calls, %x", sha256.Sum256([]byte(shardSQL)))

// shardIsCurrent reports whether the functions are installed, and the role message_store may call them.
const shardIsCurrent = `SELECT EXISTS (
	SELECT FROM pg_namespace AS n
	WHERE n.nspname = 'message_store_shard' AND obj_description(n.oid, 'pg_namespace') = $1 AND has_schema_privilege('message_store', n.oid, 'USAGE')
		AND (SELECT bool_and(has_function_privilege('message_store', p.oid, 'EXECUTE')) FROM pg_proc AS p WHERE p.pronamespace = n.oid)
)`

// installShardFunctions installs the functions that a proxy calls, or replaces those of another version.
func installShardFunctions(ctx context.Context, db DB) error {
	err := ddl.WithShortWaits(ctx, ddl.ReadCommitted(db), map[string]string{
		"search_path":                 "pg_catalog, pg_temp", // the functions must not refer to other schemas' objects
		"standard_conforming_strings": "on",
	}, func(tx pgx.Tx) error {
		err := refuseShardStrangers(ctx, tx)
		current := false
		if err == nil {
			err = tx.QueryRow(ctx, shardIsCurrent, pgx.QueryExecModeExec, shardComment).Scan(&current)
		}
		if err == nil && !current {
			_, err = tx.Conn().PgConn().Exec(ctx, shardSQL+"COMMENT ON SCHEMA message_store_shard IS "+quoteLiteral(shardComment)).ReadAll()
		}
		return err
	})
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "42501" {
		return fmt.Errorf("%w (the role needs CREATE on the database, and must own the schema message_store_shard if it exists)", err)
	}
	return err
}

// refuseShardStrangers returns an error if another role could replace the functions.
func refuseShardStrangers(ctx context.Context, tx pgx.Tx) error {
	foreign, err := ddl.Strangers(ctx, tx, "message_store_shard")
	if err == nil && len(foreign) > 0 {
		err = &ForeignObjectsError{"message_store_shard", foreign}
	}
	return err
}
