package pgtest

import (
	"context"
	"errors"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
)

var setups atomic.Int64

func counted(ctx context.Context, conn *pgx.Conn) error {
	setups.Add(1)
	return setup(ctx, conn)
}

func setup(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, "CREATE TABLE things (id int); INSERT INTO things VALUES (1)")

	return err
}

func query[T any](t *testing.T, database, sql string, args ...any) T {
	t.Helper()

	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	rows, _ := conn.Query(t.Context(), sql, args...)
	value, err := pgx.CollectOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}

	return value
}

func databaseName(t *testing.T, database string) string {
	t.Helper()

	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}

	return strings.TrimPrefix(u.Path, "/")
}

// TestDatabase checks that parallel tests get copies of one template, and that these
// are dropped when the tests end.
func TestDatabase(t *testing.T) {
	t.Parallel()

	names := make([]string, 4)
	t.Run("group", func(t *testing.T) {
		for i := range names {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()

				url := Database(t, "things", counted)
				names[i] = databaseName(t, url)
				// With a row of another test it would be three.
				n := query[int](t, url, `WITH added AS (INSERT INTO things VALUES (2) RETURNING id)
					SELECT (SELECT count(*) FROM things) + (SELECT count(*) FROM added)`)
				if n != 2 {
					t.Errorf("the test sees %d rows, want 2", n)
				}
				if n := query[int](t, url, "SELECT count(*) FROM things"); n != 2 {
					t.Errorf("the test left %d rows, want 2", n)
				}
			})
		}
	})

	if n := setups.Load(); n != 1 {
		t.Errorf("setup ran %d times, want once", n)
	}
	s, err := Default(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := query[int](t, s.admin, "SELECT count(*) FROM pg_database WHERE datname = ANY ($1)", names); n != 0 {
		t.Errorf("%d databases still exist after their tests", n)
	}
}

// TestDatabaseIsDroppedUnderConnections checks that an open connection does not keep a
// database.
func TestDatabaseIsDroppedUnderConnections(t *testing.T) {
	t.Parallel()

	var conn *pgx.Conn
	t.Run("test", func(t *testing.T) {
		var err error
		conn, err = pgx.Connect(context.Background(), Database(t, "unused", nil))
		if err != nil {
			t.Fatal(err)
		}
	})
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("the connection outlived its database")
	}
}

// TestDatabaseWithoutSetup checks that without setup the database is empty.
func TestDatabaseWithoutSetup(t *testing.T) {
	t.Parallel()

	url := Database(t, "things", nil)
	if n := query[int](t, url, "SELECT count(*) FROM pg_stat_user_tables"); n != 0 {
		t.Errorf("the database has %d tables, want an empty one", n)
	}
}

// TestShared checks that tests share a database, which the end of one does not drop.
func TestShared(t *testing.T) {
	t.Parallel()

	var urls [2]string
	for i := range urls {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			urls[i] = Shared(t, "shared", func(ctx context.Context, conn *pgx.Conn) error {
				_, err := conn.Exec(ctx, "CREATE TABLE things (id int)")
				return err
			})
		})
	}
	if urls[0] != urls[1] {
		t.Errorf("got %s and %s, want one database", urls[0], urls[1])
	}
	if n := query[int](t, urls[0], "SELECT count(*) FROM things"); n != 0 {
		t.Errorf("got %d rows, want 0", n)
	}
}

var errSetup = errors.New("no")

// TestSetupFails checks that every caller gets setup's error.
func TestSetupFails(t *testing.T) {
	t.Parallel()

	s := server(t)
	for range 2 {
		_, err := s.clone(t.Context(), "failing", func(context.Context, *pgx.Conn) error { return errSetup })
		if !errors.Is(err, errSetup) {
			t.Errorf("got %v, want setup's error", err)
		}
	}
}

// TestSetupEndsTheTest checks that other callers get an error if setup ended its test
// instead of returning.
func TestSetupEndsTheTest(t *testing.T) {
	t.Parallel()

	var o once
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = o.do("key", func() (string, error) { runtime.Goexit(); return "", nil })
	}()
	<-ended
	if _, err := o.do("key", nil); err == nil {
		t.Error("got no error for a setup that did not return")
	}
}
