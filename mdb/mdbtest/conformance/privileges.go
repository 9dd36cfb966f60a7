package conformance

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

func (s *suite) privileges(t *testing.T) {
	t.Helper()

	has := []struct{ what, query string }{
		{"USAGE on the schema", `SELECT has_schema_privilege($1::name, 'message_store', 'USAGE')`},
		{"SELECT on messages", `SELECT has_table_privilege($1::name, 'message_store.messages', 'SELECT')`},
		{"INSERT on messages", `SELECT has_table_privilege($1::name, 'message_store.messages', 'INSERT')`},
		{"USAGE on the sequence", `SELECT has_sequence_privilege($1::name, 'message_store.messages_global_position_seq', 'USAGE')`},
		{"SELECT on the sequence", `SELECT has_sequence_privilege($1::name, 'message_store.messages_global_position_seq', 'SELECT')`},
		{"SELECT on all six views", `SELECT count(*) = 6 FROM pg_class WHERE relnamespace = 'message_store'::regnamespace
			AND relkind = 'v' AND relname LIKE '%summary' AND has_table_privilege($1::name, oid, 'SELECT')`},
		{"EXECUTE on all twelve functions", `SELECT count(DISTINCT proname) = 12 FROM pg_proc WHERE pronamespace = 'message_store'::regnamespace
			AND proname IN ('acquire_lock', 'cardinal_id', 'category', 'get_category_messages', 'get_last_stream_message', 'get_stream_messages',
				'hash_64', 'id', 'is_category', 'message_store_version', 'stream_version', 'write_message')
			AND has_function_privilege($1::name, oid, 'EXECUTE')`},
	}
	for _, role := range []struct{ name, is string }{
		{"role message_store", `SELECT 'message_store'`},
		{"the role of the store", `SELECT current_user::text`},
	} {
		s.check(t, role.name+" may read and write", func(t *testing.T) {
			is := value[string](t, s.store.Pool(), role.is)
			for _, p := range has {
				if !value[bool](t, s.store.Pool(), p.query, is) {
					t.Errorf("role %s lacks %s", is, p.what)
				}
			}
		})
	}
}

// missingPrivileges is about what only an owner may do.
func (s *suite) missingPrivileges(t *testing.T) {
	t.Helper()
	current := value[string](t, s.store.Pool(), `SELECT current_user::text`)
	hasNot := []struct {
		what, query string
		statement   string
		harmless    bool // to a store in use, if it is rolled back
	}{
		{
			"update messages", `SELECT has_table_privilege($1::name, 'message_store.messages', 'UPDATE')`,
			`UPDATE message_store.messages SET type = type WHERE false`, true,
		},
		{
			"delete messages", `SELECT has_table_privilege($1::name, 'message_store.messages', 'DELETE')`,
			`DELETE FROM message_store.messages WHERE false`, true,
		},
		{
			"truncate messages", `SELECT has_table_privilege($1::name, 'message_store.messages', 'TRUNCATE')`,
			`TRUNCATE message_store.messages`, false,
		},
		{
			"create tables in the schema", `SELECT has_schema_privilege($1::name, 'message_store', 'CREATE')`,
			`CREATE TABLE message_store.mdb_test_other ()`, true,
		},
		{
			"set the sequence", `SELECT has_sequence_privilege($1::name, 'message_store.messages_global_position_seq', 'UPDATE')`,
			`SELECT setval('message_store.messages_global_position_seq', last_value) FROM message_store.messages_global_position_seq`, false,
		},
		{
			// Creating one locks the table against writers even where it is rejected.
			"create triggers", `SELECT has_table_privilege($1::name, 'message_store.messages', 'TRIGGER')`, ``, false,
		},
	}
	owner := value[bool](t, s.store.Pool(), `SELECT rolsuper OR pg_has_role(relowner, 'USAGE') FROM pg_class, pg_roles
		WHERE pg_class.oid = 'message_store.messages'::regclass AND rolname = current_user`)
	for _, right := range hasNot {
		s.check(t, "role message_store may not "+right.what, func(t *testing.T) {
			if value[bool](t, s.store.Pool(), right.query, "message_store") {
				t.Error("role message_store has the right")
			}
			if got := value[bool](t, s.store.Pool(), right.query, current); got != owner {
				// Not to be tried out, then.
				t.Fatalf("the store's role has the right: %t, want %t, as it is an owner: %t", got, owner, owner)
			}
			tx := s.begin(t, pgx.TxOptions{})
			switch {
			case right.statement == "":
			case !owner:
				if err := rejection(t, tx, right.statement); err.Code != "42501" {
					t.Errorf("got %s (%s), want 42501", err.Code, err.Message)
				}
			case right.harmless:
				do(t, tx, right.statement)
			}
		})
	}
}

func (s *suite) otherRoles(t *testing.T) {
	t.Helper()
	s.check(t, "other roles have no rights", func(t *testing.T) {
		// What all roles have, PUBLIC has.
		for _, query := range []string{
			`SELECT has_schema_privilege('public', 'message_store', 'USAGE, CREATE')`,
			`SELECT has_table_privilege('public', 'message_store.messages', 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER')`,
			`SELECT has_sequence_privilege('public', 'message_store.messages_global_position_seq', 'USAGE, SELECT, UPDATE')`,
		} {
			if value[bool](t, s.store.Pool(), query) {
				t.Errorf("%s is true", query)
			}
		}
		if !value[bool](t, s.store.Pool(), `SELECT rolsuper FROM pg_roles WHERE rolname = current_user`) {
			return // which cannot become another role
		}
		role := pgx.Identifier{string(mdbtest.Category("mdb_test_other_"))}.Sanitize()
		for _, call := range []string{
			// The connection may have prepared this package's own text as another role.
			`SELECT message_store.message_store_version() AS denied`,
			`SELECT FROM message_store.messages`,
		} {
			tx := s.begin(t, pgx.TxOptions{})
			do(t, tx, `CREATE ROLE `+role)
			do(t, tx, `SET LOCAL ROLE `+role)
			if err := rejection(t, tx, call); err.Code != "42501" {
				t.Errorf("%s: got %s (%s), want 42501", call, err.Code, err.Message)
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func (s *suite) readOnly(t *testing.T) {
	t.Helper()
	s.check(t, "a read-only transaction can read and not write", func(t *testing.T) {
		category := mdbtest.Category("readonly")
		stream := category.Stream("1")
		write(t, s.store.Pool(), proposal{stream: stream})
		tx := s.begin(t, pgx.TxOptions{AccessMode: pgx.ReadOnly})

		for function, arg := range map[string]string{
			"get_stream_messages":     string(stream),
			"get_category_messages":   string(category),
			"get_last_stream_message": string(stream),
		} {
			if got := records(t, tx, `message_store.`+function+`($1::varchar)`, arg); len(got) != 1 {
				t.Errorf("%s: got %d messages, want 1", function, len(got))
			}
		}
		if version, err := s.store.WithTx(tx).StreamVersion(t.Context(), stream); err != nil || version != 0 {
			t.Errorf("StreamVersion returns %d, %v, want 0", version, err)
		}
		err := rejection(t, tx, `SELECT message_store.write_message(gen_random_uuid()::varchar, $1::varchar, 'Tested', '{}')`, string(stream))
		if err.Code != "25006" {
			t.Errorf("write_message: got %s (%s), want 25006", err.Code, err.Message)
		}
	})
}
