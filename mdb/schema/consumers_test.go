package schema_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

func wantConsumers(t testing.TB, db schema.DB, version int) {
	t.Helper()
	want := schema.ConsumersState{Installed: version > 0, Version: version}
	if got, err := schema.ConsumersStatus(t.Context(), db); err != nil || got != want {
		t.Errorf("ConsumersStatus: %+v, %v, want %+v", got, err, want)
	}
}

// useConsumers runs a member with the privileges of the role message_store only.
func useConsumers(t testing.TB, conn *pgx.Conn) ledger.Member {
	t.Helper()
	run(t, conn, `SET ROLE message_store`)
	defer run(t, conn, `RESET ROLE`)
	m := ledger.Member{ID: uuid.New()}
	joined, err := ledger.Join(t.Context(), conn, ledger.JoinParams{Name: m.ID.String(), Member: m.ID, Lease: time.Minute, Categories: []string{"some"}})
	if err != nil {
		t.Fatal(err)
	}
	m.Consumer = joined.Consumer
	if b, _, err := ledger.Rebalance(t.Context(), conn, m); err != nil || b.Claimed != 64 {
		t.Fatalf("claimed %d, %v", b.Claimed, err)
	}
	return m
}

// consumersText describes the objects of the schema as the catalogue has them.
func consumersText(t testing.TB, conn *pgx.Conn) string {
	t.Helper()
	return strings.Join(rows(t, conn, `
		SELECT 'schema ' || nspowner::regrole || ' ' || coalesce(nspacl::text, '') FROM pg_namespace WHERE nspname = 'message_store_consumers'
		UNION ALL SELECT relname || ' ' || relowner::regrole || ' ' || xmin || ' ' || coalesce(relacl::text, '') FROM pg_class WHERE relnamespace = to_regnamespace('message_store_consumers')
		UNION ALL SELECT proname || ' ' || proowner::regrole || ' ' || xmin || ' ' || coalesce(proacl::text, '') || prosrc FROM pg_proc WHERE pronamespace = to_regnamespace('message_store_consumers')
		ORDER BY 1`), "\n")
}

