package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/charmbracelet/x/ansi"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// asDemo in the environment makes the test's program the demo.
const asDemo = "MESSAGEDB_DEMO_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(asDemo) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func demo(t *testing.T, url string, args ...string) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), asDemo+"=1", "DATABASE_URL="+url, "YES=")
	return cmd
}

func agreed(cmd *exec.Cmd) *exec.Cmd {
	cmd.Env = append(cmd.Env, "YES=1")
	return cmd
}

// checkProof checks the end of the output, and that nothing in it is for a terminal.
func checkProof(t *testing.T, out []byte, err error) {
	t.Helper()
	for _, want := range []string{"✓ money", "✓ writes", "0 lost, 0 too many", "✓ projection", "0 left out, 0 twice, 0 out of order", "✓ balances", "✓ in memory", "✓ removed", "proved: "} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("%q is missing", want)
		}
	}
	if err != nil || t.Failed() || bytes.ContainsRune(out, '\x1b') {
		t.Fatalf("%v:\n%s", err, out)
	}
}

func TestServerOfItsOwn(t *testing.T) {
	t.Parallel()
	pgtest.NeedPrograms(t)
	out, err := demo(t, "", "-seconds", "4").CombinedOutput()
	checkProof(t, out, err)
	for _, want := range []string{
		intro[0], "killed process", "the lease, 2s, had to end", "a new process has got", "its account is parked", "a version that knows the type is deployed",
		"messages of the account in order", "PostgreSQL is back", "NOTIFY ",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is missing:\n%s", want, out)
		}
	}
	// Events and outcomes are not cut on a terminal, where an outcome begins two columns before.
	events := regexp.MustCompile(`(?m)^ {4} *(\d+\.\d s  [^;\n]*|= .*)$`)
	for _, line := range events.FindAllString(string(out), -1) {
		if width := ansi.StringWidth(line); width > 80 && !strings.HasPrefix(line, "    = ") || width > 82 {
			t.Errorf("%d columns, want at most 80: %s", width, line)
		}
	}
}

// TestDatabaseOfOthers checks that the demo leaves a database as it was.
func TestDatabaseOfOthers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		prepare func(ctx context.Context, conn *pgx.Conn) error
		plan    []string
	}{
		{name: "empty", plan: []string{"install Message DB", "install the NOTIFY trigger", "install the schema of consumers"}},
		{name: "installed", prepare: testdb.InstallOurs, plan: []string{"install the NOTIFY trigger"}},
		{name: "in use", prepare: func(ctx context.Context, conn *pgx.Conn) error {
			if err := schema.Install(ctx, conn); err != nil {
				return err
			}
			if err := schema.InstallNotify(ctx, conn); err != nil {
				return err
			}
			if err := schema.InstallConsumers(ctx, conn); err != nil {
				return err
			}
			if _, err := conn.Exec(ctx, "INSERT INTO message_store_consumers.consumers (name, categories, partitions) VALUES ('theirs', '{account}', 64)"); err != nil {
				return err
			}
			_, err := conn.Exec(ctx, "SELECT message_store.write_message(gen_random_uuid()::text, 'account-1', 'Deposited', '{}')")
			return err
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			url := testdb.Empty(t)
			conn, err := pgx.Connect(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			if test.prepare != nil {
				if err := test.prepare(t.Context(), conn); err != nil {
					t.Fatal(err)
				}
			}
			before := inventory(t, conn)

			out, err := agreed(demo(t, url, "-seconds", "2")).CombinedOutput()
			checkProof(t, out, err)
			for _, want := range append(test.plan, "your server is not restarted") {
				if !strings.Contains(string(out), want) {
					t.Errorf("%q is missing:\n%s", want, out)
				}
			}
			if after := inventory(t, conn); after != before {
				t.Errorf("the database has\n%s\nand had\n%s", after, before)
			}
		})
	}
}

