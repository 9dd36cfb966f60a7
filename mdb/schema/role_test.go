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
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestInstallAndRoles checks Install with and without the role message_store and by roles
// with and without rights. It uses its own server, because roles belong to all databases,
// and its subtests run one after the other.
func TestInstallAndRoles(t *testing.T) {
	t.Parallel()
	server := pgtest.Own(t)
	admin := connect(t, server.URL("postgres"))
	run(t, admin, `
		CREATE ROLE installer LOGIN CREATEROLE;
		CREATE ROLE without_roles LOGIN;
		CREATE ROLE without_database LOGIN CREATEROLE`)

	c := &cluster{server, admin}

	t.Run("role is created", func(t *testing.T) {
		urls := c.databases(t, 1)
		conn := connect(t, urls[0])
		install(t, conn)
		use(t, conn)
		var exact bool
		err := conn.QueryRow(t.Context(), `SELECT rolcanlogin AND rolinherit AND NOT (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)
			AND rolconnlimit = -1 AND rolvaliduntil IS NULL FROM pg_roles WHERE rolname = 'message_store'`).Scan(&exact)
		if err != nil || !exact {
			t.Errorf("the role has attributes other than LOGIN (%v)", err)
		}
	})

	t.Run("role exists", func(t *testing.T) {
		urls := c.databases(t, 1)
		run(t, admin, `CREATE ROLE message_store NOLOGIN`)
		conn := connect(t, urls[0])
		install(t, conn)
		use(t, conn)
		var login bool
		if err := conn.QueryRow(t.Context(), `SELECT rolcanlogin FROM pg_roles WHERE rolname = 'message_store'`).Scan(&login); err != nil || login {
			t.Errorf("the existing role has been given LOGIN (%v)", err)
		}
	})

	t.Run("several databases concurrently", func(t *testing.T) {
		urls := c.databases(t, 4)
		installAll(t, slices.Repeat(urls, 3))
		for _, url := range urls {
			use(t, connect(t, url))
		}
	})

	for _, outcome := range []string{"COMMIT", "ROLLBACK"} {
		t.Run("another installer creates the role at the same time, "+outcome, func(t *testing.T) {
			urls := c.databases(t, 1)
			other, conn := connect(t, server.URL("postgres")), connect(t, urls[0])
			run(t, other, `BEGIN; CREATE ROLE message_store LOGIN`)
			ctx, installed := t.Context(), make(chan error, 1)
			go func() { installed <- schema.Install(ctx, conn) }()
			testdb.WaitForLock(t, admin, conn.PgConn().PID())
			run(t, other, outcome)
			if err := <-installed; err != nil {
				t.Fatal(err)
			}
			use(t, conn)
		})
	}

	t.Run("by a role that can create schemas and roles", func(t *testing.T) {
		urls := c.databases(t, 1)
		conn := connect(t, urls[0])
		run(t, conn, `SET SESSION AUTHORIZATION installer`)
		install(t, conn)
		unchanged(t, conn, func() { install(t, conn) })
		run(t, conn, `RESET SESSION AUTHORIZATION`)
		use(t, conn)
	})

	t.Run("by a role that can create schemas if the role exists", func(t *testing.T) {
		urls := c.databases(t, 1)
		run(t, admin, `CREATE ROLE message_store LOGIN`)
		conn := connect(t, urls[0])
		run(t, conn, `SET SESSION AUTHORIZATION without_roles`)
		install(t, conn)
		run(t, conn, `RESET SESSION AUTHORIZATION`)
		use(t, conn)
	})

	for role, lacks := range map[string]string{
		"without_roles":    "CREATEROLE",
		"without_database": "CREATE on the database",
	} {
		t.Run("by a role "+role, func(t *testing.T) {
			urls := c.databases(t, 1)
			conn := connect(t, urls[0])
			run(t, conn, `SET SESSION AUTHORIZATION `+role)
			unchanged(t, conn, func() {
				err := schema.Install(t.Context(), conn)
				var pgErr *pgconn.PgError
				if !errors.As(err, &pgErr) || pgErr.Code != "42501" || !strings.Contains(err.Error(), lacks) {
					t.Errorf("Install returns %v, want 42501 and %s in it", err, lacks)
				}
			})
		})
	}

	t.Run("by a role without rights if Message DB is installed", func(t *testing.T) {
		urls := c.databases(t, 1)
		conn := connect(t, urls[0])
		install(t, conn)
		run(t, conn, `SET SESSION AUTHORIZATION without_roles`)
		unchanged(t, conn, func() { install(t, conn) })
	})

	// As pg_restore leaves them if the roles have not been restored.
	const restored = `DROP OWNED BY message_store; DROP ROLE message_store`
	for _, test := range []struct {
		name, as string
		left     []string // parts of the statements that are left to do
	}{
		{"superuser", "postgres", nil},
		{"the owner, who can create roles", "installer", nil},
		{"the owner, who cannot create roles", "without_roles", []string{"CREATE ROLE message_store", "GRANT SELECT, INSERT ON message_store.messages"}},
		{"another role, who can create roles", "without_database", []string{"GRANT USAGE ON SCHEMA", "GRANT SELECT, INSERT ON message_store.messages"}},
	} {
		t.Run("after a restore, by "+test.name, func(t *testing.T) {
			urls := c.databases(t, 1)
			run(t, admin, `CREATE ROLE message_store LOGIN`)
			conn := connect(t, urls[0])
			owner := test.as
			if owner == "without_database" {
				owner = "installer"
			}
			run(t, conn, `SET SESSION AUTHORIZATION `+owner)
			install(t, conn)
			want := catalogue(t, conn)
			run(t, conn, `RESET SESSION AUTHORIZATION;`+restored+`; SET SESSION AUTHORIZATION `+test.as)
			err := schema.Install(t.Context(), conn)
			if test.left == nil {
				if err != nil {
					t.Fatal(err)
				}
				if got := catalogue(t, conn); !maps.Equal(got, want) {
					t.Errorf("the catalogue differs: %v", differences(got, want))
				}
				run(t, conn, `RESET SESSION AUTHORIZATION`)
				use(t, conn)
				unchanged(t, conn, func() { install(t, conn) })
				return
			}
			var incomplete *schema.RoleError
			if !errors.As(err, &incomplete) {
				t.Fatalf("Install returns %v, want a *RoleError", err)
			}
			for _, left := range test.left {
				if !strings.Contains(err.Error(), left) {
					t.Errorf("got %q, want %s in it", err, left)
				}
			}
			run(t, conn, `RESET SESSION AUTHORIZATION;`+strings.Join(incomplete.Missing, ";"))
			if got := catalogue(t, conn); !maps.Equal(got, want) {
				t.Errorf("the catalogue differs after the statements of the error: %v", differences(got, want))
			}
			use(t, conn)
		})
	}

	t.Run("by the owner, who grants what the role lacks although it cannot create roles", func(t *testing.T) {
		urls := c.databases(t, 1)
		run(t, admin, `CREATE ROLE message_store LOGIN`)
		conn := connect(t, urls[0])
		run(t, conn, `SET SESSION AUTHORIZATION without_roles`)
		install(t, conn)
		run(t, conn, `REVOKE ALL ON message_store.messages, message_store.type_summary FROM message_store;
			REVOKE EXECUTE ON FUNCTION message_store.write_message FROM PUBLIC, message_store`)
		install(t, conn)
		run(t, conn, `RESET SESSION AUTHORIZATION`)
		use(t, conn)
	})
}

// A cluster is a server in which the role message_store is created and dropped.
type cluster struct {
	server *pgtest.Server
	admin  *pgx.Conn
}

// databases returns the URLs of new databases in a cluster without the role
// message_store. The databases and the role are dropped after the test.
func (c *cluster) databases(t testing.TB, n int) []string {
	t.Helper()
	var urls []string
	for i := range n {
		database := fmt.Sprintf("step_%d", i)
		run(t, c.admin, `CREATE DATABASE `+database)
		run(t, c.admin, `GRANT CREATE ON DATABASE `+database+` TO installer, without_roles`)
		urls = append(urls, c.server.URL(database))
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for i := range n {
			if _, err := c.admin.Exec(ctx, fmt.Sprintf(`DROP DATABASE step_%d WITH (FORCE)`, i)); err != nil {
				t.Error(err)
			}
		}
		if _, err := c.admin.Exec(ctx, `DROP ROLE IF EXISTS message_store`); err != nil {
			t.Error(err)
		}
	})
	return urls
}
