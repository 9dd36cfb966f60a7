package mdb_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestConnectHidesPassword checks that no error contains the password, whatever is wrong
// with the connection string. Nothing listens at these addresses.
func TestConnectHidesPassword(t *testing.T) {
	t.Parallel()
	for _, connString := range []string{
		// What cannot be parsed.
		"postgres://user:c4n4ry@host:notaport/db",
		"postgres://user:c4n4ry@host:99999999/db",
		"postgres://user:c4n4ry@[::1/db",
		"postgres://user:c4n4ry@ho st/db",
		"postgres://user:c4n4ry%zz@host/db",
		"postgres://user:%c4n4ry@host/db",
		"postgres://user:a/c4n4ry@host/db",
		"postgres://user:a?c4n4ry@host/db",
		"postgres://user:a#c4n4ry@host/db",
		"postgres://us er:c4n4ry@host/db",
		"postgres://user:c4n4ry@host/db?sslmode=wrong",
		"postgres://user:c4n4ry@host/db?pool_max_conns=wrong",
		"postgres://user:c4n4ry@host/db?pool_max_conns=0",
		"postgres://user:c4n4ry@host/db?default_query_exec_mode=wrong",
		"postgres://user:c4n4ry@host/db?connect_timeout=wrong",
		"postgres://user:c4n4ry@host/db?target_session_attrs=wrong",
		"postgres://user:c4n4ry@host/db?sslrootcert=/does/not/exist&sslmode=verify-full",
		"postgres://user:c4n4ry@host/db?%zz",
		"postgres://host/db?password=c4n4ry&sslmode=wrong",
		"postgres://host/db?password=c4n4ry%zz",
		"postgres://host/db?sslpassword=c4n4ry&sslmode=wrong",
		"postgresql://user:c4n4ry@host:x/db",
		"postgres:user:c4n4ry@host/db",
		"postgres//user:c4n4ry@host/db",
		"http://user:c4n4ry@host/db",
		"user:c4n4ry@host/db",
		"c4n4ry",
		"://user:c4n4ry@host",
		"host=localhost password=c4n4ry port=wrong",
		"host=localhost password=c4n4ry sslmode=wrong",
		"host=localhost password=c4n4ry pool_max_conns=wrong",
		"host=localhost password='c4n4ry port=1",
		"host=localhost password='it's c4n4ry' port=1",
		`host=localhost password=c4n4ry\`,
		"host=localhost password=a c4n4ry",
		"host=localhost password=a c4n4ry user=u",
		"host=localhost password=a c4n4ry b=c",
		"host=localhost password = c4n4ry sslmode=wrong",
		"host=localhost password=://c4n4ry port=wrong",
		"password=c4n4ry =",
		"=c4n4ry",
		"host=localhost passwordc4n4ry",

		// What can, and cannot be connected to.
		"postgres://user:c4n4ry@127.0.0.1:1/db",
		"postgres://user:c4n4ry@127.0.0.1:1,127.0.0.1:2/db",
		"host=127.0.0.1 port=1 user=u password=c4n4ry dbname=d",
		"host=127.0.0.1 port=1 user=u password='c4n4ry' dbname=d",
		"postgres://127.0.0.1:1/db?password=c4n4ry",
		"host=/does/not/exist user=u password=c4n4ry",
	} {
		t.Run(strings.ReplaceAll(connString, "/", "|"), func(t *testing.T) {
			t.Parallel()
			s, err := mdb.Connect(t.Context(), connString)
			if err == nil {
				s.Close()
				t.Fatal("got no error")
			}
			if s != nil {
				t.Error("got a Store with the error")
			}
			checkNoCanary(t, err)
			// An error that is printed as JSON, or field by field, holds them all.
			for e := err; e != nil; e = errors.Unwrap(e) {
				if parse := (*pgconn.ParseConfigError)(nil); errors.As(e, &parse) {
					t.Errorf("errors.As finds a %T, which contains the connection string", parse)
				}
			}
			if !strings.HasPrefix(err.Error(), "mdb: ") {
				t.Errorf("got error %q, want the prefix mdb:", err)
			}
		})
	}
}

// TestConnectRefused checks that the error of Connect contains the server's, if the server
// rejects the connection.
func TestConnectRefused(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]string{"database": "3D000", "role": "28000", "parameter": "42704"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connString := testdb.Shared(t)
			u, err := url.Parse(connString)
			if err != nil {
				t.Fatal(err)
			}
			switch name {
			case "database":
				u.Path = "/does_not_exist"
			case "role":
				if _, secret := u.User.Password(); secret {
					code = "28P01" // with passwords the server does not reveal which roles exist
				}
				u.User = url.UserPassword("does_not_exist", canary)
			case "parameter":
				query := u.Query()
				query.Set("does_not_exist", "1")
				u.RawQuery = query.Encode()
			}
			_, err = mdb.Connect(t.Context(), u.String())
			wantCode(t, err, code)
			checkNoCanary(t, err)
		})
	}
}

// TestConnectArguments checks that Connect reports all faults of its arguments, and the
// end of its context.
func TestConnectArguments(t *testing.T) {
	t.Parallel()
	_, err := mdb.Connect(t.Context(), testdb.Shared(t), mdb.WithMaxMessageSize(-1), mdb.WithLogger(nil))
	if n := len(wantError[*mdb.ArgumentError](t, err).Faults); n != 2 {
		t.Errorf("got %d faults in %v, want 2", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := mdb.Connect(ctx, testdb.Shared(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want a cancelled context", err)
	}
}

// TestClose checks that Close closes a pool that the store opened, and no other.
func TestClose(t *testing.T) {
	t.Parallel()
	own, err := mdb.Connect(t.Context(), testdb.Shared(t))
	if err != nil {
		t.Fatal(err)
	}
	pool := newPool(t, testdb.Shared(t))
	others := newStore(t, pool)
	if others.Pool() != pool {
		t.Error("Pool returns another pool")
	}
	for range 2 {
		own.Close()
		others.Close()
	}
	if err := own.Pool().Ping(t.Context()); err == nil {
		t.Error("the store's own pool is open after Close")
	}
	if err := pool.Ping(t.Context()); err != nil {
		t.Errorf("the caller's pool after Close: got error %v, want none", err)
	}
}