// inventory lists what is in a database, with the messages.
func inventory(t *testing.T, conn *pgx.Conn) (list string) {
	t.Helper()
	const objects = `
SELECT coalesce(string_agg(o, E'\n' ORDER BY o), '') FROM (
  SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_'
  UNION ALL SELECT 'relation ' || c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
  UNION ALL SELECT 'function ' || p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
  UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger) AS objects (o)`
	if err := conn.QueryRow(t.Context(), objects).Scan(&list); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(list, "relation message_store.messages") {
		var messages string
		if err := conn.QueryRow(t.Context(), "SELECT coalesce(string_agg(id::text, ' '), '') FROM message_store.messages").Scan(&messages); err != nil {
			t.Fatal(err)
		}
		list += "\nmessages " + messages
	}
	if strings.Contains(list, "relation message_store_consumers.consumers") {
		var consumers string
		if err := conn.QueryRow(t.Context(), "SELECT coalesce(string_agg(name, ' '), '') FROM message_store_consumers.consumers").Scan(&consumers); err != nil {
			t.Fatal(err)
		}
		list += "\nconsumers " + consumers
	}
	return list
}

// TestInterrupt checks that Ctrl-C leads to the proof of what was done so far.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"Starting a PostgreSQL", "killed process", "is parked", "PostgreSQL stops"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			pgtest.NeedPrograms(t)
			cmd := demo(t, "", "-seconds", "5")
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stderr = os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			for lines := bufio.NewScanner(io.TeeReader(stdout, &out)); lines.Scan(); {
				if strings.Contains(lines.Text(), at) {
					if err := cmd.Process.Signal(os.Interrupt); err != nil {
						t.Fatal(err)
					}
				}
			}
			checkProof(t, out.Bytes(), cmd.Wait())
		})
	}
}

// startAgreed starts the demo on a database that was empty, and returns a check that it is
// as before.
func startAgreed(t *testing.T, seconds string) (cmd *exec.Cmd, stdout io.ReadCloser, checkUnchanged func()) {
	t.Helper()
	url := testdb.Empty(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	before := inventory(t, conn)
	cmd = agreed(demo(t, url, "-seconds", seconds))
	if stdout, err = cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, stdout, func() {
		t.Helper()
		if after := inventory(t, conn); after != before {
			t.Errorf("the database has\n%s\nand had\n%s", after, before)
		}
	}
}

// TestReaderGoesAway checks that the demo removes what it made when nobody reads its output.
func TestReaderGoesAway(t *testing.T) {
	t.Parallel()
	cmd, stdout, checkUnchanged := startAgreed(t, "1")
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	_ = stdout.Close()
	if err := cmd.Wait(); err == nil {
		t.Error("the demo has not noticed that its output was lost")
	}
	checkUnchanged()
}

// TestHangup checks that the demo removes what it made when its terminal is closed.
func TestHangup(t *testing.T) {
	t.Parallel()
	cmd, stdout, checkUnchanged := startAgreed(t, "5")
	var out bytes.Buffer
	for lines := bufio.NewScanner(io.TeeReader(stdout, &out)); lines.Scan(); {
		if strings.Contains(lines.Text(), "killed process") {
			if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}
	}
	checkProof(t, out.Bytes(), cmd.Wait())
	checkUnchanged()
}

// TestRefusals checks what the demo says when it must not write.
func TestRefusals(t *testing.T) {
	t.Parallel()
	server := pgtest.Own(t)
	admin, err := pgx.Connect(t.Context(), server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(t.Context())
	before := inventory(t, admin)
	out, err := demo(t, server.URL("postgres")).CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("make demo YES=1")) {
		t.Errorf("without a terminal and YES: %v:\n%s", err, out)
	}
	if after := inventory(t, admin); after != before {
		t.Errorf("the database has\n%s\nand had\n%s", after, before)
	}

	if err := schema.Install(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Exec(t.Context(), "CREATE ROLE app LOGIN IN ROLE message_store"); err != nil {
		t.Fatal(err)
	}
	out, err = agreed(demo(t, strings.Replace(server.URL("postgres"), "postgres@", "app@", 1))).CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte(`the owner is "postgres", and DATABASE_URL connects as "app"`)) {
		t.Errorf("without the owner's rights: %v:\n%s", err, out)
	}
	out, err = agreed(demo(t, "postgres://127.0.0.1:1/none")).CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("demo: DATABASE_URL: ")) {
		t.Errorf("without a server: %v:\n%s", err, out)
	}
}
