//go:build official

package schema_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestMixedUse checks that the functions of this package and of Message DB's script
// return the same from messages written by either, when one replaces the other.
func TestMixedUse(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		url  string
		use  []func(testing.TB, *pgx.Conn)
	}{
		{"installed by Message DB's script", pgtest.Database(t, "official", testdb.InstallOfficial), []func(testing.TB, *pgx.Conn){useOurs, useOfficial}},
		{"installed by this package", pgtest.Database(t, "ours", testdb.InstallOurs), []func(testing.TB, *pgx.Conn){useOfficial, useOurs}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, test.url)
			run(t, conn, `SET search_path = message_store, public; SET message_store.sql_condition = 'on'`)

			writeSample(t, conn, 0)
			want := answers(t, conn)
			for i, use := range test.use {
				use(t, conn)
				compare(t, fmt.Sprintf("after replacement %d", i+1), answers(t, conn), want)
				writeSample(t, conn, i+1)
				want = answers(t, conn)
			}
			test.use[0](t, conn)
			compare(t, "at the end", answers(t, conn), want)
		})
	}
}

// TestSameAnswers checks that the functions of this package and of Message DB's script
// return the same in two databases with the same messages.
func TestSameAnswers(t *testing.T) {
	t.Parallel()
	ours := connect(t, pgtest.Database(t, "ours", testdb.InstallOurs))
	official := connect(t, pgtest.Database(t, "official", testdb.InstallOfficial))
	for _, conn := range []*pgx.Conn{ours, official} {
		run(t, conn, `SET search_path = message_store, public; SET message_store.sql_condition = 'on'`)
	}
	compare(t, "without messages", answers(t, ours), answers(t, official))
	for _, conn := range []*pgx.Conn{ours, official} {
		writeSample(t, conn, 0)
		// The times differ.
		run(t, conn, `UPDATE message_store.messages SET time = '2000-01-01'`)
	}
	compare(t, "with messages", answers(t, ours), answers(t, official))
}

func compare(t *testing.T, when string, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: got %d answers, want %d", when, len(got), len(want))
	}
	wrong := 0
	for i := range got {
		if got[i] != want[i] {
			if wrong++; wrong <= 10 {
				t.Errorf("%s: got\n%s\nwant\n%s", when, got[i], want[i])
			}
		}
	}
	if wrong > 10 {
		t.Errorf("%s: %d answers differ", when, wrong)
	}
}

// useOurs replaces the functions and the views with this package's.
func useOurs(t testing.TB, conn *pgx.Conn) {
	t.Helper()
	replace(t, conn, "sql/[3-7]-*.sql", strings.NewReplacer(
		"CREATE FUNCTION", "CREATE OR REPLACE FUNCTION",
		"CREATE VIEW", "CREATE OR REPLACE VIEW",
		"INDEX messages_", "INDEX IF NOT EXISTS messages_",
	))
	if language(t, conn) != "sql" {
		t.Fatal("the functions are not this package's")
	}
}

// useOfficial replaces the functions and the views with Message DB's own.
func useOfficial(t testing.TB, conn *pgx.Conn) {
	t.Helper()
	folder := os.Getenv("MDB_TEST_MESSAGE_DB")
	replace(t, conn, filepath.Join(folder, "database", "functions", "*.sql"), strings.NewReplacer())
	replace(t, conn, filepath.Join(folder, "database", "views", "*.sql"), strings.NewReplacer())
	if language(t, conn) != "plpgsql" {
		t.Fatal("the functions are not Message DB's own")
	}
}

func replace(t testing.TB, conn *pgx.Conn, pattern string, change *strings.Replacer) {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(names), err)
	}
	for _, name := range names {
		sql, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		run(t, conn, change.Replace(string(sql)))
	}
}

func language(t testing.TB, conn *pgx.Conn) string {
	t.Helper()
	const of = "function category(character varying): language"
	return catalogue(t, conn)[of]
}

// writeSample writes messages to several categories with all kinds of payloads. Each
// round uses other IDs.
func writeSample(t testing.TB, conn *pgx.Conn, round int) {
	t.Helper()
	streams := []string{"a-1", "a-2+1", "a", "ab-1", "a-3", "a-2+2", "a:command-1", "a-", "a-+1", "a-b-c", "-1", "", "Ünï-ключ+1", "a-1"}
	payloads := []string{
		`'{"b": 1.50, "a": {"deep": [1, null, "ö"]}}'`, `NULL`, `'null'`, `'[]'`, `'"text"'`, `'{"a": 1, "a": 2}'`, `'1e400'`,
	}
	metadata := []string{
		`NULL`, `'{"correlationStreamName": "o-1"}'`, `'{"correlationStreamName": "o"}'`, `'{"correlationStreamName": "op-1"}'`,
		`'{"correlationStreamName": null}'`, `'{"correlationStreamName": 7}'`, `'{"other": "o-1"}'`, `'[]'`,
	}
	types := []string{"Opened", "Changed", "Closed"}
	n := 0
	for repeat := range 4 {
		for i, stream := range streams {
			n++
			run(t, conn, fmt.Sprintf(`SELECT message_store.write_message('%08x-0000-4000-8000-%012x', '%s', '%s', %s, %s, %s)`,
				round, n, stream, types[(i+repeat)%len(types)], payloads[n%len(payloads)], metadata[(n/3)%len(metadata)],
				[]string{"NULL", "message_store.stream_version('" + stream + "')"}[n%2]))
		}
	}
}

