package schema_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestRightsOfMessageStore checks what the role message_store is not allowed to do,
// including what the conformance suite cannot try on a store in use.
func TestRightsOfMessageStore(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	for _, statement := range []string{
		`UPDATE message_store.messages SET data = NULL`,
		`DELETE FROM message_store.messages`,
		`TRUNCATE message_store.messages`,
		`CREATE TRIGGER spy BEFORE INSERT ON message_store.messages FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()`,
		`CREATE TABLE message_store.other ()`,
		`CREATE FUNCTION message_store.other() RETURNS void LANGUAGE sql AS ''`,
		`CREATE INDEX ON message_store.messages (time)`,
		`CREATE OR REPLACE FUNCTION message_store.category(stream_name varchar) RETURNS varchar LANGUAGE sql AS 'SELECT NULL'`,
		`ALTER TABLE message_store.messages DROP COLUMN metadata`,
		`DROP TABLE message_store.messages CASCADE`,
		`DROP SCHEMA message_store CASCADE`,
		`SELECT setval('message_store.messages_global_position_seq', 1)`,
		`ALTER SEQUENCE message_store.messages_global_position_seq RESTART`,
		`REINDEX TABLE message_store.messages`,
	} {
		t.Run(statement, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, url)
			run(t, conn, `SET ROLE message_store`)
			_, err := conn.Exec(t.Context(), statement)
			var pgErr *pgconn.PgError
			if !errors.As(err, &pgErr) || pgErr.Code != "42501" {
				t.Errorf("got %v, want 42501", err)
			}
		})
	}
}

// TestViews checks the reporting views, including the percentages, which the conformance
// suite cannot know in advance.
func TestViews(t *testing.T) {
	t.Parallel()
	conn := connect(t, testdb.New(t))
	run(t, conn, `SET search_path = message_store, public`)
	for _, view := range []string{"category_type_summary", "stream_summary", "stream_type_summary", "type_category_summary", "type_stream_summary", "type_summary"} {
		if got := rows(t, conn, `SELECT v::text FROM message_store.`+view+` AS v`); len(got) != 0 {
			t.Errorf("%s of no messages: got %q, want none", view, got)
		}
	}
	// The percentages of 7 messages are rounded up and down.
	for _, m := range [][2]string{{"b-1", "Opened"}, {"a-2", "Opened"}, {"a-1", "Closed"}, {"a-1", "Opened"}, {"b-1", "Opened"}, {"a-2", "Opened"}, {"a", "Moved"}} {
		run(t, conn, `SELECT message_store.write_message(gen_random_uuid()::varchar, '`+m[0]+`', '`+m[1]+`', '{}')`)
	}
	for view, want := range map[string][]string{
		"category_type_summary": {"(a,Closed,1,14.29)", "(a,Moved,1,14.29)", "(a,Opened,3,42.86)", "(b,Opened,2,28.57)"},
		"stream_summary":        {"(a,1,14.29)", "(a-1,2,28.57)", "(a-2,2,28.57)", "(b-1,2,28.57)"},
		"stream_type_summary":   {"(a,Moved,1,14.29)", "(a-1,Closed,1,14.29)", "(a-1,Opened,1,14.29)", "(a-2,Opened,2,28.57)", "(b-1,Opened,2,28.57)"},
		"type_category_summary": {"(Closed,a,1,14.29)", "(Moved,a,1,14.29)", "(Opened,a,3,42.86)", "(Opened,b,2,28.57)"},
		"type_stream_summary":   {"(Closed,a-1,1,14.29)", "(Moved,a,1,14.29)", "(Opened,a-1,1,14.29)", "(Opened,a-2,2,28.57)", "(Opened,b-1,2,28.57)"},
		"type_summary":          {"(Closed,1,14.29)", "(Moved,1,14.29)", "(Opened,5,71.43)"},
	} {
		if got := rows(t, conn, `SELECT v::text FROM message_store.`+view+` AS v`); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", view, got, want)
		}
	}
}

func rows(t testing.TB, db querier, sql string) []string {
	t.Helper()
	rows, _ := db.Query(t.Context(), sql)
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return got
}
