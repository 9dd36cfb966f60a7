package mdb_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
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

		// What the parser takes for a host, a database or a parameter.
		"postgres://user:a@c4n4ry@127.0.0.1:1/db",
		"postgres://user:a@c4n4ry:1@127.0.0.1:1/db",
		"postgres://user:1/c4n4ry@127.0.0.1:1/db",
		"postgres://user:1/c4n4ry:b@127.0.0.1:1/db",
		"postgres://user:a@127.0.0.1/c4n4ry@127.0.0.1:1/db",
		"postgres://user:a@127.0.0.1:1?c4n4ry=b@127.0.0.1:1/db",
		"postgres://user:a@127.0.0.1:1?b=c4n4ry@127.0.0.1:1/db",
		"postgres://user:a@127.0.0.1:1?c4n4ry@127.0.0.1:1/db",
		"postgres://user:1?c4n4ry=b@127.0.0.1:1/db",
		"postgres://us/er:c4n4ry@127.0.0.1:1/db",
		"postgres://user:a b@c4n4ry@127.0.0.1:1/db",
		"postgres://user:a[@c4n4ry]@127.0.0.1:1/db",
		"postgres://user:a#@c4n4ry#@127.0.0.1:1/db",
		"postgres://user:a,@c4n4ry,@127.0.0.1:1/db",
		"postgres://user:a%40@c4n4ry@127.0.0.1:1/db",
		" postgres://user:c4n4ry@127.0.0.1:1/db?sslmode=disable",
		"postgres:user:c4n4ry=a@127.0.0.1:1/db",
		"user:c4n4ry=a@127.0.0.1:1/db",
		"http://user:c4n4ry=a@127.0.0.1:1/db",
		"host=postgres://user:c4n4ry@127.0.0.1:1/db",
		"host=user:c4n4ry@127.0.0.1 port=1",
		"host=127.0.0.1 port=1 dbname=postgres://user:c4n4ry@127.0.0.1:1/db",
		"host=127.0.0.1 port=1 dbname=user:c4n4ry@127.0.0.1",
		"host=127.0.0.1 port=1 user=user:c4n4ry@127.0.0.1",
		"host=127.0.0.1 port=1 password=a c4n4ry!=b",
		"host=127.0.0.1 port=1 password=it's c4n4ry'=b",

		// What can, and cannot be connected to.
		"postgres://user:c4n4ry@127.0.0.1:1/db",
		"postgres://user:c4n4ry@127.0.0.1:1,127.0.0.1:2/db",
		"host=127.0.0.1 port=1 user=u password=c4n4ry dbname=d",
		"host=127.0.0.1 port=1 user=u password='c4n4ry' dbname=d",
		"host=127.0.0.1 port=1 password=a c4n4ry=b", // which the parser cannot tell from a parameter
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

// TestConnStringFaults checks that errors name what is wrong with a connection string, and
// how to correct it, and that strings with odd, but unambiguous, parts are accepted.
func TestConnStringFaults(t *testing.T) {
	t.Parallel()
	for connString, want := range map[string]string{
		"postgres://user:a@b@host/db":                          "percent-encode",
		"postgres://user:a/b@host/db":                          "percent-encode",
		"postgres://user:a%zz@host/db":                         "percent-encode",
		"postgres://user:a@host:bad/db":                        `the port "bad" is not a number`,
		"postgres://host:bad/db":                               "the port is not a number",
		"postgres://user:a@host:99999/db":                      `the port "99999" is not a number from 1 to 65535`,
		"host=localhost port=bad":                              "the port is not a number",
		"postgres://h1:1,h2:2,h3/db?port=1,2":                  "a port for some of its hosts",
		"postgres://host/db?sslmode=bad":                       "the value of sslmode is invalid",
		"postgres://host/db?connect_timeout=bad":               "the value of connect_timeout is invalid",
		"postgres://host/db?target_session_attrs=bad":          "the value of target_session_attrs is invalid",
		"postgres://host/db?default_query_exec_mode=bad":       "the value of default_query_exec_mode is invalid",
		"postgres://host/db?pool_max_conns=bad":                "the value of pool_max_conns is invalid",
		"host=h pool_max_conn_lifetime=bad":                    "the value of pool_max_conn_lifetime is invalid",
		"postgres://host/db?sslrootcert=/no&sslmode=verify-ca": "sslrootcert",
		"name":               "a list of key=value pairs",
		"host=h a!=b":        "the name of a parameter",
		"host=a@b dbname=db": "the host is not",
	} {
		_, err := mdb.Connect(t.Context(), connString)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want it to mention %s", connString, err, want)
		}
		_, err = mdb.New(barePool(t, testdb.Shared(t)), mdb.WithNotify(mdb.ListenOn(connString)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ListenOn(%s): got error %v, want it to mention %s", connString, err, want)
		}
	}
	for _, connString := range []string{
		"postgres://us%40er:p%40ss%2Fword@127.0.0.1:1/d%40b",
		"postgres://us:er#?[=]@127.0.0.1:1/db",
		"postgres://127.0.0.1:1/db?user=me@server&password=p@ss&application_name=a@b",
		"postgres://me:a@127.0.0.1:1/?application_name=a@b",
		"host=127.0.0.1 port=1 user=me@server password=p@ss/word dbname=d@b",
	} {
		if _, err := mdb.Connect(t.Context(), connString); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
			t.Errorf("%s: got error %v, want that of the connection", connString, err)
		}
	}
}

// TestNewRejectsAmbiguousPool checks that New rejects a pool whose later connections would
// print a part of its password.
func TestNewRejectsAmbiguousPool(t *testing.T) {
	t.Parallel()
	cfg, err := pgxpool.ParseConfig("postgres://user:a@c4n4ry@127.0.0.1:1/db")
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	_, err = mdb.New(pool)
	wantError[*mdb.ArgumentError](t, err)
	checkNoCanary(t, err)
}

// TestUnknownParameter checks that the error for a parameter that the server does not know
// does not quote its name, which may be a part of a password, on each connection.
func TestUnknownParameter(t *testing.T) {
	t.Parallel()
	pool := barePool(t, testdb.Shared(t), parameter(canary, "x"))
	s := newStore(t, pool, attempts(3))
	_, err := s.WriteMessage(t.Context(), mdbtest.Category("unknown").Stream("1"), mdb.NewMessage("Happened", nil))
	wantCode(t, err, "42704")
	setup := wantError[*mdb.SetupError](t, err)
	checkNoCanary(t, errors.New(setup.Error()))
	if !strings.Contains(setup.Remedy, "pgbouncer") {
		t.Errorf("got remedy %q, want it to mention parameters of other libraries", setup.Remedy)
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
