package schema_test

import (
	"maps"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestSQL checks that the text gives the same objects as Install and InstallNotify, in a
// transaction as of a migration tool and by psql, that it fails the second time, and that the
// tool finds its own tables afterwards.
func TestSQL(t *testing.T) {
	t.Parallel()
	installed := connect(t, empty(t))
	install(t, installed)
	if err := schema.InstallNotify(t.Context(), installed); err != nil {
		t.Fatal(err)
	}
	want := catalogue(t, installed)
	for name, script := range map[string]func(t *testing.T, url, sql string) error{
		"migration": func(t *testing.T, url, sql string) error {
			t.Helper()
			conn := connect(t, url)
			run(t, conn, `CREATE SCHEMA IF NOT EXISTS tool; CREATE TABLE IF NOT EXISTS tool.versions (); SET search_path = tool`)
			return pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
				if _, err := tx.Exec(t.Context(), sql); err != nil {
					return err
				}
				_, err := tx.Exec(t.Context(), `INSERT INTO versions DEFAULT VALUES`)
				return err
			})
		},
		"psql": func(t *testing.T, url, sql string) error {
			t.Helper()
			bin, _, err := pgtest.Find(t.Context())
			if err != nil {
				t.Skip(err)
			}
			psql, err := exec.LookPath(filepath.Join(bin, "psql"))
			if err != nil {
				if psql, err = exec.LookPath("psql"); err != nil {
					t.Skip(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", url)
			cmd.Stdin = strings.NewReader(sql + `DO $$ BEGIN ASSERT current_setting('search_path') = '"$user", public'; END $$;`)
			out, err := cmd.CombinedOutput()
			t.Logf("%s", out)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := empty(t)
			for _, sql := range []string{schema.SQL(), schema.NotifySQL(), schema.NotifySQL()} {
				if err := script(t, url, sql); err != nil {
					t.Fatal(err)
				}
			}
			conn := connect(t, url)
			if got := catalogue(t, conn); !maps.Equal(got, want) {
				t.Errorf("the catalogue differs: %v", differences(got, want))
			}
			use(t, conn)
			unchanged(t, conn, func() {
				if err := script(t, url, schema.SQL()); err == nil {
					t.Error("the text succeeds twice")
				}
			})
		})
	}
}

// TestSQLIntoSchemaOfAnotherRole checks that the text does not take over what another role could
// replace.
func TestSQLIntoSchemaOfAnotherRole(t *testing.T) {
	t.Parallel()
	server := pgtest.Own(t)
	conn := connect(t, server.URL("postgres"))
	run(t, conn, `CREATE ROLE evil; CREATE SCHEMA message_store AUTHORIZATION evil`)
	unchanged(t, conn, func() {
		if _, err := conn.Exec(t.Context(), schema.SQL()); err == nil || !strings.Contains(err.Error(), "role evil") {
			t.Errorf("the text gives %v, want the owner of the schema", err)
		}
	})
	run(t, conn, `ALTER SCHEMA message_store OWNER TO postgres;`+schema.SQL())
	run(t, conn, `CREATE FUNCTION message_store.notify_subscriptions() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		ALTER FUNCTION message_store.notify_subscriptions OWNER TO evil`)
	if _, err := conn.Exec(t.Context(), schema.NotifySQL()); err == nil || !strings.Contains(err.Error(), "role evil") {
		t.Errorf("the text gives %v, want the owner of the function", err)
	}
}
