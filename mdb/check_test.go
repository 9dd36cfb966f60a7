package mdb_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// findings returns the parts of Check's error, which are all of one type.
func findings(t testing.TB, err error) []*mdb.SetupError {
	t.Helper()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []*mdb.SetupError{wantError[*mdb.SetupError](t, err)}
	}
	var found []*mdb.SetupError
	for _, part := range joined.Unwrap() {
		found = append(found, wantError[*mdb.SetupError](t, part))
	}
	return found
}

// TestCheckGood checks that Check finds nothing in a database that is set up correctly.
func TestCheckGood(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		for _, role := range []string{"", "message_store"} {
			s := newStore(t, newPool(t, testdb.Shared(t), asRole(role), execMode(mode)))
			for range 2 {
				if err := s.Check(t.Context()); err != nil {
					t.Errorf("%v as role %q: got error %v, want none", mode, role, err)
				}
			}
		}
	}
	// Each of our own functions names its schema.
	if !testdb.Official() {
		if err := newStore(t, barePool(t, testdb.Shared(t))).Check(t.Context()); err != nil {
			t.Errorf("on a bare pool: got error %v, want none", err)
		}
	}
}

// TestCheck checks what Check finds in a database that is broken in one way. A standby is
// tested elsewhere.
func TestCheck(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	const (
		member = `; SET LOCAL ROLE message_store`
		// The functions of Message DB's own script depend on the search path.
		dependent = `CREATE OR REPLACE FUNCTION message_store.stream_version(stream_name varchar) RETURNS bigint LANGUAGE plpgsql AS
			$$BEGIN RETURN (SELECT max(m.position) FROM messages AS m WHERE m.stream_name = stream_version.stream_name); END$$; `
		other     = `CREATE ROLE mdb_test_other; `
		dropViews = `DROP VIEW message_store.stream_summary, message_store.type_summary, message_store.stream_type_summary,
			message_store.type_stream_summary, message_store.category_type_summary, message_store.type_category_summary; `
		notifying = `CREATE FUNCTION message_store.notify_subscriptions() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
			CREATE TRIGGER message_store_notify AFTER INSERT ON message_store.messages FOR EACH ROW EXECUTE FUNCTION message_store.notify_subscriptions(); `
		rows = `INSERT INTO message_store.messages (global_position, stream_name, position, type) SELECT g, 'account-' || g, 0, 'Happened' FROM generate_series(1, 50) AS g WHERE g <> 9; `
	)
	for _, tt := range []struct {
		name            string
		spoil           string
		problem, remedy string
	}{
		{
			name:    "no schema",
			spoil:   `DROP SCHEMA message_store CASCADE`,
			problem: "Message DB is not installed in this database: it lacks write_message, get_stream_messages", remedy: "schema.Install",
		},
		{
			name:    "no function",
			spoil:   `DROP FUNCTION message_store.acquire_lock CASCADE`,
			problem: "it lacks acquire_lock", remedy: "schema.Install",
		},
		{
			name:    "no function that others need",
			spoil:   `DROP FUNCTION message_store.is_category CASCADE`,
			problem: "it lacks is_category", remedy: "schema.Install",
		},
		{
			name:    "no table",
			spoil:   `DROP TABLE message_store.messages CASCADE`,
			problem: "it lacks messages, messages_global_position_seq", remedy: "schema.Install",
		},
		{
			name: "no type argument",
			spoil: `DROP FUNCTION message_store.get_last_stream_message;
				CREATE FUNCTION message_store.get_last_stream_message(stream_name varchar) RETURNS SETOF message_store.message LANGUAGE sql AS
					'SELECT NULL::message_store.message WHERE false'`,
			problem: "Message DB is older than 1.3.0", remedy: "upgrade",
		},
		{
			name: "no USAGE of the schema", spoil: `REVOKE USAGE ON SCHEMA message_store FROM message_store` + member,
			problem: "the role message_store lacks USAGE on schema message_store", remedy: "run mdb install",
		},
		{
			name: "no SELECT", spoil: `REVOKE SELECT ON message_store.messages FROM message_store` + member,
			problem: "the role message_store lacks SELECT on messages", remedy: "run mdb install",
		},
		{
			name: "no INSERT", spoil: `REVOKE INSERT ON message_store.messages FROM message_store` + member,
			problem: "the role message_store lacks INSERT on messages", remedy: "run mdb install",
		},
		{
			name: "no sequence", spoil: `REVOKE ALL ON SEQUENCE message_store.messages_global_position_seq FROM message_store` + member,
			problem: "the role message_store lacks USAGE on messages_global_position_seq", remedy: "run mdb install",
		},
		{
			name:    "no EXECUTE",
			spoil:   `REVOKE EXECUTE ON FUNCTION message_store.write_message FROM PUBLIC, message_store` + member,
			problem: "the role message_store lacks EXECUTE on write_message", remedy: "run mdb install",
		},
		{
			name:    "several rights",
			spoil:   `REVOKE INSERT ON message_store.messages FROM message_store; REVOKE ALL ON SEQUENCE message_store.messages_global_position_seq FROM message_store` + member,
			problem: "the role message_store lacks INSERT on messages, USAGE on messages_global_position_seq", remedy: "run mdb install",
		},
		{
			name:    "another table",
			spoil:   dependent + `CREATE SCHEMA app; CREATE TABLE app.messages (); SET LOCAL search_path = app, message_store`,
			problem: "depend on the search path, app, message_store, which does not begin with message_store", remedy: "StoreFirst",
		},
		{
			name:    "another table and no path to the store's",
			spoil:   dependent + `CREATE TABLE public.messages (); SET LOCAL search_path = public`,
			problem: "depend on the search path, public, which does not begin with message_store", remedy: "PinSearchPath",
		},
		{
			name:    "a temporary table",
			spoil:   dependent + `CREATE TEMPORARY TABLE messages (); SET LOCAL search_path = message_store, public`,
			problem: "depend on the search path, message_store, public, which finds another table messages first", remedy: "ALTER ROLE",
		},
		{
			name:    "another function",
			spoil:   dependent + `CREATE FUNCTION public.category(text) RETURNS varchar LANGUAGE sql RETURN 'mine'; SET LOCAL search_path = message_store, public`,
			problem: "which contains other functions with their names: public.category", remedy: "PinSearchPath",
		},
		{
			name:    "cache",
			spoil:   `ALTER SEQUENCE message_store.messages_global_position_seq CACHE 20`,
			problem: "the sequence of global positions has CACHE 20", remedy: "ALTER SEQUENCE message_store.messages_global_position_seq CACHE 1",
		},
		{
			name:    "no index",
			spoil:   `DROP INDEX message_store.messages_category`,
			problem: "the index messages_category is missing", remedy: "CREATE INDEX messages_category ON",
		},
		{
			name:    "an index that is not unique",
			spoil:   `DROP INDEX message_store.messages_id; CREATE INDEX messages_id ON message_store.messages (id)`,
			problem: "the index messages_id is not unique, or not on", remedy: "DROP INDEX message_store.messages_id; CREATE UNIQUE",
		},
		{
			name:    "an index on other columns",
			spoil:   `DROP INDEX message_store.messages_stream; CREATE UNIQUE INDEX messages_stream ON message_store.messages (stream_name, position, type)`,
			problem: "the index messages_stream is not unique, or not on", remedy: "DROP INDEX message_store.messages_stream",
		},
		{
			name:    "a partial index",
			spoil:   `DROP INDEX message_store.messages_id; CREATE UNIQUE INDEX messages_id ON message_store.messages (id) WHERE position > 5`,
			problem: "the index messages_id is not unique, or not on", remedy: "DROP INDEX message_store.messages_id",
		},
		{
			name:    "an index whose uniqueness is deferred",
			spoil:   `DROP INDEX message_store.messages_id; ALTER TABLE message_store.messages ADD CONSTRAINT messages_id UNIQUE (id) DEFERRABLE`,
			problem: "the index messages_id is not unique, or not on", remedy: "DROP INDEX message_store.messages_id",
		},
		{
			name:    "an index on another expression",
			spoil:   `DROP INDEX message_store.messages_category; CREATE INDEX messages_category ON message_store.messages (lower(stream_name), global_position, message_store.category(metadata->>'correlationStreamName'))`,
			problem: "the index messages_category is not unique, or not on", remedy: "DROP INDEX message_store.messages_category",
		},
		{
			name:    "no primary key",
			spoil:   `ALTER TABLE message_store.messages DROP CONSTRAINT messages_pkey`,
			problem: "the index messages_pkey is missing", remedy: "ADD CONSTRAINT messages_pkey PRIMARY KEY (global_position)",
		},
		{
			name: "not a member", spoil: other + `SET LOCAL ROLE mdb_test_other`,
			problem: "the role mdb_test_other lacks USAGE on schema message_store, SELECT on messages, INSERT on messages, USAGE on messages_global_position_seq",
			remedy:  "GRANT message_store TO mdb_test_other",
		},
		{
			name: "not a member, and the role lacks a right", spoil: other + `REVOKE INSERT ON message_store.messages FROM message_store; SET LOCAL ROLE mdb_test_other`,
			problem: "the role mdb_test_other lacks USAGE on schema message_store", remedy: "run mdb install or schema.Install as the owner of the table messages, and then GRANT message_store TO mdb_test_other",
		},
		{
			name: "a member that does not inherit", spoil: `CREATE ROLE mdb_test_other NOINHERIT IN ROLE message_store; SET LOCAL ROLE mdb_test_other`,
			problem: "the role mdb_test_other lacks USAGE on schema message_store", remedy: "it is a member of message_store that does not inherit",
		},
		{
			name:    "read-only transactions",
			spoil:   `SET LOCAL default_transaction_read_only = on`,
			problem: "transactions are read-only", remedy: "set default_transaction_read_only to off",
		},
		{
			name:    "settings that lose messages",
			spoil:   `SET LOCAL message_store.allow_loss = off; SET LOCAL synchronous_commit = off`,
			problem: "fsync = off, full_page_writes = off, synchronous_commit = off", remedy: "set them to on",
		},
		{
			name: "an unlogged table",
			spoil: `ALTER TABLE message_store.messages SET UNLOGGED; DO $$ BEGIN IF current_setting('server_version_num')::int >= 150000 THEN
				ALTER SEQUENCE message_store.messages_global_position_seq SET LOGGED; END IF; END $$`,
			problem: "a crash of the server empties the table messages", remedy: "ALTER TABLE message_store.messages SET LOGGED",
		},
		{
			name: "a view",
			spoil: `ALTER TABLE message_store.messages RENAME TO moved; CREATE VIEW message_store.messages AS SELECT * FROM message_store.moved;
				GRANT SELECT, INSERT ON message_store.messages TO message_store`,
			problem: "messages is not an ordinary table but a view", remedy: "move the messages",
		},
		{
			name:    "names of limited length",
			spoil:   dropViews + `ALTER TABLE message_store.messages ALTER type TYPE varchar(10)`,
			problem: "the column type has the type character varying(10), not text", remedy: "ALTER COLUMN type TYPE text",
		},
		{
			name:    "wraparound",
			spoil:   `UPDATE pg_database SET datfrozenxid = ((txid_current() - 2100000001 + (1::bigint << 33)) % (1::bigint << 32))::text::xid WHERE datname = current_database()`,
			problem: "wraparound", remedy: "VACUUM",
		},
		{
			name: "wraparound of multixact IDs",
			spoil: `UPDATE pg_database SET datminmxid = ((mxid_age('1') + 1 - 2100000001 + (1::bigint << 32)) % (1::bigint << 32))::text::xid
				WHERE datname = current_database()`,
			problem: "wraparound of multixact IDs", remedy: "VACUUM",
		},
		{
			name: "a trigger that discards messages",
			spoil: `CREATE FUNCTION discard() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.type = ''Happened'' THEN return  null; END IF; RETURN NEW; END';
				CREATE TRIGGER discard BEFORE INSERT ON message_store.messages FOR EACH ROW EXECUTE FUNCTION discard()`,
			problem: "the trigger discard can discard messages whose write succeeds", remedy: "DISABLE TRIGGER discard",
		},
		{
			name:    "a unique index on another column",
			spoil:   `CREATE UNIQUE INDEX once ON message_store.messages (stream_name, (data->>'n'))`,
			problem: "some writes are rejected by the unique index once", remedy: "DROP INDEX message_store.once",
		},
		{
			name:    "a unique constraint",
			spoil:   `ALTER TABLE message_store.messages ADD CONSTRAINT once UNIQUE (time)`,
			problem: "some writes are rejected by the unique index once", remedy: "DROP CONSTRAINT once",
		},
		{
			name:    "a check constraint",
			spoil:   `ALTER TABLE message_store.messages ADD CONSTRAINT small CHECK (length(data::text) < 100)`,
			problem: "some writes are rejected by the constraint small", remedy: "DROP CONSTRAINT small",
		},
		{
			name: "a foreign key",
			spoil: `CREATE TABLE public.types (type text PRIMARY KEY);
				ALTER TABLE message_store.messages ADD CONSTRAINT known FOREIGN KEY (type) REFERENCES public.types`,
			problem: "some writes are rejected by the constraint known", remedy: "DROP CONSTRAINT known",
		},
		{
			name:    "an exclusion constraint",
			spoil:   `ALTER TABLE message_store.messages ADD CONSTRAINT apart EXCLUDE (time WITH =)`,
			problem: "some writes are rejected by the constraint apart", remedy: "DROP CONSTRAINT apart",
		},
		{
			name:    "a table that inherits",
			spoil:   `CREATE TABLE public.old () INHERITS (message_store.messages)`,
			problem: "the table public.old inherits from messages", remedy: "ALTER TABLE public.old NO INHERIT message_store.messages",
		},
		{
			name: "writes without a lock",
			spoil: `DO $$ BEGIN EXECUTE regexp_replace(pg_get_functiondef(oid), 'PERFORM [a-z_.]*acquire_lock\(', 'PERFORM message_store.category(')
				FROM pg_proc WHERE pronamespace = 'message_store'::regnamespace AND proname = 'write_message'; END $$`,
			problem: "the function write_message does not lock the category", remedy: "mdb install -print",
		},
		{
			name:    "a lock function that does nothing",
			spoil:   `CREATE OR REPLACE FUNCTION message_store.acquire_lock(stream_name varchar) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'`,
			problem: "the function acquire_lock does not lock the category", remedy: "mdb install -print",
		},
		{
			name: "a subscription that writes",
			spoil: `CREATE SUBSCRIPTION mdb_test_copied CONNECTION 'dbname=nowhere' PUBLICATION nothing WITH (connect = false);
				UPDATE pg_subscription SET subenabled = true WHERE subname = 'mdb_test_copied';
				INSERT INTO pg_subscription_rel SELECT oid, 'message_store.messages'::regclass, 'r', NULL FROM pg_subscription WHERE subname = 'mdb_test_copied'`,
			problem: "the subscription mdb_test_copied of logical replication writes to the table messages", remedy: "ALTER SUBSCRIPTION mdb_test_copied DISABLE",
		},
		{
			name:    "another client encoding",
			spoil:   `SET LOCAL client_encoding = 'LATIN1'`,
			problem: "the client encoding is LATIN1", remedy: "set client_encoding to UTF8",
		},
		{
			name:    "conditions",
			spoil:   `SET LOCAL message_store.sql_condition = 'on'`,
			problem: "message_store.sql_condition is on", remedy: "off",
		},
		{
			name: "row-level security", spoil: `ALTER TABLE message_store.messages ENABLE ROW LEVEL SECURITY` + member,
			problem: "row-level security hides messages from the role message_store", remedy: "DISABLE ROW LEVEL SECURITY",
		},
		{
			name: "row-level security for some rows", spoil: `ALTER TABLE message_store.messages ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON message_store.messages USING (true);
				CREATE POLICY q ON message_store.messages AS RESTRICTIVE FOR SELECT USING (position > 1)` + member,
			problem: "row-level security hides messages from the role message_store", remedy: "DISABLE ROW LEVEL SECURITY",
		},
		{
			name: "row-level security for writes", spoil: `ALTER TABLE message_store.messages ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON message_store.messages USING (true) WITH CHECK (position > 1)` + member,
			problem: "row-level security hides messages from the role message_store", remedy: "DISABLE ROW LEVEL SECURITY",
		},
		{
			name:    "a rule",
			spoil:   `CREATE RULE away AS ON INSERT TO message_store.messages DO INSTEAD NOTHING`,
			problem: "the rule away does something else", remedy: "DROP RULE away ON message_store.messages",
		},
		{
			name:    "a column that is missing",
			spoil:   `ALTER TABLE message_store.messages RENAME metadata TO meta`,
			problem: "the table messages lacks the column metadata", remedy: "ADD COLUMN metadata jsonb",
		},
		{
			name:    "a column of another type",
			spoil:   `ALTER TABLE message_store.messages ALTER time TYPE timestamptz`,
			problem: "the column time has the type timestamp with time zone, not timestamp", remedy: "ALTER COLUMN time TYPE timestamp",
		},
		{
			name:    "a short integer",
			spoil:   `ALTER TABLE message_store.messages ALTER global_position TYPE int`,
			problem: "the column global_position has the type integer, not bigint", remedy: "ALTER COLUMN global_position TYPE bigint",
		},
		{
			name:    "no default of the time",
			spoil:   `ALTER TABLE message_store.messages ALTER time DROP DEFAULT`,
			problem: "writes are rejected, because the column \"time\" is NOT NULL", remedy: "SET DEFAULT (now() AT TIME ZONE 'utc')",
		},
		{
			name:    "data is required",
			spoil:   `ALTER TABLE message_store.messages ALTER data SET NOT NULL`,
			problem: "writes without data are rejected", remedy: "ALTER COLUMN data DROP NOT NULL",
		},
		{
			name:    "another column is required",
			spoil:   `ALTER TABLE message_store.messages ADD tenant int NOT NULL`,
			problem: "writes are rejected, because the column tenant is NOT NULL", remedy: "ALTER COLUMN tenant DROP NOT NULL",
		},
		{
			name:    "another sequence",
			spoil:   `CREATE SEQUENCE other; ALTER TABLE message_store.messages ALTER global_position SET DEFAULT nextval('other')`,
			problem: "global positions are not taken from the sequence", remedy: "SET DEFAULT nextval('message_store.messages_global_position_seq')",
		},
		{
			name:    "a sequence that is too low",
			spoil:   rows,
			problem: "the next global position is 1, but the store contains 50", remedy: "SELECT setval('message_store.messages_global_position_seq', max(global_position)) FROM message_store.messages",
		},
		{
			name:    "a sequence that is too low by one",
			spoil:   rows + `SELECT setval('message_store.messages_global_position_seq', 49)`,
			problem: "the next global position is 50, but the store contains 50", remedy: "SELECT setval",
		},
		{
			name:    "a sequence below the first position",
			spoil:   `ALTER SEQUENCE message_store.messages_global_position_seq MINVALUE -5 RESTART 0`,
			problem: "the next global position is 0, but reads begin at 1", remedy: "MINVALUE 1 START 1 RESTART",
		},
		{
			name:    "a sequence near its end",
			spoil:   `ALTER SEQUENCE message_store.messages_global_position_seq AS int RESTART 2100000000`,
			problem: "the next global position is 2100000000, and writes fail after", remedy: "AS bigint NO MAXVALUE",
		},
		{
			name:    "a shard whose sequence has left its positions",
			spoil:   `ALTER SEQUENCE message_store.messages_global_position_seq INCREMENT 1024 START 3 RESTART 10`,
			problem: "the next global position is 10, which is not one of shard 3", remedy: "run mdb install -shard 3",
		},
		{
			name:    "a shard whose sequence is too low",
			spoil:   `ALTER SEQUENCE message_store.messages_global_position_seq INCREMENT 1024 START 3 RESTART 3;` + rows + `UPDATE message_store.messages SET global_position = 2000000 WHERE global_position = (SELECT max(global_position) FROM message_store.messages)`,
			problem: "but the store contains 2000000", remedy: "mdb install -shard 3",
		},
		{
			name:    "a sequence that descends",
			spoil:   `ALTER SEQUENCE message_store.messages_global_position_seq INCREMENT -1`,
			problem: "INCREMENT -1", remedy: "ALTER SEQUENCE message_store.messages_global_position_seq INCREMENT 1",
		},
		{
			name:    "a sequence that cycles",
			spoil:   `ALTER SEQUENCE message_store.messages_global_position_seq CYCLE`,
			problem: "it has CYCLE", remedy: "ALTER SEQUENCE message_store.messages_global_position_seq NO CYCLE",
		},
		{
			name: "a collation that is not deterministic",
			spoil: `CREATE COLLATION public.loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false); ` + dropViews + `
				ALTER TABLE message_store.messages ALTER type TYPE text COLLATE public.loose`,
			problem: "the collation loose of the table messages is not deterministic", remedy: "ALTER COLUMN stream_name TYPE text",
		},
		{
			name: "a collation that has changed",
			spoil: `CREATE COLLATION public.german (provider = icu, locale = 'de', version = '1'); ` + dropViews + `
				ALTER TABLE message_store.messages ALTER type TYPE text COLLATE public.german`,
			problem: "the collation german has changed from version 1 to", remedy: "REINDEX TABLE message_store.messages; ALTER COLLATION public.german REFRESH VERSION",
		},
		{
			name:    "another owner of the schema",
			spoil:   other + `ALTER SCHEMA message_store OWNER TO mdb_test_other`,
			problem: "the role mdb_test_other can replace what others call, because it owns the schema message_store", remedy: "ALTER SCHEMA message_store OWNER TO postgres",
		},
		{
			name:    "another owner of a function",
			spoil:   other + `ALTER FUNCTION message_store.stream_version OWNER TO mdb_test_other`,
			problem: "because it owns the function stream_version", remedy: "ALTER FUNCTION message_store.stream_version(character varying) OWNER TO postgres",
		},
		{
			name:    "another owner of a view",
			spoil:   other + `ALTER VIEW message_store.type_summary OWNER TO mdb_test_other`,
			problem: "because it owns the view type_summary", remedy: "ALTER VIEW message_store.type_summary OWNER TO postgres",
		},
		{
			name:    "CREATE for everybody",
			spoil:   `GRANT CREATE ON SCHEMA message_store TO PUBLIC`,
			problem: "every role can create functions", remedy: "REVOKE CREATE ON SCHEMA message_store FROM PUBLIC",
		},
		{
			name:    "CREATE for members",
			spoil:   `GRANT CREATE ON SCHEMA message_store TO message_store`,
			problem: "every member of message_store can create functions", remedy: "REVOKE CREATE ON SCHEMA message_store FROM message_store",
		},
		{
			name:    "conditions with the owner's rights",
			spoil:   `ALTER FUNCTION message_store.get_category_messages SECURITY DEFINER`,
			problem: "conditions run with the privileges of the owner of the function get_category_messages", remedy: "SECURITY INVOKER",
		},
		{
			name:    "a disabled trigger",
			spoil:   notifying + `ALTER TABLE message_store.messages DISABLE TRIGGER message_store_notify`,
			problem: "the NOTIFY trigger is disabled", remedy: "ENABLE TRIGGER message_store_notify",
		},
		{
			name:    "a trigger for replication alone",
			spoil:   notifying + `ALTER TABLE message_store.messages ENABLE REPLICA TRIGGER message_store_notify`,
			problem: "the NOTIFY trigger is disabled", remedy: "ENABLE TRIGGER message_store_notify",
		},
		{
			name:    "a session for replication",
			spoil:   notifying + `SET LOCAL session_replication_role = replica`,
			problem: "session_replication_role is replica", remedy: "origin",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// Each case begins a transaction that breaks the database and does not commit
			// it: the pool closes a connection that is returned within a transaction. So
			// the cases can share one database.
			s := newStore(t, newPool(t, url, oneConnection, func(cfg *pgxpool.Config) {
				cfg.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
					_, err := conn.Exec(ctx, `BEGIN; `+tt.spoil)
					return true, err
				}
			}))
			err := s.Check(t.Context())
			found := findings(t, err)
			if len(found) != 1 {
				t.Errorf("got %d findings, want 1: %v", len(found), err)
			}
			if !strings.Contains(found[0].Problem, tt.problem) || !strings.Contains(found[0].Remedy, tt.remedy) {
				t.Errorf("got problem %q and remedy %q, want them to mention %q and %q", found[0].Problem, found[0].Remedy, tt.problem, tt.remedy)
			}
			if strings.Contains(found[0].Error(), "\n") {
				t.Errorf("got a finding of several lines, want one line: %q", found[0])
			}
		})
	}
}