// questions are queries that combine the arguments of the functions.
var questions = []string{
	`SELECT concat_ws(' ', 'names', to_json(n), to_json(message_store.category(n)), to_json(message_store.id(n)), to_json(message_store.cardinal_id(n)),
		message_store.is_category(n), message_store.hash_64(n)) FROM ` + names + ` ORDER BY n`,

	`SELECT concat_ws(' ', 'lock', to_json(n), message_store.acquire_lock(n)) FROM ` + names + ` ORDER BY n`,

	`SELECT concat_ws(' ', 'version', to_json(n), message_store.stream_version(n)) FROM ` + names + ` ORDER BY n`,

	`SELECT concat_ws(' ', 'last', to_json(n), to_json(typ), (SELECT json_agg(m) FROM message_store.get_last_stream_message(n, typ) AS m))
		FROM ` + names + `, unnest(ARRAY[NULL, 'Opened', 'Changed', 'None', '']) AS typ ORDER BY n, typ`,

	`SELECT concat_ws(' ', 'stream', to_json(n), 'position', to_json(position), 'batch', to_json(batch), 'condition', to_json(condition),
			(SELECT json_agg(m) FROM message_store.get_stream_messages(n, position, batch, condition) AS m))
		FROM ` + names + `, unnest(ARRAY[NULL, -1, 0, 1, 3, 100, 9223372036854775807]) AS position, unnest(ARRAY[NULL, -1, 0, 1, 3, 1000]) AS batch, ` + conditions + `
		WHERE n LIKE '%-%' ORDER BY n, position, batch, condition`,

	`SELECT concat_ws(' ', 'category', to_json(n), 'position', to_json(position), 'batch', to_json(batch), 'correlation', to_json(correlation),
			'member', member, 'of', size, 'condition', to_json(condition),
			(SELECT json_agg(m) FROM message_store.get_category_messages(n, position, batch, correlation, member, size, condition) AS m))
		FROM unnest(ARRAY[NULL, '', 'a', 'ab', 'a:command', 'none']) AS n, unnest(ARRAY[NULL, -1, 7, 40]) AS position,
			unnest(ARRAY[NULL, -1, 0, 2]) AS batch, unnest(ARRAY[NULL, 'o', 'op', '', '7']) AS correlation,
			(VALUES (NULL::bigint, NULL::bigint), (0, 1), (0, 2), (2, 3), (0, 32767)) AS consumers(member, size), ` + conditions + `
		ORDER BY n, position, batch, correlation, member, size, condition`,

	`SELECT concat_ws(' ', 'category_type_summary', v) FROM message_store.category_type_summary AS v`,
	`SELECT concat_ws(' ', 'stream_summary', v) FROM message_store.stream_summary AS v`,
	`SELECT concat_ws(' ', 'stream_type_summary', v) FROM message_store.stream_type_summary AS v`,
	`SELECT concat_ws(' ', 'type_category_summary', v) FROM message_store.type_category_summary AS v`,
	`SELECT concat_ws(' ', 'type_stream_summary', v) FROM message_store.type_stream_summary AS v`,
	`SELECT concat_ws(' ', 'type_summary', v) FROM message_store.type_summary AS v`,

	`SELECT message_store.message_store_version()`,
}

const (
	names = `unnest(ARRAY[NULL, '', '-', '--', '+', '-+', 'a', 'a-1', 'a-2+1', 'a-2+2', 'ab-1', 'a-', 'a-+1', 'a-b-c', 'a-+', '-1', 'a:command-1', 'a+b-c+d',
		'Ünï-ключ+1', 'none-1', repeat('x', 3000) || '-1']) AS n`
	conditions = `unnest(ARRAY[NULL, 'type = ''Changed'' OR messages.position = 0']) AS condition`
)

func answers(t testing.TB, conn *pgx.Conn) []string {
	t.Helper()
	var all []string
	for _, question := range questions {
		rows, _ := conn.Query(t.Context(), question)
		got, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatalf("%s: %v", question, err)
		}
		all = slices.Concat(all, got)
	}
	return all
}
