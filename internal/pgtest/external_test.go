//go:build unix && !aix && !solaris

package pgtest

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestExternal checks that tests run on an external server with a role that may only
// create databases, and that they drop test databases of this role whose process has ended,
// such as those of the run before, and no others.
func TestExternal(t *testing.T) {
	t.Parallel()
	NeedTime(t)

	s := Own(t)
	now := time.Now().Unix()
	dead := fmt.Sprintf("mdb_test_%d_ABCDEFGH_1", now)
	living := fmt.Sprintf("mdb_test_%d_HGFEDCBA_2", now-7200)
	foreign := fmt.Sprintf("mdb_test_%d_ABCDEFGH_3", now)
	for _, sql := range []string{
		"CREATE ROLE plain LOGIN CREATEDB PASSWORD 'secret'",
		"CREATE DATABASE " + quote(dead) + " OWNER plain",
		"CREATE DATABASE " + quote(living) + " OWNER plain",
		"CREATE DATABASE mdb_test_mine OWNER plain",
		"CREATE DATABASE " + quote(foreign),
	} {
		if err := s.exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}

	u, err := url.Parse(s.TCP(""))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("plain", "secret")
	u.Path = ""
	u.RawQuery += "&dbname=postgres"
	query := u.RawQuery
	u.RawQuery += "&application_name=mdb_test_HGFEDCBA"
	other, err := pgx.Connect(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(t.Context())
	u.RawQuery = query

	conn, err := pgx.Connect(t.Context(), s.admin)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for run := range 2 {
		// A session that has not noticed the end of its process shows that process as one that lives.
		eventually(t, "the run before has no session", func() (gone bool) {
			err := conn.QueryRow(t.Context(), "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name LIKE 'mdb_test_%'").Scan(&gone)
			if err != nil {
				t.Fatal(err)
			}
			return gone
		})
		out, err := command(t, []string{"-test.run=^TestDatabase"}, "MDB_TEST_DATABASE_URL="+u.String()).CombinedOutput()
		if err != nil {
			t.Fatalf("the tests fail on an external server: %v\n%s", err, out)
		}

		rows, _ := conn.Query(t.Context(), "SELECT datname FROM pg_database WHERE datname LIKE 'mdb_test_%'")
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(names, dead) {
			t.Errorf("run %d: %s was not dropped", run, dead)
		}
		for _, kept := range []string{living, foreign, "mdb_test_mine"} {
			if !slices.Contains(names, kept) {
				t.Errorf("run %d: %s was dropped", run, kept)
			}
		}
		// Each run leaves one database, the template of TestDatabase, until the next run.
		if len(names) != 4 {
			t.Errorf("run %d: the server has %v, want 3 databases and a template", run, names)
		}
	}
}

// TestExternalMode checks that the URLs of an external server leave no choice between TLS
// and none, and keep a mode that was chosen.
func TestExternalMode(t *testing.T) {
	t.Parallel()

	own := Own(t)
	for given, want := range map[string]string{"": "disable", "?sslmode=prefer": "disable", "?sslmode=allow&connect_timeout=9": "disable", "?sslmode=disable": "disable"} {
		address, _, _ := strings.Cut(own.TCP("postgres"), "?")
		s, err := connect(t.Context(), address+given)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := pgx.ParseConfig(s.URL("other"))
		if err != nil || len(cfg.Fallbacks) != 0 || cfg.TLSConfig != nil || cfg.Database != "other" {
			t.Errorf("%s becomes %s, %v", address+given, s.URL("other"), err)
		}
		if !strings.Contains(s.TCP("other"), "sslmode="+want) || strings.Contains(given, "timeout") != strings.Contains(s.TCP("other"), "connect_timeout=9") {
			t.Errorf("%s becomes %s", address+given, s.TCP("other"))
		}
	}
}

// TestAnnounce checks that a process whose session was ended has one again when it next
// creates a database.
func TestAnnounce(t *testing.T) {
	t.Parallel()

	own := Own(t)
	s, err := connect(t.Context(), own.TCP("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	const sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
	for range 2 {
		if n := query[int](t, own.TCP("postgres"), sessions, sessionPrefix+nameProcess); n != 1 {
			t.Errorf("%d sessions, want 1", n)
		}
		query[bool](t, own.TCP("postgres"), "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = $1", sessionPrefix+nameProcess)
		if _, err := s.clone(t.Context(), "", nil); err != nil {
			t.Fatal(err)
		}
	}
}

// TestExternalAddress checks that an address that is not a URL is rejected without
// repeating its password.
func TestExternalAddress(t *testing.T) {
	t.Parallel()

	_, err := connect(t.Context(), "host=localhost password=secret")
	if err == nil || !strings.Contains(err.Error(), "set it to one like postgres://") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}