// TestCheckAccepts checks that Check does not report what looks like a problem and is none.
func TestCheckAccepts(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	for name, change := range map[string]string{
		"policies for all rows": `ALTER TABLE message_store.messages ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON message_store.messages USING (true); SET LOCAL ROLE message_store`,
		"a schema of a role of which the owner of the table is a member": `CREATE ROLE mdb_test_owners; CREATE ROLE mdb_test_owner IN ROLE mdb_test_owners;
			ALTER TABLE message_store.messages OWNER TO mdb_test_owner; ALTER SCHEMA message_store OWNER TO mdb_test_owners`,
		"a column that a trigger fills": `ALTER TABLE message_store.messages ADD tenant int NOT NULL;
			CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.tenant = 1; RETURN NEW; END';
			CREATE TRIGGER fill BEFORE INSERT ON message_store.messages FOR EACH ROW EXECUTE FUNCTION fill()`,
		"a disabled trigger that discards messages, and one that runs after the insert": `
			CREATE FUNCTION discard() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
			CREATE TRIGGER before BEFORE INSERT ON message_store.messages FOR EACH ROW EXECUTE FUNCTION discard();
			ALTER TABLE message_store.messages DISABLE TRIGGER before;
			CREATE TRIGGER after AFTER INSERT ON message_store.messages FOR EACH ROW EXECUTE FUNCTION discard()`,
		"unique indexes that reject nothing more": `CREATE UNIQUE INDEX a ON message_store.messages (id, time); CREATE UNIQUE INDEX b ON message_store.messages (position, stream_name) WHERE position > 5`,
		"a subscription that is disabled": `CREATE SUBSCRIPTION mdb_test_copied CONNECTION 'dbname=nowhere' PUBLICATION nothing WITH (connect = false);
			INSERT INTO pg_subscription_rel SELECT oid, 'message_store.messages'::regclass, 'r', NULL FROM pg_subscription WHERE subname = 'mdb_test_copied'`,
		"a disabled rule":            `CREATE RULE away AS ON INSERT TO message_store.messages DO INSTEAD NOTHING; ALTER TABLE message_store.messages DISABLE RULE away`,
		"a rule that adds something": `CREATE TABLE public.copy (n bigint); CREATE RULE away AS ON INSERT TO message_store.messages DO ALSO INSERT INTO public.copy VALUES (1)`,
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, newPool(t, url, oneConnection, func(cfg *pgxpool.Config) {
				cfg.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
					_, err := conn.Exec(ctx, `BEGIN; `+change)
					return true, err
				}
			}))
			if err := s.Check(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCheckStandby checks that Check reports a standby, except to a program that only reads.
func TestCheckStandby(t *testing.T) {
	t.Parallel()
	server := pgtest.Own(t)
	admin := newPool(t, server.URL("postgres"))
	s := newStore(t, admin)
	if err := schema.Install(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	exec(t, admin, `DO $$ BEGIN EXECUTE format('COPY (SELECT) TO %L', current_setting('data_directory') || '/standby.signal'); END $$`)
	if err := server.Restart("fast"); err != nil {
		t.Fatal(err)
	}
	admin.Reset()
	if found := findings(t, s.Check(t.Context())); len(found) != 1 || !strings.Contains(found[0].Problem, "the server is a standby") {
		t.Errorf("got findings %v, want the standby", found)
	}
	if err := s.Check(t.Context(), mdb.ReadOnly()); err != nil {
		t.Errorf("read-only: got error %v, want none", err)
	}
}

// TestCheckUnloggedSequence checks that Check reports a sequence that a crash resets.
func TestCheckUnloggedSequence(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t)
	if value[int](t, s.Pool(), `SELECT current_setting('server_version_num')::int`) < 150000 {
		t.Skip("this server has no unlogged sequences")
	}
	exec(t, s.Pool(), `ALTER SEQUENCE message_store.messages_global_position_seq SET UNLOGGED`)
	found := findings(t, s.Check(t.Context()))
	if len(found) != 1 || !strings.Contains(found[0].Problem, "resets the sequence") {
		t.Fatalf("got findings %v, want the sequence", found)
	}
	exec(t, s.Pool(), found[0].Remedy)
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCheckReadOnly checks that with ReadOnly, Check accepts that the role and the server
// cannot write, and nothing else.
func TestCheckReadOnly(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	exec(t, newPool(t, url), `
		REVOKE INSERT ON message_store.messages FROM message_store;
		REVOKE ALL ON SEQUENCE message_store.messages_global_position_seq FROM message_store;
		REVOKE EXECUTE ON FUNCTION message_store.write_message, message_store.acquire_lock FROM PUBLIC, message_store`)
	s := newStore(t, newPool(t, url, asRole("message_store"), parameter("default_transaction_read_only", "on")))
	if found := findings(t, s.Check(t.Context())); len(found) != 2 {
		t.Errorf("got findings %v, want the privileges and the setting", found)
	}
	if err := s.Check(t.Context(), mdb.ReadOnly()); err != nil {
		t.Errorf("read-only: got error %v, want none", err)
	}
	exec(t, newPool(t, url), `REVOKE SELECT ON message_store.messages FROM message_store`)
	if found := findings(t, s.Check(t.Context(), mdb.ReadOnly())); len(found) != 1 || !strings.Contains(found[0].Problem, "lacks SELECT on messages") {
		t.Errorf("got findings %v, want SELECT", found)
	}
}

// TestCheckText checks that Check reports settings with which pgx cannot read times, and the
// server rejects batches, in the modes in which values are text.
func TestCheckText(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		// BehindPooler leaves array_nulls to the role.
		s := newStore(t, barePool(t, testdb.Shared(t), configure, execMode(mode), parameter("DateStyle", "German"), parameter("array_nulls", "off")))
		err := s.Check(t.Context())
		if mode != pgx.QueryExecModeExec && mode != pgx.QueryExecModeSimpleProtocol {
			if err != nil {
				t.Errorf("%v: got error %v, want none", mode, err)
			}
			continue
		}
		found := findings(t, err)
		if len(found) != 2 || !strings.Contains(found[0].Problem, "the date style is German") || !strings.Contains(found[1].Problem, "array_nulls is off") {
			t.Errorf("%v: got findings %v, want the date style and array_nulls", mode, found)
		}
		if found := findings(t, s.Check(t.Context(), mdb.ReadOnly())); len(found) != 1 {
			t.Errorf("%v, read-only: got findings %v, want the date style", mode, found)
		}
	}
}

// TestCheckEncoding checks that Check reports a database that is not UTF-8.
func TestCheckEncoding(t *testing.T) {
	t.Parallel()
	server := pgtest.Own(t)
	admin := newPool(t, server.URL("postgres"))
	for _, encoding := range []string{"LATIN1", "SQL_ASCII"} {
		exec(t, admin, `CREATE DATABASE `+strings.ToLower(encoding)+` TEMPLATE template0 ENCODING `+encoding+` LOCALE 'C'`)
		s := newStore(t, newPool(t, server.URL(strings.ToLower(encoding)), parameter("client_encoding", "UTF8")))
		if err := schema.Install(t.Context(), s.Pool()); err != nil {
			t.Fatal(err)
		}
		if found := findings(t, s.Check(t.Context())); len(found) != 1 || !strings.Contains(found[0].Problem, "the encoding of the database is "+encoding) {
			t.Errorf("got findings %v, want the encoding", found)
		}
	}
}

// TestCheckCollation checks that Check reports a database whose collation has changed.
func TestCheckCollation(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	if value[int](t, newPool(t, url), `SELECT current_setting('server_version_num')::int`) < 150000 {
		t.Skip("this server does not record the version of a database's collation")
	}
	s := newStore(t, newPool(t, url))
	exec(t, s.Pool(), `UPDATE pg_database SET datcollversion = '0' WHERE datname = current_database()`)
	found := findings(t, s.Check(t.Context()))
	if len(found) != 1 || !strings.Contains(found[0].Problem, "the collation of the database has changed from version 0 to") || !strings.Contains(found[0].Remedy, "REFRESH COLLATION VERSION") {
		t.Errorf("got findings %v, want the collation", found)
	}
}

// TestCheckPlan checks that Check looks up functions by name. To ask for the visibility of
// each function of the server takes longer than some statement timeouts.
func TestCheckPlan(t *testing.T) {
	t.Parallel()
	pool := newPool(t, testdb.Shared(t), oneConnection)
	rows, _ := pool.Query(t.Context(), `EXPLAIN `+strings.NewReplacer("$1", "false", "$2", "false", "$3", "false").Replace(mdb.Inspection))
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(plan, "\n"); strings.Contains(text, "Seq Scan on pg_proc") || !strings.Contains(text, "pg_proc_proname_args_nsp_index") {
		t.Errorf("got a plan that reads all functions: %s", text)
	}
}

// TestCheckRemedies checks that following the remedies fixes what Check finds.
func TestCheckRemedies(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t)
	exec(t, s.Pool(), `ALTER SEQUENCE message_store.messages_global_position_seq CACHE 5`)
	err := s.Check(t.Context())
	exec(t, s.Pool(), findings(t, err)[0].Remedy)
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCheckInvalidIndex checks that Check reports an index that is invalid, as a failed
// CREATE INDEX CONCURRENTLY leaves it.
func TestCheckInvalidIndex(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t)
	stream := mdbtest.Category("twice").Stream("1")
	exec(t, s.Pool(), `DROP INDEX message_store.messages_stream`)
	for range 2 {
		exec(t, s.Pool(), `INSERT INTO message_store.messages (stream_name, position, type) VALUES ($1, 0, 'Happened')`, string(stream))
	}
	_, err := s.Pool().Exec(t.Context(), `CREATE UNIQUE INDEX CONCURRENTLY messages_stream ON message_store.messages (stream_name, position)`)
	wantCode(t, err, "23505")
	found := findings(t, s.Check(t.Context()))
	if len(found) != 1 || !strings.Contains(found[0].Problem, "messages_stream") {
		t.Errorf("got findings %v, want messages_stream", found)
	}
}

