package schema_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// empty returns the URL of an empty database in a cluster with the role message_store,
// which other tests could otherwise create at the same time. TestInstallAndRoles runs in
// clusters without the role.
func empty(t testing.TB) string {
	t.Helper()
	return pgtest.Database(t, "empty", func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `DO $$ BEGIN CREATE ROLE message_store LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$`)
		return err
	})
}

func install(t testing.TB, conn *pgx.Conn) {
	t.Helper()
	if err := schema.Install(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
}

// use checks that the role message_store can write and read without a search path.
func use(t testing.TB, conn *pgx.Conn) {
	t.Helper()
	run(t, conn, `SET ROLE message_store; SET search_path = pg_catalog`)
	var position int64
	var stream, version string
	err := conn.QueryRow(t.Context(), `SELECT message_store.write_message(gen_random_uuid()::varchar, 'account-123', 'Opened', '{}'), message_store.message_store_version()`).Scan(&position, &version)
	if err != nil || version != schema.Version {
		t.Fatalf("write_message: position %d, version %s, %v, want version %s", position, version, err, schema.Version)
	}
	err = conn.QueryRow(t.Context(), `SELECT stream_name FROM message_store.get_category_messages('account')`).Scan(&stream)
	if err != nil || stream != "account-123" {
		t.Errorf("get_category_messages: %q, %v, want a message of account-123", stream, err)
	}
	run(t, conn, `RESET ROLE; RESET search_path`)
}

// TestInstall checks that Install takes a pool and that the result works.
func TestInstall(t *testing.T) {
	t.Parallel()
	url := empty(t)
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := schema.Install(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	use(t, connect(t, url))
}

// TestInstallAgain checks that a second Install changes nothing.
func TestInstallAgain(t *testing.T) {
	t.Parallel()
	conn := connect(t, empty(t))
	install(t, conn)
	use(t, conn)
	unchanged(t, conn, func() { install(t, conn) })

	var messages int
	if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM message_store.messages`).Scan(&messages); err != nil || messages != 1 {
		t.Errorf("there are %d messages, %v, want the 1 from before", messages, err)
	}
}

// TestInstallOverEarlierVersion checks that Install leaves a version before 1.3.0, which
// has fewer objects, unchanged.
func TestInstallOverEarlierVersion(t *testing.T) {
	t.Parallel()
	conn := connect(t, empty(t))
	install(t, conn)
	run(t, conn, `
		DROP FUNCTION message_store.message_store_version, message_store.get_last_stream_message;
		CREATE FUNCTION message_store.get_last_stream_message(stream_name varchar) RETURNS SETOF message_store.message
			LANGUAGE sql AS $$ SELECT * FROM message_store.get_stream_messages(stream_name) ORDER BY position DESC LIMIT 1 $$;
		DROP VIEW message_store.type_summary`)
	unchanged(t, conn, func() { install(t, conn) })
}

// TestInstallBesideOtherObjects checks that objects with other names do not matter.
func TestInstallBesideOtherObjects(t *testing.T) {
	t.Parallel()
	conn := connect(t, empty(t))
	run(t, conn, `
		CREATE TABLE public.messages (id int);
		CREATE SCHEMA message_store;
		CREATE TABLE message_store.notes (id int);
		CREATE FUNCTION message_store.write_note(text) RETURNS void LANGUAGE sql AS ''`)
	install(t, conn)
	use(t, conn)
}

// TestInstallWithHostileSearchPath checks that functions on the installer's search path
// do not become part of the installed ones.
func TestInstallWithHostileSearchPath(t *testing.T) {
	t.Parallel()
	conn := connect(t, empty(t))
	run(t, conn, `
		CREATE SCHEMA hostile;
		CREATE FUNCTION hostile.split_part(text, text, int) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'hostile' $$;
		SET search_path = hostile, pg_catalog`)
	install(t, conn)
	use(t, conn)
}

// TestInstallInTransaction checks that Install takes part in the caller's transaction.
func TestInstallInTransaction(t *testing.T) {
	t.Parallel()
	conn := connect(t, empty(t))
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Install(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := identities(t, conn); slices.ContainsFunc(left, func(s string) bool { return len(s) > 7 && s[:8] == "relation" }) {
		t.Errorf("after the rollback there is %v", left)
	}
	install(t, conn)
	use(t, conn)
}

// TestInstallConcurrently checks that concurrent calls all succeed.
func TestInstallConcurrently(t *testing.T) {
	t.Parallel()
	url := empty(t)
	installAll(t, slices.Repeat([]string{url}, 8))
	use(t, connect(t, url))
}

// installAll installs into all databases concurrently.
func installAll(t testing.TB, urls []string) {
	t.Helper()
	conns := make([]*pgx.Conn, len(urls))
	for i, url := range urls {
		conns[i] = connect(t, url)
	}
	ctx := t.Context()
	start := make(chan struct{})
	results := make(chan error)
	for _, conn := range conns {
		go func() {
			<-start
			results <- schema.Install(ctx, conn)
		}()
	}
	close(start)
	for range conns {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// TestInstallWaits checks that Install waits for another installer and then finds its
// objects, whatever the isolation level.
func TestInstallWaits(t *testing.T) {
	t.Parallel()
	for _, isolation := range []string{"read committed", "repeatable read", "serializable"} {
		t.Run(isolation, func(t *testing.T) {
			t.Parallel()
			url := empty(t)
			first, second, watch := connect(t, url), connect(t, url), connect(t, url)
			run(t, second, `SET default_transaction_isolation = '`+isolation+`'`)
			tx, err := first.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Install(t.Context(), tx); err != nil {
				t.Fatal(err)
			}

			ctx, installed := t.Context(), make(chan error, 1)
			go func() { installed <- schema.Install(ctx, second) }()
			testdb.WaitForLock(t, watch, second.PgConn().PID())
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-installed; err != nil {
				t.Error(err)
			}
			use(t, first)
		})
	}
}

// TestInstallIsCancelled checks that Install returns an error if its context has ended.
func TestInstallIsCancelled(t *testing.T) {
	t.Parallel()
	conn := connect(t, empty(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := schema.Install(ctx, conn); err == nil {
		t.Error("Install returns nil, want the context's error")
	}
}

// unchanged checks that f changes nothing in the catalogues.
func unchanged(t testing.TB, conn *pgx.Conn, f func()) {
	t.Helper()
	facts, ids := catalogue(t, conn), identities(t, conn)
	f()
	if got := catalogue(t, conn); !maps.Equal(got, facts) {
		t.Errorf("the catalogue has changed: %v", differences(facts, got))
	}
	if got := identities(t, conn); !slices.Equal(got, ids) {
		t.Errorf("objects were recreated: got %v, want %v", got, ids)
	}
}

// TestInstallWithSettings checks that Install does not depend on the settings of the
// connection or the encoding of the database, and restores the settings, also if Message DB
// is installed already and the notifying trigger is installed next.
func TestInstallWithSettings(t *testing.T) {
	t.Parallel()
	server := pgtest.Own(t)
	admin := connect(t, server.URL("postgres"))
	for i, settings := range []map[string]string{
		{"quote_all_identifiers": "on"},
		{"standard_conforming_strings": "off"},
		{"client_encoding": "LATIN1"},
		{"search_path": `"Größe", public`},
		{"client_encoding": "LATIN1", "search_path": "public", "quote_all_identifiers": "on", "standard_conforming_strings": "off"},
	} {
		for _, encoding := range []string{"UTF8", "LATIN1", "SQL_ASCII"} {
			for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeSimpleProtocol} {
				t.Run(fmt.Sprint(settings, encoding, mode), func(t *testing.T) {
					database := fmt.Sprintf("settings_%d_%s_%d", i, strings.ToLower(encoding), mode)
					run(t, admin, `CREATE DATABASE `+database+` TEMPLATE template0 ENCODING `+encoding+` LOCALE 'C'`)
					cfg, err := pgx.ParseConfig(server.URL(database))
					if err != nil {
						t.Fatal(err)
					}
					maps.Copy(cfg.RuntimeParams, settings)
					cfg.DefaultQueryExecMode = mode
					conn, err := pgx.ConnectConfig(t.Context(), cfg)
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close(t.Context())
					tx, err := conn.Begin(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					// The settings of plpgsql appear when it is first used.
					const all = `SELECT md5(string_agg(name || setting, ',' ORDER BY name)) FROM pg_settings WHERE name NOT LIKE 'transaction%' AND name NOT LIKE 'plpgsql.%'`
					var before, after string
					if err := tx.QueryRow(t.Context(), all, pgx.QueryExecModeExec).Scan(&before); err != nil {
						t.Fatal(err)
					}
					for range 2 {
						if err := schema.Install(t.Context(), tx); err != nil {
							t.Fatal(err)
						}
						if err := schema.InstallNotify(t.Context(), tx); err != nil {
							t.Fatal(err)
						}
					}
					if err := tx.QueryRow(t.Context(), all, pgx.QueryExecModeExec).Scan(&after); err != nil || after != before {
						t.Errorf("the settings are not the same as before (%v)", err)
					}
					if err := tx.Commit(t.Context()); err != nil {
						t.Fatal(err)
					}
					use(t, connect(t, server.URL(database)+"&client_encoding=UTF8"))
				})
			}
		}
	}
}

// TestInstallIntoSchemaOfAnotherRole checks that Install and InstallNotify take over nothing
// that another role could replace afterwards.
func TestInstallIntoSchemaOfAnotherRole(t *testing.T) {
	t.Parallel()
	server := pgtest.Own(t)
	run(t, connect(t, server.URL("postgres")), `
		CREATE ROLE message_store LOGIN;
		CREATE ROLE evil; CREATE ROLE owners;
		CREATE ROLE installer; CREATE ROLE member IN ROLE owners`)
	for i, test := range []struct {
		name, before, as string
		foreign          string // a part of the error, or "" for success
	}{
		{"superuser, schema of another role", `CREATE SCHEMA message_store AUTHORIZATION evil`, "postgres", "its owner is the role evil"},
		{"superuser, schema of a role of which it is a member", `CREATE SCHEMA message_store AUTHORIZATION owners; GRANT owners TO postgres`, "postgres", "its owner is the role owners"},
		{"schema of another role", `CREATE SCHEMA message_store AUTHORIZATION evil; GRANT CREATE ON SCHEMA message_store TO installer`, "installer", "its owner is the role evil"},
		{"CREATE for everybody", `CREATE SCHEMA message_store AUTHORIZATION installer; GRANT CREATE ON SCHEMA message_store TO PUBLIC`, "installer", "every role may create objects"},
		{"own schema", `CREATE SCHEMA message_store AUTHORIZATION installer`, "installer", ""},
		{"schema of a superuser", `CREATE SCHEMA message_store; GRANT ALL ON SCHEMA message_store TO installer`, "installer", ""},
		{"schema of a role of which the installer is a member", `CREATE SCHEMA message_store AUTHORIZATION owners`, "member", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			database := fmt.Sprintf("case_%d", i)
			run(t, connect(t, server.URL("postgres")), `CREATE DATABASE `+database+` TEMPLATE template0`)
			conn := connect(t, server.URL(database))
			run(t, conn, `GRANT CREATE ON DATABASE `+database+` TO PUBLIC;`+test.before+`; SET ROLE `+test.as)
			if test.foreign == "" {
				install(t, conn)
				return
			}
			unchanged(t, conn, func() {
				err := schema.Install(t.Context(), conn)
				var foreign *schema.ForeignObjectsError
				if !errors.As(err, &foreign) || !strings.Contains(err.Error(), test.foreign) {
					t.Errorf("Install returns %v, want a *ForeignObjectsError with %s", err, test.foreign)
				}
			})
		})
	}
	t.Run("function of the trigger", func(t *testing.T) {
		conn := connect(t, server.URL("postgres"))
		install(t, conn)
		run(t, conn, `CREATE FUNCTION message_store.notify_subscriptions() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
			ALTER FUNCTION message_store.notify_subscriptions OWNER TO evil`)
		unchanged(t, conn, func() {
			var foreign *schema.ForeignObjectsError
			if err := schema.InstallNotify(t.Context(), conn); !errors.As(err, &foreign) || !strings.Contains(err.Error(), "role evil") {
				t.Errorf("InstallNotify returns %v, want a *ForeignObjectsError", err)
			}
		})
	})
}
