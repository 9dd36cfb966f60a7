package schema_test

import (
	"context"
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
	"github.com/messagedb-go/messagedb/internal/pgtest"
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
			if !errors.As(err, &foreign) || !strings.Contains(strings.Join(foreign.Found, "\n"), test.found) || !strings.Contains(err.Error(), "schema message_store_consumers of this database") {
				t.Errorf("got %v, want a *ForeignObjectsError with %q", err, test.found)
			}
			if after := consumersText(t, conn); after != before {
				t.Errorf("it changed\n%s\nto\n%s", before, after)
			}
			wantConsumers(t, conn, 0)
		})
	}
}

// TestInstallConsumersAndRoles checks who may install and migrate, on its own server, because roles belong to all databases.
func TestInstallConsumersAndRoles(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	server := pgtest.Own(t)
	admin := connect(t, server.URL("postgres"))
	err := schema.InstallConsumers(t.Context(), admin)
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != "42704" || !strings.Contains(err.Error(), "install Message DB first") {
		t.Errorf("got %v, want that the role message_store is missing", err)
	}
	wantConsumers(t, admin, 0)
	install(t, admin)
	run(t, admin, `CREATE ROLE app LOGIN; CREATE ROLE stranger LOGIN`)
	as := func(role string) *pgx.Conn {
		t.Helper()
		conn := connect(t, server.URL("postgres"))
		run(t, conn, `SET ROLE `+role)
		return conn
	}
	err = schema.InstallConsumers(t.Context(), as("app"))
	if !errors.As(err, &pgErr) || pgErr.Code != "42501" || !strings.Contains(err.Error(), "the role needs CREATE on the database") {
		t.Errorf("got %v, want that a privilege is missing", err)
	}
	run(t, admin, `GRANT CREATE ON DATABASE postgres TO app`)
	if err := schema.InstallConsumers(t.Context(), as("app")); err != nil {
		t.Fatal(err)
	}
	next := append(slices.Clone(schema.ConsumersMigrations), `CREATE TABLE message_store_consumers.next ();`+versionTwo)
	if err := schema.InstallConsumersBy(t.Context(), as("stranger"), next); err == nil || !strings.Contains(err.Error(), "it belongs to the role app") {
		t.Errorf("got %v, want that only the owner may migrate", err)
	}
	wantConsumers(t, admin, schema.ConsumersVersion)
	if err := schema.InstallConsumersBy(t.Context(), admin, next); err != nil {
		t.Fatal(err)
	}
	owners := rows(t, admin, `SELECT DISTINCT o::regrole::text FROM (SELECT relowner AS o FROM pg_class WHERE relnamespace = 'message_store_consumers'::regnamespace
		UNION SELECT proowner FROM pg_proc WHERE pronamespace = 'message_store_consumers'::regnamespace) AS owners`)
	if !slices.Equal(owners, []string{"app"}) {
		t.Errorf("the objects belong to %q, want app", owners)
	}
	if got := rows(t, admin, `SELECT current_user::text`); got[0] == "app" {
		t.Error("the session keeps the role of the owner")
	}
	useConsumers(t, admin)
}

const versionTwo = `CREATE OR REPLACE FUNCTION message_store_consumers.version() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 2';`

// TestMigrateConsumers checks that a schema is migrated while members use it, that it waits for a long
// transaction without making the members wait, and that an earlier program leaves it unchanged.
func TestMigrateConsumers(t *testing.T) {
	t.Parallel()
	url := testdb.Consumers(t)
	conn := connect(t, url)
	next := append(slices.Clone(schema.ConsumersMigrations), `
		ALTER TABLE message_store_consumers.members ADD COLUMN weight integer;
		ALTER TABLE message_store_consumers.checkpoints ADD COLUMN note text;`+versionTwo)

	stop := make(chan struct{})
	var wg sync.WaitGroup
	var beats [2]chan struct{}
	for i := range beats {
		member := connect(t, url)
		m := useConsumers(t, member)
		beats[i] = make(chan struct{})
		wg.Go(func() {
			defer close(beats[i])
			for at := int64(0); ; at++ {
				held, err := ledger.Read(t.Context(), member, m)
				if err != nil || len(held.Rows) != 64 {
					t.Errorf("%d rows, %v", len(held.Rows), err)
					return
				}
				var moves []ledger.Move
				for _, r := range held.Rows {
					moves = append(moves, ledger.Move{Partition: r.Partition, Epoch: r.Epoch, From: r.Position, To: r.Position + 1})
				}
				tick, err := ledger.Beat(t.Context(), member, m, "", moves)
				if err != nil || len(tick.Moved) != 64 {
					t.Errorf("moved %d, %v", len(tick.Moved), err)
					return
				}
				select {
				case beats[i] <- struct{}{}:
				case <-stop:
					return
				}
			}
		})
	}
	defer wg.Wait()
	defer close(stop)

	long := connect(t, url)
	run(t, long, `BEGIN; SELECT FROM message_store_consumers.checkpoints`)
	done := make(chan error, 1)
	migrating := connect(t, url)
	go func() { done <- schema.InstallConsumersBy(t.Context(), migrating, next) }()
	waitForLock(t, conn, migrating.PgConn().PID())
	for range 10 {
		for i := range beats {
			<-beats[i]
		}
	}
	select {
	case err := <-done:
		t.Fatalf("it has not waited: %v", err)
	default:
	}
	wantConsumers(t, conn, 1)
	run(t, long, `COMMIT`)
	for waiting := true; waiting; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			waiting = false
		case <-beats[0]:
		case <-beats[1]:
		}
	}
	wantConsumers(t, conn, 2)
	for i := range beats {
		<-beats[i]
	}
	text := consumersText(t, conn)
	if err := schema.InstallConsumers(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if after := consumersText(t, conn); after != text {
		t.Error("an earlier program has changed the schema")
	}
}

// TestConsumersCancelled checks that the wait of an installation ends with its context.
func TestConsumersCancelled(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	other, conn := connect(t, url), connect(t, url)
	run(t, other, `BEGIN; CREATE SCHEMA message_store_consumers`)
	ctx, cancel := context.WithCancel(t.Context())
	watching := connect(t, url)
	go func() {
		defer cancel()
		waitForLock(t, watching, conn.PgConn().PID())
	}()
	if err := schema.InstallConsumers(ctx, conn); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the error of the context", err)
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
