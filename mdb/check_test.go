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
	const member = `; SET LOCAL ROLE message_store`
	// The functions of Message DB's own script depend on the search path.
	const dependent = `CREATE OR REPLACE FUNCTION message_store.stream_version(stream_name varchar) RETURNS bigint LANGUAGE plpgsql AS
		$$BEGIN RETURN (SELECT max(m.position) FROM messages AS m WHERE m.stream_name = stream_version.stream_name); END$$; `
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
			problem: "the role lacks USAGE on schema message_store", remedy: "GRANT message_store",
		},
		{
			name: "no SELECT", spoil: `REVOKE SELECT ON message_store.messages FROM message_store` + member,
			problem: "the role lacks SELECT on messages", remedy: "GRANT message_store",
		},
		{
			name: "no INSERT", spoil: `REVOKE INSERT ON message_store.messages FROM message_store` + member,
			problem: "the role lacks INSERT on messages", remedy: "GRANT message_store",
		},
		{
			name: "no sequence", spoil: `REVOKE ALL ON SEQUENCE message_store.messages_global_position_seq FROM message_store` + member,
			problem: "the role lacks USAGE on messages_global_position_seq", remedy: "GRANT message_store",
		},
		{
			name:    "no EXECUTE",
			spoil:   `REVOKE EXECUTE ON FUNCTION message_store.write_message FROM PUBLIC, message_store` + member,
			problem: "the role lacks EXECUTE on write_message", remedy: "GRANT message_store",
		},
		{
			name:    "several rights",
			spoil:   `REVOKE INSERT ON message_store.messages FROM message_store; REVOKE ALL ON SEQUENCE message_store.messages_global_position_seq FROM message_store` + member,
			problem: "the role lacks INSERT on messages; USAGE on messages_global_position_seq", remedy: "GRANT message_store",
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
			problem: "messages_category", remedy: "REINDEX",
		},
		{
			name:    "an index that is not unique",
			spoil:   `DROP INDEX message_store.messages_id; CREATE INDEX messages_id ON message_store.messages (id)`,
			problem: "messages_id", remedy: "REINDEX",
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
	s := newStore(t, barePool(t, url, asRole("message_store"), parameter("search_path", "public")))
	err := s.Check(t.Context())
	if found := findings(t, err); len(found) != 4 {
		t.Errorf("got %d findings, want 4: %v", len(found), err)
	}
	for _, part := range []string{"CACHE 5", "messages_id, messages_category", "INSERT on messages", "depend on the search path, public"} {
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
