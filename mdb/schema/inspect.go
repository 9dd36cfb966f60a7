package schema

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ddl"
)

// An object is an object of Message DB in the database.
type object struct {
	kind, name string
	shape      string // in the format of the inspection
}

// objects are those that identify Message DB: what this client and its users rely on.
// [Install] creates more, but earlier versions of Message DB have to be recognised, too.
var objects = []object{
	{"table", "messages", "global_position bigint not null, position bigint not null, time timestamp without time zone not null, stream_name text not null, type text not null, data jsonb, metadata jsonb, id uuid not null"},
	{"type", "message", "id character varying, stream_name character varying, type character varying, position bigint, global_position bigint, data character varying, metadata character varying, time timestamp without time zone"},
	{"function", "write_message", "(character varying, character varying, character varying, jsonb, jsonb, bigint) returns bigint"},
	{"function", "get_stream_messages", "(character varying, bigint, bigint, character varying) returns message"},
	{"function", "get_category_messages", "(character varying, bigint, bigint, character varying, bigint, bigint, character varying) returns message"},
	{"function", "stream_version", "(character varying) returns bigint"},
	{"function", "category", "(character varying) returns character varying"},
	{"function", "hash_64", "(character varying) returns bigint"},
}

// names are the names of all objects that [Install] creates in the schema.
var names = []string{
	"messages", "messages_global_position_seq", "messages_pkey", "messages_id", "messages_stream", "messages_category", "message",
	"acquire_lock", "cardinal_id", "category", "get_category_messages", "get_last_stream_message", "get_stream_messages",
	"hash_64", "id", "is_category", "message_store_version", "stream_version", "write_message",
	"category_type_summary", "stream_summary", "stream_type_summary", "type_category_summary", "type_stream_summary", "type_summary",
}

const objectInspection = `
SELECT
	CASE c.relkind WHEN 'r' THEN 'table' WHEN 'c' THEN 'type' WHEN 'v' THEN 'view' WHEN 'i' THEN 'index' WHEN 'S' THEN 'sequence' ELSE 'relation' END,
	c.relname::text,
	(
		SELECT coalesce(string_agg(
			a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END,
			', ' ORDER BY a.attnum), '')
		FROM pg_attribute AS a
		WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	)
FROM pg_class AS c
WHERE c.relnamespace = to_regnamespace('message_store')
UNION ALL
SELECT
	CASE p.prokind WHEN 'f' THEN 'function' WHEN 'p' THEN 'procedure' ELSE 'aggregate' END,
	p.proname::text,
	format('(%s) returns %s',
		(SELECT string_agg(format_type(a.type, NULL), ', ' ORDER BY a.n) FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a(type, n)),
		CASE t.typtype WHEN 'c' THEN t.typname ELSE format_type(t.oid, NULL) END)
FROM pg_proc AS p
JOIN pg_type AS t ON t.oid = p.prorettype
WHERE p.pronamespace = to_regnamespace('message_store')`

// inspect reports whether Message DB is installed. If it is not, foreign describes the
// objects that prevent its installation.
func inspect(ctx context.Context, tx pgx.Tx) (installed bool, foreign []string, err error) {
	rows, err := tx.Query(ctx, objectInspection, pgx.QueryExecModeExec)
	if err != nil {
		return false, nil, fmt.Errorf("schema: inspect the database: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o object, err error) {
		err = row.Scan(&o.kind, &o.name, &o.shape)
		return o, err
	})
	if err != nil {
		return false, nil, fmt.Errorf("schema: inspect the database: %w", err)
	}
	conflicting := slices.DeleteFunc(slices.Clone(found), func(o object) bool { return !slices.Contains(names, o.name) })
	if len(conflicting) == 0 {
		if foreign, err = ddl.Strangers(ctx, tx, "message_store"); err != nil {
			return false, nil, fmt.Errorf("schema: %w", err)
		}
		return false, foreign, nil
	}
	for _, want := range objects {
		if slices.Contains(found, want) {
			continue
		}
		i := slices.IndexFunc(found, func(o object) bool { return o.name == want.name })
		if i < 0 {
			foreign = append(foreign, fmt.Sprintf("%s %s is missing", want.kind, want.name))
			continue
		}
		foreign = append(foreign, fmt.Sprintf("%s (want %s: %s)", found[i], want.kind, want.shape))
	}
	if len(foreign) == 0 {
		return true, nil, nil
	}
	for _, o := range conflicting {
		if !slices.ContainsFunc(objects, func(want object) bool { return want.name == o.name }) {
			foreign = append(foreign, fmt.Sprintf("%s exists already", o))
		}
	}
	return false, foreign, nil
}

func (o object) String() string {
	return fmt.Sprintf("%s %s: %s", o.kind, o.name, o.shape)
}
