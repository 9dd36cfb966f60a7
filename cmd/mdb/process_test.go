package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// testTimeout bounds the waits of a broken test.
const testTimeout = time.Minute

// A process is a running command.
type process struct {
	cmd    *exec.Cmd
	output io.Reader
	lines  *bufio.Scanner
	stderr bytes.Buffer
}

func start(t *testing.T, url string, args ...string) *process {
	t.Helper()
	return startWith(t, url, "", args...)
}

func startWith(t *testing.T, url, input string, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	p := &process{cmd: exec.CommandContext(ctx, program, args...)}
	p.cmd.Env = environment("DATABASE_URL=" + url)
	p.cmd.Stdin, p.cmd.Stderr = strings.NewReader(input), &p.stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.output, p.lines = out, bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// line waits for a line of the output.
func (p *process) line(t *testing.T) string {
	t.Helper()
	if !p.lines.Scan() {
		t.Fatalf("the output ended: %v, %s", p.lines.Err(), p.stderr.String())
	}
	return p.lines.Text()
}

// end waits for the process to end, and checks that it prints nothing else.
func (p *process) end(t *testing.T, status int) (stderr string) {
	t.Helper()
	if p.lines.Scan() {
		t.Errorf("printed %q as well", p.lines.Text())
	}
	err := p.cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != status {
		t.Errorf("exit status %d, want %d: %s", got, status, p.stderr.String())
	}
	return p.stderr.String()
}

func (p *process) interrupt(t *testing.T, signal os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

func connect(t *testing.T, url string) *mdb.Store {
	t.Helper()
	s, err := mdb.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func write(t *testing.T, s *mdb.Store, stream mdb.StreamName, typ string) {
	t.Helper()
	if _, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage(typ, nil)); err != nil {
		t.Fatal(err)
	}
}

// until polls, because the server does not notify when a session is idle or waits.
func until(t *testing.T, s *mdb.Store, sql string) {
	t.Helper()
	for end, ok := time.Now().Add(testTimeout), false; !ok; <-time.After(2 * time.Millisecond) {
		if err := s.Pool().QueryRow(t.Context(), "SELECT EXISTS ("+sql+")").Scan(&ok); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatalf("never true: %s", sql)
		}
	}
}

const (
	// tail reads a page after it has looked up the end, and then looks for the last message
	// before it.
	readOnce = `SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
		AND state = 'idle' AND query ~ 'message_store\.get_.*_messages\(|position = \$[12]::bigint'`
	listens = `SELECT FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`
	waiting = `SELECT FROM pg_locks WHERE NOT granted
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`
)

// waits is what notify status prints while tail waits.
var waits = regexp.MustCompile(`^the NOTIFY trigger is installed
connections waiting for notifications: 1, categories: 1
  pid \d+, client \S+, application_name "mdb message_store notify", categories: 1 \(account\)
$`)

// TestTail checks that tail prints each new message immediately, with and without the
// NOTIFY trigger, and that notify status lists it.
func TestTail(t *testing.T) {
	t.Parallel()
	for _, name := range []mdb.StreamName{"account-1", "account"} {
		for _, notify := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, NOTIFY trigger %v", name, notify), func(t *testing.T) {
				t.Parallel()
				url := testdb.New(t)
				s := connect(t, url)
				begun := readOnce
				if notify {
					if err := schema.InstallNotify(t.Context(), s.Pool()); err != nil {
						t.Fatal(err)
					}
					begun = listens
				}
				write(t, s, "account-1", "Before")
				p := start(t, url, "tail", "-json", string(name))
				until(t, s, begun)
				if out, _ := (&shell{env: environment("DATABASE_URL=" + url)}).run(t, "mdb notify status"); notify && !waits.MatchString(out) {
					t.Errorf("notify status says %s", out)
				}
				for i := int64(1); i <= 3; i++ {
					write(t, s, "account-1", "Later")
					write(t, s, "other-1", "Later")
					// The line arrives while the command runs, so it is not buffered.
					var m struct {
						Type     string
						Position int64
					}
					if err := json.Unmarshal([]byte(p.line(t)), &m); err != nil || m.Type != "Later" || m.Position != i {
						t.Errorf("printed %+v, %v, want position %d", m, err, i)
					}
				}
				p.interrupt(t, os.Interrupt)
				if stderr := p.end(t, 0); stderr != "" {
					t.Errorf("standard error: %s", stderr)
				}
			})
		}
	}
}