// TestCheckTemporaryTable checks that Check accepts a temporary table named messages if the
// functions, or the search path, lead to the store's.
func TestCheckTemporaryTable(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{"independent": testdb.Shared(t), "dependent": testdb.PathDependent(t)} {
		prepare := configure
		if name == "dependent" {
			prepare = firstPath
		}
		s := newStore(t, barePool(t, url, prepare, oneConnection))
		exec(t, s.Pool(), `CREATE TEMPORARY TABLE messages ()`)
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("%s: got error %v, want none", name, err)
		}
	}
}

// TestCheckPath checks that Check reports a search path without message_store if the
// installed functions need it, as Message DB's own do.
func TestCheckPath(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	exec(t, newPool(t, url), `CREATE OR REPLACE FUNCTION message_store.stream_version(stream_name varchar) RETURNS bigint LANGUAGE plpgsql AS
		$$BEGIN RETURN (SELECT max(m.position) FROM messages AS m WHERE m.stream_name = stream_version.stream_name); END$$`)
	found := findings(t, newStore(t, barePool(t, url)).Check(t.Context()))
	if len(found) != 1 || !strings.Contains(found[0].Problem, "which does not begin with message_store") {
		t.Errorf("got findings %v, want the path", found)
	}
	if err := newStore(t, barePool(t, url, firstPath)).Check(t.Context()); err != nil {
		t.Errorf("on a configured pool: got error %v, want none", err)
	}
}

