//go:build official

package schema_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/testdata"
)

// TestSameErrors makes calls that fail on stores of both origins. The texts are
// PostgreSQL's, too: both speak the server's language.
func TestSameErrors(t *testing.T) {
	t.Parallel()
	type call struct{ Name, Setting, Call, Code string }
	file, err := testdata.Conformance.ReadFile("conformance/errors.json")
	if err != nil {
		t.Fatal(err)
	}
	var calls []call
	if err := json.Unmarshal(file, &calls); err != nil {
		t.Fatal(err)
	}
	// Some of these are no errors, for either.
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

type refusal struct{ code, message, constraint, column string }

// outcome makes a call in a transaction, which it rolls back.
func outcome(t testing.TB, conn *pgx.Conn, setting, call string) refusal {
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
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		if err != nil {
			t.Fatal(err)
		}
		return refusal{}
	}
	return refusal{refused.Code, refused.Message, refused.ConstraintName, refused.ColumnName}
}

// TestDeliberateBehaviour is about what the catalogue does not tell.
func TestDeliberateBehaviour(t *testing.T) {
	t.Parallel()
	const sample = `SELECT message_store.write_message(gen_random_uuid()::varchar, 'a-1', 'Tested', '{"secret": "of the payload"}')`
	for _, test := range []struct {
		name, why      string
		session        string
		call           string
		ours, official string // what comes of it
	}{
		{
			name: "an empty setting sql_condition is off",
			why:  "it reads as empty once a transaction that had set it is over, and should be off then",
			session: `SET search_path = message_store, public; ` + sample + `;
				BEGIN; SET LOCAL message_store.sql_condition = 'on'; COMMIT`,
			call:     `SELECT * FROM message_store.get_stream_messages('a-1', condition => 'true')`,
			ours:     "P0001",
			official: "",
		},
		{
			name:     "no search path is needed",
			why:      "a path that leads elsewhere cannot lead the functions astray",
			session:  `SET search_path = pg_catalog`,
			call:     sample,
			ours:     "",
			official: "42883",
		},
		{
			name:     "notices do not hold the payload",
			why:      "they end up in logs",
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
					t.Errorf("%s: got %q, want %q; the difference is there because %s", whose, got, side.want, test.why)
				}
			}
		})
	}
}

// consequence returns the code of the call's error, and whether notices had the
// payload.
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
