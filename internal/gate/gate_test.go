package gate_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/gate"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// newShard returns a shard whose functions do not depend on the search path.
func newShard(t *testing.T) (url string, conn *pgx.Conn) {
	t.Helper()
	url = testdb.New(t)
	conn = testdb.Session(t, url)
	if _, err := schema.PinSearchPath(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if err := schema.InstallShard(t.Context(), conn, 2); err != nil {
		t.Fatal(err)
	}
	return url, conn
}

// gated returns a shard with the gate.
func gated(t *testing.T) (url string, conn *pgx.Conn) {
	t.Helper()
	url, conn = newShard(t)
	for range 2 {
		if err := gate.Install(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
	}
	return url, conn
}

// change closes or opens the gate for the category account.
func change(t *testing.T, conn *pgx.Conn, closed bool) {
	t.Helper()
	err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "SELECT message_store.acquire_lock('account')"); err != nil {
			return err
		}
		if closed {
			return gate.Close(t.Context(), tx, "account", 5, false)
		}
		return gate.Open(t.Context(), tx, "account")
	})
	if err != nil {
		t.Fatal(err)
	}
}

func codeOf(err error) string {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server.Code
	}
	return ""
}

const (
	writeOne   = `SELECT message_store.write_message(gen_random_uuid()::varchar, 'account-1', 'Happened', '{}')`
	insertInto = `INSERT INTO message_store.messages (stream_name, type, position) VALUES `
)

// TestGate checks that a closed gate rejects each way to write, by any role, whatever the search path is, and no other category.
func TestGate(t *testing.T) {
	t.Parallel()
	url, conn := gated(t)
	writes := map[string]bool{
		writeOne:                             true,
		insertInto + `('account-9', 'A', 0)`: true,
		insertInto + `('other-1', 'A', 100), ('account-9', 'A', 0)`:                                           true,
		insertInto + `('account', 'A', 0)`:                                                                    true,
		insertInto + `('account-9-1', 'A', 0)`:                                                                true,
		`COPY message_store.messages (stream_name, type, position) FROM PROGRAM 'printf "account-8\tA\t0\n"'`: true,
		insertInto + `('accounts-1', 'A', 0)`:                                                                 false,
		insertInto + `('account:command-1', 'A', 0)`:                                                          false,
		strings.Replace(writeOne, "account-1", "other-2", 1):                                                  false,
	}
	for _, session := range []string{"SELECT 1", "SET ROLE message_store", "CREATE SCHEMA hostile; SET search_path = hostile, public; CREATE FUNCTION hostile.split_part(text, text, int) RETURNS text LANGUAGE sql AS $$ SELECT ''::text $$"} {
		for sql, rejected := range writes {
			if strings.HasPrefix(sql, "COPY") && strings.Contains(session, "ROLE") {
				continue // a file of the server
			}
			try := func() string {
				c := testdb.Session(t, url)
				testdb.Exec(t, c, "BEGIN; "+session)
				_, err := c.Exec(t.Context(), sql)
				testdb.Exec(t, c, "ROLLBACK")
				if err != nil && codeOf(err) != "MD001" {
					t.Fatalf("%s: %v", sql, err)
				}
				return codeOf(err)
			}
			change(t, conn, true)
			if got := try(); (got == "MD001") != rejected {
				t.Errorf("%s; %s: got %q with a closed gate", session, sql, got)
			}
			change(t, conn, false)
			if got := try(); got != "" {
				t.Errorf("%s; %s: got %q with an open gate", session, sql, got)
			}
		}
	}
	testdb.Exec(t, conn, "SET ROLE message_store")
	for _, sql := range []string{`SELECT * FROM message_store_shard.closed`, `DELETE FROM message_store_shard.closed`, `UPDATE message_store_shard.changed SET changes = 0`} {
		if _, err := conn.Exec(t.Context(), sql); codeOf(err) != "42501" {
			t.Errorf("%s: got %v, want 42501", sql, err)
		}
	}
}

