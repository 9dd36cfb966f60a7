// Package pgtest finds or starts a real PostgreSQL for tests and demos.
//
// The server is, in this order:
//
//  1. the one at MDB_TEST_DATABASE_URL, whose role must be able to create
//     databases;
//  2. one started here from programs of the major version MDB_TEST_POSTGRES,
//     which are fetched from npm, into MDB_CACHE_DIR or the user's cache, if
//     the machine has none;
//  3. one started here from the programs in PATH, or else from the newest ones
//     in the places where packages put them.
//
// A server started here lives in a temporary folder and disappears with the
// process, in whatever way that ends. With TMPDIR=/dev/shm it is several times
// faster.
//
// On a server of others the databases are named mdb_test_…. Shared ones and
// templates stay there until a run drops whatever is older than an hour.
package pgtest

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

var (
	templates once
	shared    once
	exit      sync.Once
)

// Database returns the URL of a new database that is dropped at the end of the
// test. It is a copy of the template database of that name, which setup has
// prepared once in this process; without setup it is empty.
func Database(t testing.TB, template string, setup func(ctx context.Context, conn *pgx.Conn) error) string {
	t.Helper()

	s := server(t)
	name, err := s.clone(t.Context(), template, setup)
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() {
		// The test's own context is over by now.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()

		if err := s.drop(ctx, name); err != nil {
			t.Error(err)
		}
	})

	return s.URL(name)
}

// Shared returns the URL of a database that all callers in this process share
// and that no test drops. Its content is that of Database.
func Shared(t testing.TB, template string, setup func(ctx context.Context, conn *pgx.Conn) error) string {
	t.Helper()

	s := server(t)
	name, err := shared.do(template, func() (string, error) {
		return s.clone(t.Context(), template, setup)
	})
	if err != nil {
		t.Fatal(err)
	}

	return s.URL(name)
}

// server ends the process when there is no server, because every other test
// would say the same.
func server(t testing.TB) *Server {
	t.Helper()

	s, err := Default(t.Context())
	if err != nil {
		exit.Do(func() {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		})
	}

	return s
}
