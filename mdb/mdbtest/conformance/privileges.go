package conformance

import (
	"slices"
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
	current := value[string](t, s.store.Pool(), `SELECT current_user::text`)
	for _, role := range slices.Compact([]string{"message_store", current}) {
		t.Run("C70 rights of "+role, func(t *testing.T) {
			t.Parallel()
			for _, p := range has {
				if !value[bool](t, s.store.Pool(), p.query, role) {
					t.Errorf("role %s lacks %s", role, p.what)
				}
			}
		})
	}

	hasNot := []struct {
		what, query string
		statement   string
		harmless    bool // to a store in use, if it is rolled back
	}{
		{
			"UPDATE", `SELECT has_table_privilege($1::name, 'message_store.messages', 'UPDATE')`,
			`UPDATE message_store.messages SET type = type WHERE false`, true,
		},
		{
			"DELETE", `SELECT has_table_privilege($1::name, 'message_store.messages', 'DELETE')`,
			`DELETE FROM message_store.messages WHERE false`, true,
		},
		{
			"TRUNCATE", `SELECT has_table_privilege($1::name, 'message_store.messages', 'TRUNCATE')`,
			`TRUNCATE message_store.messages`, false,
		},
		{
			"CREATE", `SELECT has_schema_privilege($1::name, 'message_store', 'CREATE')`,
			`CREATE TABLE message_store.mdb_test_other ()`, true,
		},
		{
			"setval", `SELECT has_sequence_privilege($1::name, 'message_store.messages_global_position_seq', 'UPDATE')`,
			`SELECT setval('message_store.messages_global_position_seq', last_value) FROM message_store.messages_global_position_seq`, false,
		},
		{
			// Creating one locks the table against writers even where it is refused.
			"TRIGGER", `SELECT has_table_privilege($1::name, 'message_store.messages', 'TRIGGER')`, ``, false,
		},
	}
	owner := value[bool](t, s.store.Pool(), `SELECT rolsuper OR pg_has_role(relowner, 'USAGE') FROM pg_class, pg_roles
		WHERE pg_class.oid = 'message_store.messages'::regclass AND rolname = current_user`)
	for _, right := range hasNot {
		t.Run("C71 "+right.what, func(t *testing.T) {
			t.Parallel()
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
				if err := refusal(t, tx, right.statement); err.Code != "42501" {
					t.Errorf("got %s (%s), want 42501", err.Code, err.Message)
				}
			case right.harmless:
				do(t, tx, right.statement)
			}
		})
	}

	t.Run("C72 another role", func(t *testing.T) {
		t.Parallel()
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
			`SELECT message_store.message_store_version()`,
			`SELECT FROM message_store.messages`,
		} {
			tx := s.begin(t, pgx.TxOptions{})
			do(t, tx, `CREATE ROLE `+role)
			do(t, tx, `SET LOCAL ROLE `+role)
			if err := refusal(t, tx, call); err.Code != "42501" {
				t.Errorf("%s: got %s (%s), want 42501", call, err.Code, err.Message)
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})

	t.Run("C73 a read-only transaction", func(t *testing.T) {
		t.Parallel()
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
		err := refusal(t, tx, `SELECT message_store.write_message(gen_random_uuid()::varchar, $1::varchar, 'Tested', '{}')`, string(stream))
		if err.Code != "25006" {
			t.Errorf("write_message: got %s (%s), want 25006", err.Code, err.Message)
		}
	})
}
