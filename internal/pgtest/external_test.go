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
// create databases, and that they drop old test databases of this role and no others.
func TestExternal(t *testing.T) {
	t.Parallel()
	NeedTime(t)

	s := Own(t)
	stale := fmt.Sprintf("mdb_test_%d_ABCDEFGH_1", time.Now().Add(-2*time.Hour).Unix())
	young := fmt.Sprintf("mdb_test_%d_ABCDEFGH_2", time.Now().Unix())
	foreign := fmt.Sprintf("mdb_test_%d_ABCDEFGH_3", time.Now().Add(-2*time.Hour).Unix())
	for _, sql := range []string{
		"CREATE ROLE plain LOGIN CREATEDB PASSWORD 'secret'",
		"CREATE DATABASE " + quote(stale) + " OWNER plain",
		"CREATE DATABASE " + quote(young) + " OWNER plain",
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
	out, err := command(t, []string{"-test.run=^TestDatabase"}, "MDB_TEST_DATABASE_URL="+u.String()).CombinedOutput()
	if err != nil {
		t.Fatalf("the tests fail on an external server: %v\n%s", err, out)
	}

	conn, err := pgx.Connect(t.Context(), s.admin)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	rows, _ := conn.Query(t.Context(), "SELECT datname FROM pg_database WHERE datname LIKE 'mdb_test_%'")
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(names, stale) {
		t.Errorf("%s was not dropped", stale)
	}
	for _, kept := range []string{young, foreign, "mdb_test_mine"} {
		if !slices.Contains(names, kept) {
			t.Errorf("%s was dropped", kept)
		}
	}
	// The run leaves one database, the template of TestDatabase.
	if len(names) != 4 {
		t.Errorf("the server has %v, want 3 databases and a template", names)
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