// TestCheckAll checks that Check reports all problems in one error.
func TestCheckAll(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	exec(t, newPool(t, url), `
		ALTER SEQUENCE message_store.messages_global_position_seq CACHE 5;
		DROP INDEX message_store.messages_category, message_store.messages_id;
		REVOKE INSERT ON message_store.messages FROM message_store;
		CREATE TABLE public.messages ();
		GRANT ALL ON public.messages TO message_store;
		CREATE OR REPLACE FUNCTION message_store.stream_version(stream_name varchar) RETURNS bigint LANGUAGE plpgsql AS
			$$BEGIN RETURN (SELECT max(m.position) FROM messages AS m WHERE m.stream_name = stream_version.stream_name); END$$`)
	s := newStore(t, barePool(t, url, asRole("message_store"), parameter("search_path", "public"), connectTimeout(0)))
	err := s.Check(t.Context())
	if found := findings(t, err); len(found) != 6 {
		t.Errorf("got %d findings, want 6: %v", len(found), err)
	}
	for _, part := range []string{"CACHE 5", "messages_id is missing", "messages_category is missing", "INSERT on messages", "depend on the search path, public", "no connect timeout"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("got %q, want it to mention %s", err, part)
		}
	}
}

// TestCheckFails checks that an error of Check itself is not reported as a finding.
func TestCheckFails(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, pgtest.Database(t, "empty", nil)))
	s.Pool().Close()
	err := s.Check(t.Context())
	if setup := (*mdb.SetupError)(nil); err == nil || errors.As(err, &setup) {
		t.Errorf("got error %v, want one that is not a finding", err)
	}
}