// TestTailSelects checks the options that select messages.
func TestTailSelects(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	s := connect(t, url)
	for _, typ := range []string{"Opened", "Deposited", "Deposited", "Closed"} {
		write(t, s, "account-1", typ)
	}
	for args, want := range map[string][]string{
		"-from 0 -limit 2 account-1":                                  {"account-1/0  Opened", "account-1/1  Deposited"},
		"-after 1 -limit 2 account":                                   {"account-1/1  Deposited", "account-1/2  Deposited"},
		"-from 1 -limit 1 -type Closed account":                       {"account-1/3  Closed"},
		"-from 0 -limit 2 -type Deposited account-1":                  {"account-1/1  Deposited", "account-1/2  Deposited"},
		"-n 2 -limit 2 account-1":                                     {"account-1/2  Deposited", "account-1/3  Closed"},
		"-n 9 -limit 4 account":                                       {"account-1/0  Opened", "account-1/1  Deposited", "account-1/2  Deposited", "account-1/3  Closed"},
		"-n 3 -limit 2 -type Deposited -all":                          {"account-1/1  Deposited", "account-1/2  Deposited"},
		"-n 1 -limit 1 -types Opened,Deposited account other":         {"account-1/2  Deposited"},
		"-from 4 -limit 1 -group " + member("account-1") + " account": {"account-1/3  Closed"},
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			p := start(t, url, append([]string{"tail"}, strings.Fields(args)...)...)
			for _, want := range want {
				if got := p.line(t); !strings.HasSuffix(got, want) {
					t.Errorf("printed %q, want %q", got, want)
				}
			}
			p.end(t, 0)
		})
	}
}

// TestTailLast checks that tail -n prints the last messages and those that are written afterwards, also if there are none, and
// passes over none of a transaction that was open.
func TestTailLast(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"account-1", "account", "-all"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := testdb.New(t)
			s := connect(t, url)
			p := start(t, url, "tail", "-n", "2", name)
			until(t, s, `SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'mdb%'`)
			write(t, s, "account-1", "First")
			if got := p.line(t); !strings.HasSuffix(got, "account-1/0  First") {
				t.Errorf("printed %q", got)
			}
			p.interrupt(t, os.Interrupt)
			p.end(t, 0)

			write(t, s, "account-1", "Second")
			write(t, s, "account-1", "Third")
			p = start(t, url, "tail", "-n", "2", name)
			for i, want := range []string{"account-1/1  Second", "account-1/2  Third", "account-1/3  Later"} {
				if i == 2 {
					write(t, s, "account-1", "Later")
				}
				if got := p.line(t); !strings.HasSuffix(got, want) {
					t.Errorf("printed %q, want %q", got, want)
				}
			}
			p.interrupt(t, os.Interrupt)
			p.end(t, 0)
		})
	}
}

// member returns which of two members of a group reads the stream.
func member(stream mdb.StreamName) string {
	hash := mdb.Hash64(stream.CardinalID())
	return fmt.Sprintf("%d/2", max(hash%2, -hash%2))
}