// TestGateInterleavings checks that a writer is either before the closing, which waits for it, or is rejected: with a
// snapshot from before the closing, the installation, or neither.
func TestGateInterleavings(t *testing.T) {
	t.Parallel()
	for isolation, want := range map[string]string{"READ COMMITTED": "MD001", "REPEATABLE READ": "40001", "SERIALIZABLE": "40001"} {
		for _, installed := range []bool{false, true} {
			t.Run(isolation, func(t *testing.T) {
				t.Parallel()
				url, conn := newShard(t)
				writer := testdb.Session(t, url)
				begin := func() { testdb.Exec(t, writer, "BEGIN ISOLATION LEVEL "+isolation+"; SELECT 1") }
				if !installed {
					begin()
				}
				if err := gate.Install(t.Context(), conn); err != nil {
					t.Fatal(err)
				}
				if installed {
					begin()
				}
				change(t, conn, true)
				if _, err := writer.Exec(t.Context(), writeOne); codeOf(err) != want {
					t.Errorf("a snapshot from before the closing, installed before it %t: got %v, want %s", installed, err, want)
				}
				testdb.Exec(t, writer, "ROLLBACK")
				begin()
				if _, err := writer.Exec(t.Context(), writeOne); codeOf(err) != "MD001" {
					t.Errorf("a snapshot from after the closing: got %v, want MD001", err)
				}
				testdb.Exec(t, writer, "ROLLBACK")
				change(t, conn, false)
				begin()
				testdb.Exec(t, writer, writeOne)

				done := make(chan struct{})
				closer := testdb.Session(t, url)
				go func() {
					defer close(done)
					change(t, closer, true)
				}()
				testdb.WaitForLock(t, conn, closer.PgConn().PID())
				if closing, err := gate.Status(t.Context(), conn, "account"); err != nil || closing.Closed {
					t.Errorf("got %+v, %v, while a writer has the lock", closing, err)
				}
				testdb.Exec(t, writer, "COMMIT")
				<-done
				if closing, err := gate.Status(t.Context(), conn, "account"); err != nil || closing != (gate.Closing{Closed: true, Shard: 5}) {
					t.Errorf("got %+v, %v", closing, err)
				}
			})
		}
	}
}

// TestGateInstalled checks who can install the gate, and that it is removed only if no category is closed.
func TestGateInstalled(t *testing.T) {
	t.Parallel()
	_, conn := gated(t)
	change(t, conn, true)
	if removed, err := gate.Uninstall(t.Context(), conn); err != nil || removed {
		t.Errorf("a closed gate: got %t, %v", removed, err)
	}
	if _, err := conn.Exec(t.Context(), writeOne); codeOf(err) != "MD001" {
		t.Errorf("got %v", err)
	}
	change(t, conn, false)
	for range 2 {
		if removed, err := gate.Uninstall(t.Context(), conn); err != nil || !removed {
			t.Errorf("an open gate: got %t, %v", removed, err)
		}
	}
	testdb.Exec(t, conn, writeOne)
	err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error { return gate.Close(t.Context(), tx, "account", 5, false) })
	if err == nil || !strings.Contains(err.Error(), "not installed") {
		t.Errorf("got %v", err)
	}

	plain := testdb.Session(t, testdb.New(t))
	for _, test := range []struct{ spoil, want string }{
		{"SELECT 1", "not a shard"},
		{"ALTER SEQUENCE message_store.messages_global_position_seq INCREMENT BY 1024 START 3 RESTART; SET ROLE message_store", "only the owner"},
	} {
		testdb.Exec(t, plain, test.spoil)
		if err := gate.Install(context.WithoutCancel(t.Context()), plain); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %s", err, test.want)
		}
		if !testdb.Value[bool](t, plain, `SELECT to_regnamespace('message_store_shard') IS NULL AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgname = 'message_store_gate')`) {
			t.Errorf("%s: something is installed", test.want)
		}
	}
}
