package schema_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestInstallRejectsForeignObjects checks that Install finds objects that are not Message
// DB's, describes them, and changes nothing.
func TestInstallRejectsForeignObjects(t *testing.T) {
	t.Parallel()
	const (
		installed = "installed"
		table     = `CREATE SCHEMA message_store; CREATE TABLE message_store.messages (`
	)
	for _, test := range []struct {
		name  string
		first string // "installed": by Install
		then  string
		found []string // each has to be a part of the error
	}{
		{"another table messages", table + `id int, body text)`, ``, []string{"table messages: id integer, body text (want table: global_position bigint"}},
		{
			"a table messages with a column of another type",
			table + `global_position bigserial NOT NULL, position bigint NOT NULL, time timestamptz NOT NULL, stream_name text NOT NULL, type text NOT NULL, data jsonb, metadata jsonb, id uuid NOT NULL)`, ``,
			[]string{"table messages: global_position bigint not null, position bigint not null, time timestamp with time zone not null"},
		},
		{"a view messages", `CREATE SCHEMA message_store; CREATE VIEW message_store.messages AS SELECT 1 AS id`, ``, []string{"view messages: id integer"}},
		{"a sequence messages", `CREATE SCHEMA message_store; CREATE SEQUENCE message_store.messages`, ``, []string{"sequence messages"}},
		{
			"a function write_message of another signature",
			`CREATE SCHEMA message_store; CREATE FUNCTION message_store.write_message(stream text, body jsonb) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'`, ``,
			[]string{"function write_message: (text, jsonb) returns bigint (want function: (character varying, character varying, character varying, jsonb, jsonb, bigint) returns bigint)"},
		},
		{
			"a function category of another result",
			`CREATE SCHEMA message_store; CREATE FUNCTION message_store.category(varchar) RETURNS text LANGUAGE sql AS 'SELECT $1'`, ``,
			[]string{"function category: (character varying) returns text"},
		},
		{
			"a procedure write_message",
			`CREATE SCHEMA message_store; CREATE PROCEDURE message_store.write_message(varchar) LANGUAGE sql AS ''`, ``,
			[]string{"procedure write_message"},
		},
		{
			"several", table + `id int)`, `CREATE FUNCTION message_store.hash_64(text) RETURNS int LANGUAGE sql AS 'SELECT 1'`,
			[]string{"table messages: id integer", "function hash_64: (text) returns integer"},
		},
		{"an installation without a function", installed, `DROP FUNCTION message_store.get_category_messages`, []string{"function get_category_messages is missing"}},
		{"an installation without the table", installed, `DROP TABLE message_store.messages CASCADE`, []string{"table messages is missing"}},
		{"an installation without functions", installed, `DROP TYPE message_store.message CASCADE`, []string{"type message is missing", "function get_stream_messages is missing"}},
		{"an installation with another table", installed, `ALTER TABLE message_store.messages DROP COLUMN metadata CASCADE`, []string{"table messages: "}},
		{"an installation with another function", installed, `DROP FUNCTION message_store.stream_version; CREATE FUNCTION message_store.stream_version(varchar) RETURNS int LANGUAGE sql AS 'SELECT 1'`, []string{"function stream_version: (character varying) returns integer"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, empty(t))
			if test.first == installed {
				install(t, conn)
			} else {
				run(t, conn, test.first)
			}
			run(t, conn, test.then)

			unchanged(t, conn, func() {
				err := schema.Install(t.Context(), conn)
				var foreign *schema.ForeignObjectsError
				if !errors.As(err, &foreign) {
					t.Fatalf("Install returns %v, want a *ForeignObjectsError", err)
				}
				for _, want := range test.found {
					if !strings.Contains(strings.Join(foreign.Found, "\n"), want) || !strings.Contains(err.Error(), want) {
						t.Errorf("got %q (%v), want %s in it", foreign.Found, err, want)
					}
				}
			})
		})
	}
}

// TestInstallRejectsOtherNames checks that Install rejects objects with names that it
// would create, even those by which it does not identify Message DB.
func TestInstallRejectsOtherNames(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, sql string }{
		{"view stream_summary", `CREATE VIEW message_store.stream_summary AS SELECT 1 AS id`},
		{"function is_category", `CREATE FUNCTION message_store.is_category(varchar) RETURNS boolean LANGUAGE sql AS 'SELECT true'`},
		{"sequence messages_global_position_seq", `CREATE SEQUENCE message_store.messages_global_position_seq`},
		{"index messages_id", `CREATE TABLE message_store.notes (id int); CREATE INDEX messages_id ON message_store.notes (id)`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, empty(t))
			run(t, conn, `CREATE SCHEMA message_store;`+test.sql)
			unchanged(t, conn, func() {
				err := schema.Install(t.Context(), conn)
				var foreign *schema.ForeignObjectsError
				if !errors.As(err, &foreign) {
					t.Errorf("Install returns %v, want a *ForeignObjectsError", err)
				}
			})
		})
	}
}
