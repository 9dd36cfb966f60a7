// Package pgtest finds or starts a real PostgreSQL server for tests and demos.
//
// It uses the first of these that applies:
//
//  1. the server at MDB_TEST_DATABASE_URL, whose role must be able to create
//     databases;
//  2. a new server of the major version MDB_TEST_POSTGRES. If the machine has no
//     such PostgreSQL, its programs are downloaded through npm into MDB_CACHE_DIR or
//     the user's cache;
//  3. a new server from the PostgreSQL in PATH, or else from the newest one where
//     packages install it.
//
// A new server lives in a temporary folder. A watchdog process stops it and removes
// the folder when the test process ends, however it ends. With TMPDIR=/dev/shm it is
// several times faster.
//
// On the server at MDB_TEST_DATABASE_URL, test databases are named mdb_test_….
// Shared databases and templates remain there when a process ends, and the next one drops
// them. It knows by their application_name which processes still live.
//
// Existing packages do not fit. testcontainers needs a container engine, which is a
// daemon, and downloads an image. embedded-postgres downloads a PostgreSQL, and leaves
// its server running if the test process is killed. This package uses the PostgreSQL
// that is installed, needs no daemon, and its server ends with the process. It can also
// restart a server, kill or freeze it, and promote its standby, which the fault tests need.
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

// Database returns the URL of a new database that is dropped at the end of the test.
// It is a copy of the template database of the given name, which setup prepares once
// in this process. If setup is nil, the database is empty.
func Database(t testing.TB, template string, setup func(ctx context.Context, conn *pgx.Conn) error) string {
	t.Helper()

	s := server(t)
	name, err := s.clone(t.Context(), template, setup)
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() {
		// The test's context has ended by now.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()

		if err := s.drop(ctx, name); err != nil {
			t.Error(err)
		}
	})

	return s.URL(name)
}

// Shared is like Database, but returns the same database to all callers in this
// process that give the same template. No test drops it.
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

// server ends the process if there is no server, because every other test would fail
// with the same error.
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