// TestInstallConsumers checks that installing works on Message DB, again, and within a
// transaction, and that Message DB's objects stay as they are.
func TestInstallConsumers(t *testing.T) {
	t.Parallel()
	conn := connect(t, testdb.New(t))
	before := catalogue(t, conn)
	wantConsumers(t, conn, 0)
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(schema.InstallConsumers(t.Context(), tx), tx.Rollback(t.Context())); err != nil {
		t.Fatal(err)
	}
	wantConsumers(t, conn, 0)
	run(t, conn, `SET default_transaction_isolation = 'repeatable read'; SET search_path = ''`)
	if err := schema.InstallConsumers(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	wantConsumers(t, conn, schema.ConsumersVersion)
	run(t, conn, `RESET ALL`)
	text := consumersText(t, conn)
	if err := schema.InstallConsumers(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if again := consumersText(t, conn); again != text {
		t.Errorf("installing again changed\n%s\nto\n%s", text, again)
	}
	useConsumers(t, conn)
	if d := differences(before, catalogue(t, conn)); len(d) > 0 {
		t.Errorf("Message DB's objects have changed: %v", d)
	}
	if n := len(schema.ConsumersMigrations); n != schema.ConsumersVersion {
		t.Errorf("there are migrations to version %d, want %d", n, schema.ConsumersVersion)
	}
}

// TestConsumersSQL checks that the statements for other tools do what InstallConsumers does, with the
// session as it was, and that they fail if they are run again.
func TestConsumersSQL(t *testing.T) {
	t.Parallel()
	byText, byCall := connect(t, testdb.New(t)), connect(t, testdb.New(t))
	run(t, byText, `SET search_path = message_store, public`)
	run(t, byText, schema.ConsumersSQL())
	if err := schema.InstallConsumers(t.Context(), byCall); err != nil {
		t.Fatal(err)
	}
	if got := rows(t, byText, `SHOW search_path`); got[0] != "message_store, public" {
		t.Errorf("the search path is %q", got)
	}
	const objects = `
		SELECT relname || ' ' || coalesce(relacl::text, '') AS d FROM pg_class WHERE relnamespace = to_regnamespace('message_store_consumers')
		UNION ALL SELECT p.proname || ' ' || coalesce(p.proacl::text, '') || pg_get_functiondef(p.oid) FROM pg_proc AS p WHERE p.pronamespace = to_regnamespace('message_store_consumers') ORDER BY 1`
	if x, y := rows(t, byText, objects), rows(t, byCall, objects); !slices.Equal(x, y) {
		t.Errorf("got\n%s\nwant\n%s", x, y)
	}
	wantConsumers(t, byText, schema.ConsumersVersion)
	useConsumers(t, byText)
	if _, err := byText.PgConn().Exec(t.Context(), schema.ConsumersSQL()).ReadAll(); err == nil {
		t.Error("the statements can be run twice")
	}
	wantConsumers(t, byText, schema.ConsumersVersion)
}

// TestConsumersPrivileges checks exactly what the role message_store may do, and that others may do nothing.
func TestConsumersPrivileges(t *testing.T) {
	t.Parallel()
	conn := connect(t, testdb.Consumers(t))
	got := rows(t, conn, `
		SELECT c.relname || ': ' || string_agg(a.privilege_type, ' ' ORDER BY a.privilege_type) FROM pg_class AS c, aclexplode(c.relacl) AS a
		WHERE c.relnamespace = 'message_store_consumers'::regnamespace AND a.grantee <> c.relowner GROUP BY c.relname, a.grantee
		UNION ALL SELECT 'schema: ' || string_agg(a.grantee::regrole || ' ' || a.privilege_type, ' ') FROM pg_namespace AS n, aclexplode(n.nspacl) AS a
		WHERE n.nspname = 'message_store_consumers' AND a.grantee <> n.nspowner GROUP BY n.nspname
		ORDER BY 1`)
	want := []string{
		"checkpoints: DELETE INSERT SELECT UPDATE", "consumers: DELETE INSERT SELECT UPDATE",
		"members: DELETE INSERT SELECT UPDATE", "parked: DELETE INSERT SELECT UPDATE", "schema: message_store USAGE",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := rows(t, conn, `SELECT proname::text FROM pg_proc AS p WHERE pronamespace = 'message_store_consumers'::regnamespace
		AND (prosecdef OR proconfig IS NOT NULL OR NOT has_function_privilege('message_store', oid, 'EXECUTE'))`); len(got) > 0 {
		t.Errorf("%q run as their owner, have settings, or may not be called", got)
	}
	for _, statement := range []string{
		`TRUNCATE message_store_consumers.members`, `CREATE TABLE message_store_consumers.other ()`, `DROP TABLE message_store_consumers.parked`,
		`CREATE OR REPLACE FUNCTION message_store_consumers.version() RETURNS integer LANGUAGE sql AS 'SELECT 7'`,
	} {
		run(t, conn, `SET ROLE message_store`)
		_, err := conn.Exec(t.Context(), statement)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "42501" {
			t.Errorf("%s: got %v, want 42501", statement, err)
		}
	}
	// The status needs no privilege.
	run(t, conn, `RESET ROLE; REVOKE ALL ON SCHEMA message_store_consumers FROM message_store; SET ROLE message_store`)
	wantConsumers(t, conn, schema.ConsumersVersion)
	// What is missing is granted again.
	run(t, conn, `RESET ROLE; REVOKE DELETE ON message_store_consumers.parked FROM message_store`)
	for _, revoke := range []string{`USAGE ON SCHEMA message_store_consumers`, `DELETE ON message_store_consumers.parked`} {
		run(t, conn, `REVOKE `+revoke+` FROM message_store`)
		if err := schema.InstallConsumers(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		useConsumers(t, conn)
		if got := rows(t, conn, `SELECT has_table_privilege('message_store', 'message_store_consumers.parked', 'DELETE')::text`); got[0] != "true" {
			t.Errorf("after REVOKE %s, the privilege is not granted again", revoke)
		}
	}
}

// TestInstallConsumersConcurrently checks that concurrent calls all succeed.
func TestInstallConsumersConcurrently(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	const callers = 6
	var wg sync.WaitGroup
	var failures [callers]error
	for i := range callers {
		conn := connect(t, url)
		wg.Go(func() { failures[i] = schema.InstallConsumers(t.Context(), conn) })
	}
	wg.Wait()
	if err := errors.Join(failures[:]...); err != nil {
		t.Error(err)
	}
	useConsumers(t, connect(t, url))
}

// TestInstallConsumersForeign checks that another schema of that name is found, described, and left
// unchanged, and that an empty one of the same role is used.
func TestInstallConsumersForeign(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, sql, found string }{
		{"a table", `CREATE SCHEMA message_store_consumers; CREATE TABLE message_store_consumers.consumers (id int)`, "relation consumers exists already"},
		{"a function", `CREATE SCHEMA message_store_consumers; CREATE FUNCTION message_store_consumers.f() RETURNS int LANGUAGE sql AS 'SELECT 1'`, "function f exists already"},
		{
			"another version function",
			`CREATE SCHEMA message_store_consumers; CREATE FUNCTION message_store_consumers.version() RETURNS integer LANGUAGE sql AS 'SELECT 1'`, "function version exists already",
		},
		{"an installation without a table", schema.ConsumersSQL() + `DROP TABLE message_store_consumers.parked`, "relation members exists already"},
		{"another owner", `CREATE SCHEMA message_store_consumers AUTHORIZATION message_store`, "its owner is the role message_store"},
		{"everybody may create", `CREATE SCHEMA message_store_consumers; GRANT CREATE ON SCHEMA message_store_consumers TO PUBLIC`, "every role may create objects in it"},
		{"an empty schema", `CREATE SCHEMA message_store_consumers`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, testdb.New(t))
			run(t, conn, test.sql)
			before := consumersText(t, conn)
			err := schema.InstallConsumers(t.Context(), conn)
			if test.found == "" {
				if err != nil {
					t.Fatal(err)
				}
				useConsumers(t, conn)
				return
			}
			var foreign *schema.ForeignObjectsError
			if !errors.As(err, &foreign) || !strings.Contains(strings.Join(foreign.Found, "\n"), test.found) || foreign.Schema != "message_store_consumers" || !strings.Contains(err.Error(), foreign.Schema) {
				t.Errorf("got %v, want a *ForeignObjectsError with %q", err, test.found)
			}
			if after := consumersText(t, conn); after != before {
				t.Errorf("it changed\n%s\nto\n%s", before, after)
			}
			wantConsumers(t, conn, 0)
		})
	}
}

// TestConsumersText checks that the SQL names the tables and SQLSTATEs that Go relies on.
func TestConsumersText(t *testing.T) {
	t.Parallel()
	sql, err := os.ReadFile("consumers.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"ERRCODE = '" + ledger.Fenced + "'", "ERRCODE = '" + ledger.Gone + "'", "ERRCODE = '" + ledger.Partitions + "'", "ERRCODE = '" + ledger.NoConsumer + "'",
		"pg_notify('" + ledger.Channel + "'",
	} {
		if !strings.Contains(string(sql), want) {
			t.Errorf("consumers.sql does not contain %q", want)
		}
	}
}