// TestTailReconnects checks that tail continues after its connections are killed.
func TestTailReconnects(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	s := connect(t, url)
	p := start(t, url, "tail", "account")
	until(t, s, readOnce)
	if _, err := s.Pool().Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid()`); err != nil {
		t.Fatal(err)
	}
	write(t, s, "account-1", "Later")
	if got := p.line(t); !strings.HasSuffix(got, "account-1/0  Later") {
		t.Errorf("printed %q", got)
	}
	p.interrupt(t, syscall.SIGTERM)
	if stderr := p.end(t, 0); stderr != "" && !strings.HasPrefix(stderr, "mdb: retrying: ") {
		t.Errorf("standard error: %s", stderr)
	}
}

// lockTable makes reads and writes wait until the transaction or the test ends.
func lockTable(t *testing.T, s *mdb.Store) pgx.Tx {
	t.Helper()
	tx, err := s.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	if _, err := tx.Exec(t.Context(), "LOCK TABLE message_store.messages"); err != nil {
		t.Fatal(err)
	}
	return tx
}

// TestInterrupted checks that a read and a write that wait for a lock end when they are
// interrupted, and that the write then reports an unknown outcome.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]struct {
		status int
		stderr string
	}{
		"read account":                  {130, "mdb: interrupted\n"},
		"write -empty account-1 Opened": {5, "is unknown"},
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			url := testdb.New(t)
			s := connect(t, url)
			lockTable(t, s)
			p := start(t, url, strings.Fields(args)...)
			until(t, s, waiting)
			p.interrupt(t, os.Interrupt)
			if stderr := p.end(t, want.status); !strings.Contains(stderr, want.stderr) {
				t.Errorf("standard error: %s\nwant in it: %s", stderr, want.stderr)
			}
		})
	}
}

// TestRepeatUnknown checks that a write whose outcome is unknown says how to repeat it, and
// that the repetition writes what is missing and nothing twice.
func TestRepeatUnknown(t *testing.T) {
	t.Parallel()
	const lines = `{"type": "Opened"} {"type": "Deposited", "data": {"amount": 10}} {"type": "Closed"}`
	for args, c := range map[string]struct {
		input, types string
	}{
		"write account-1 Opened":                                          {`{"amount": 10}`, "Opened"},
		"write account-1 Opened 7":                                        {"", "Opened"},
		"write -expect none -lines account-1":                             {lines, "Opened,Deposited,Closed"},
		"write -json -lines -new-ids account-1":                           {lines, "Opened,Deposited,Closed"},
		"write -lines -max-size 1000 -- account-1":                        {`{"type": "Opened", "id": "11111111-1111-4111-8111-111111111111"}` + lines, "Opened,Opened,Deposited,Closed"},
		"write -id 22222222-2222-4222-8222-22222222ffff -lines account-1": {lines, "Opened,Deposited,Closed"},
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			url := testdb.New(t)
			s := connect(t, url)
			locked := lockTable(t, s)
			p := startWith(t, url, c.input, strings.Fields(args)...)
			until(t, s, waiting)
			p.interrupt(t, os.Interrupt)
			_, options, ok := strings.Cut(p.end(t, 5), " with the same options and ")
			if !ok {
				t.Fatalf("it does not say how to repeat the write: %s", p.stderr.String())
			}
			if err := locked.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			again := append([]string{"write"}, strings.Fields(options)...)
			again = append(again, strings.Fields(args)[1:]...)
			for range 2 {
				p := startWith(t, url, c.input, again...)
				if text, err := io.ReadAll(p.output); err != nil || len(text) == 0 {
					t.Errorf("printed %q, %v", text, err)
				}
				p.end(t, 0)
			}
			var types string
			if err := s.Pool().QueryRow(t.Context(), "SELECT string_agg(type, ',' ORDER BY position) FROM message_store.messages").Scan(&types); err != nil {
				t.Fatal(err)
			}
			if types != c.types {
				t.Errorf("the stream has %s, want %s", types, c.types)
			}
		})
	}
}

// TestApplicationName checks that the sessions of the command have a name, unless the
// user gives another.
func TestApplicationName(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	s := connect(t, url)
	for name, env := range map[string][]string{"mdb": nil, "mine": {"PGAPPNAME=mine"}} {
		p := &process{cmd: exec.CommandContext(t.Context(), program, "tail", "account")}
		p.cmd.Env = append(environment("DATABASE_URL="+url), env...)
		if err := p.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		until(t, s, "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = '"+name+"'")
		p.interrupt(t, os.Interrupt)
		_ = p.cmd.Wait()
	}
}

// TestInterruptedInput checks that a write that waits for input ends when it is
// interrupted.
func TestInterruptedInput(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), program, "write", "account-1", "Opened")
	cmd.Env = environment()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// More than fits into a pipe, so that the command has started to read.
	if _, err := in.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 130 {
		t.Errorf("exit status %d, want 130", got)
	}
}

// TestDatabase checks the ways to give the database, their precedence, and that none
// prints the password.
func TestDatabase(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	write(t, connect(t, url), "account-1", "Opened")
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	server := []string{"PGHOST=" + cfg.Host, fmt.Sprintf("PGPORT=%d", cfg.Port), "PGUSER=" + cfg.User, "PGPASSWORD=" + cfg.Password, "PGSSLMODE=disable"}
	const nowhere = "postgres://me:secret@127.0.0.1:1/none"
	pairs := fmt.Sprintf("host=%s port=%d user=%s password='%s' dbname=%s sslmode=disable", cfg.Host, cfg.Port, cfg.User, cfg.Password, cfg.Database)
	for name, c := range map[string]struct {
		env, args []string
		status    int
	}{
		"-d, a URL, before all":      {append(server, "PGDATABASE=none", "DATABASE_URL="+nowhere), []string{"-d", url}, 0},
		"-d, key=value pairs":        {nil, []string{"-d", pairs}, 0},
		"-d, a name":                 {server, []string{"-d", cfg.Database}, 0},
		"DATABASE_URL before PG…":    {append(server, "PGDATABASE=none", "DATABASE_URL="+url), nil, 0},
		"PGHOST and the like":        {append(server, "PGDATABASE="+cfg.Database), nil, 0},
		"-d, nowhere":                {append(server, "PGDATABASE="+cfg.Database), []string{"-d", nowhere}, 1},
		"-d, a name that is missing": {server, []string{"-d", `it's \none`}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, order := range [][]string{append(slices.Clone(c.args), "version", "account-1"), append([]string{"version", "account-1"}, c.args...)} {
				cmd := exec.CommandContext(t.Context(), program, order...)
				cmd.Env = environment(c.env...)
				out, _ := cmd.CombinedOutput()
				if got := cmd.ProcessState.ExitCode(); got != c.status {
					t.Errorf("exit status %d, want %d: %s", got, c.status, out)
				}
				if c.status == 0 && string(out) != "0\n" {
					t.Errorf("printed %s", out)
				}
				if bytes.Contains(out, []byte("secret")) {
					t.Errorf("printed the password: %s", out)
				}
			}
		})
	}
}
