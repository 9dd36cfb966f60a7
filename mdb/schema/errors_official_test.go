//go:build official

package schema_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestSameErrors checks that calls fail in the same way, down to the texts, in
// installations by this package and by Message DB's script.
func TestSameErrors(t *testing.T) {
	t.Parallel()
	type call struct{ Name, Setting, Call, Code string }
	file, err := os.ReadFile("../mdbtest/conformance/testdata/errors.json")
	if err != nil {
		t.Fatal(err)
	}
	var byFunction map[string][]call
	if err := json.Unmarshal(file, &byFunction); err != nil {
		t.Fatal(err)
	}
	var calls []call
	for function, of := range byFunction {
		for _, c := range of {
			c.Name = function + " " + c.Name
			calls = append(calls, c)
		}
	}
	// Some of these calls succeed, in both.
	for _, category := range []string{"{category}", "none"} {
		for _, member := range []string{"NULL", "-1", "0", "1", "2", "32767", "32768", "9223372036854775807"} {
			for _, size := range []string{"NULL", "-1", "0", "1", "2", "32767", "32768", "9223372036854775807"} {
				args := fmt.Sprintf("'%s', consumer_group_member => %s, consumer_group_size => %s", category, member, size)
				calls = append(calls, call{Name: args, Call: "SELECT * FROM message_store.get_category_messages(" + args + ")"})
			}
		}
	}

	ours := connect(t, pgtest.Database(t, "ours", testdb.InstallOurs))
	official := connect(t, pgtest.Database(t, "official", testdb.InstallOfficial))
	fill := strings.NewReplacer("{category}", "a", "{origin}", "o", "{stream}", "a-1", "{new}", "a-2", "{id}", "00000000-0000-4000-8000-000000000001")
	for _, conn := range []*pgx.Conn{ours, official} {
		run(t, conn, `SET search_path = message_store, public`)
		run(t, conn, fill.Replace(`SELECT message_store.write_message('{id}', '{stream}', 'Tested', '{}')`))
	}
	for _, c := range calls {
		t.Run(c.Name, func(t *testing.T) {
			got, want := outcome(t, ours, c.Setting, fill.Replace(c.Call)), outcome(t, official, c.Setting, fill.Replace(c.Call))
			if got != want {
				t.Errorf("got %+v, want %+v as of Message DB's own", got, want)
			}
			if c.Code != "" && want.code != c.Code {
				t.Errorf("Message DB's own gives %+v, want %s", want, c.Code)
			}
		})
	}
}

type failure struct{ code, message, constraint, column string }

// outcome makes a call in a transaction, rolls it back, and returns its error.
func outcome(t testing.TB, conn *pgx.Conn, setting, call string) failure {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := tx.Rollback(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if setting != "" {
		run(t, conn, `SET LOCAL message_store.sql_condition = '`+setting+`'`)
	}
	_, err = conn.Exec(t.Context(), call)
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		if err != nil {
			t.Fatal(err)
		}
		return failure{}
	}
	return failure{pgErr.Code, pgErr.Message, pgErr.ConstraintName, pgErr.ColumnName}
}

// TestDeliberateBehaviour checks the differences in behaviour from Message DB's script that
// the catalogue does not show.
func TestDeliberateBehaviour(t *testing.T) {
	t.Parallel()
	const sample = `SELECT message_store.write_message(gen_random_uuid()::varchar, 'a-1', 'Tested', '{"secret": "of the payload"}')`
	for _, test := range []struct {
		name, why      string
		session        string
		call           string
		ours, official string // results of consequence
	}{
		{
			name: "an empty setting sql_condition is off",
			why:  "after a transaction that has set it locally, the setting is empty, and should be off",
			session: `SET search_path = message_store, public; ` + sample + `;
				BEGIN; SET LOCAL message_store.sql_condition = 'on'; COMMIT`,
			call:     `SELECT * FROM message_store.get_stream_messages('a-1', condition => 'true')`,
			ours:     "P0001",
			official: "",
		},
		{
			name:     "no search path is needed",
			why:      "objects of the same names in other schemas must not be used",
			session:  `SET search_path = pg_catalog`,
			call:     sample,
			ours:     "",
			official: "42883",
		},
		{
			name:     "notices do not contain the payload",
			why:      "notices are often logged",
			session:  `SET search_path = message_store, public; SET message_store.debug = 'on'`,
			call:     sample,
			ours:     "",
			official: "notice of the payload",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for whose, side := range map[string]struct{ url, want string }{
				"ours":     {pgtest.Database(t, "ours", testdb.InstallOurs), test.ours},
				"official": {pgtest.Database(t, "official", testdb.InstallOfficial), test.official},
			} {
				if got := consequence(t, side.url, test.session, test.call); got != side.want {
					t.Errorf("%s: got %q, want %q (reason for the difference: %s)", whose, got, side.want, test.why)
				}
			}
		})
	}
}

// consequence returns the code of the call's error, followed by "notice of the payload" if
// a notice contained it.
func consequence(t testing.TB, url, session, call string) string {
	t.Helper()
	var noticed string
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if strings.Contains(n.Message, "of the payload") {
			noticed = "notice of the payload"
		}
	}
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	run(t, conn, session)
	return outcome(t, conn, "", call).code + noticed
}
