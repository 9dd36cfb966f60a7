package main_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdbcontainer"
)

var (
	image   = cmp.Or(os.Getenv("MDB_TEST_IMAGE"), "postgres:17")
	program string
)

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "with-messagedb-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "with-messagedb")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		panic(string(out))
	}
	return m.Run()
}

// run runs the program and returns its outputs and exit status.
func run(t *testing.T, env []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), env...)
	var out, err strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &err
	var failed *exec.ExitError
	if e := cmd.Run(); e != nil && !errors.As(e, &failed) {
		t.Fatal(e)
	}
	return out.String(), err.String(), cmd.ProcessState.ExitCode()
}

// TestCommand checks the outputs and the exit status when the command runs, is killed, or
// cannot be run.
func TestCommand(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		env            []string
		args           []string
		stdout, stderr string
		status         int
	}{
		"status": {
			args:   []string{"-image", image, "-notify", "--", "sh", "-c", `echo "${MDB_TEST_DATABASE_URL%%:*}"; echo words >&2; exit 7`},
			stdout: "postgres\n", stderr: "words\n", status: 7,
		},
		"signal": {
			args:   []string{"-image", image, "--", "sh", "-c", "kill -9 $$"},
			status: 128 + 9,
		},
		"no such command": {
			args:   []string{"-image", image, "--", "/no/such/command"},
			stderr: "with-messagedb: fork/exec /no/such/command: no such file or directory\n", status: 126,
		},
		"no such setting": {
			args:   []string{"-image", image, "-setting", "a b=1", "--", "true"},
			stderr: "with-messagedb: mdbcontainer: the setting is \"a b\", want the name of a parameter, such as work_mem\n", status: 125,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, status := run(t, test.env, test.args...)
			if stdout != test.stdout || stderr != test.stderr || status != test.status {
				t.Errorf("got %q, %q, %d, want %q, %q, %d", stdout, stderr, status, test.stdout, test.stderr, test.status)
			}
		})
	}
}

// TestTmpfs checks that a folder of the container is in memory while the command runs.
func TestTmpfs(t *testing.T) {
	t.Parallel()
	// The end of the test's context would kill the program before it has removed the container.
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program, "-image", image, "-tmpfs", "/scratch", "--", "sh", "-c", `echo "$MDB_TEST_DATABASE_URL"; cat`)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), strings.TrimSpace(url))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var mounts string
	if err := conn.QueryRow(t.Context(), "SELECT pg_read_file('/proc/mounts')").Scan(&mounts); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(mounts, "\ntmpfs /scratch tmpfs ") {
		t.Errorf("/scratch is not in memory:\n%s", mounts)
	}
}

// TestUsage checks that wrong usage prints the usage and exits with 2.
func TestUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"--"}, {"-setting", "x", "--", "true"}, {"-tmpfs", "x", "--", "true"}, {"-no-such-flag"}} {
		if _, stderr, status := run(t, nil, args...); status != 2 || !strings.Contains(stderr, "usage: with-messagedb") {
			t.Errorf("%q: status %d, %q, want 2 and the usage", args, status, stderr)
		}
	}
}

// TestNoEngine checks that a missing engine is reported in one line, with the remedy.
func TestNoEngine(t *testing.T) {
	t.Parallel()
	// A wrong DOCKER_HOST would not do, because testcontainers-go also tries the usual
	// sockets. Without the certificates it connects to none.
	env := []string{"DOCKER_CERT_PATH=" + t.TempDir(), "DOCKER_TLS_VERIFY=1"}
	stdout, stderr, status := run(t, env, "-image", image, "--", "echo", "ran")
	if stdout != "" || status != 125 {
		t.Errorf("got %q and status %d, want nothing and 125", stdout, status)
	}
	if !strings.HasPrefix(stderr, "with-messagedb: "+mdbcontainer.ErrNoEngine.Error()) || strings.Count(stderr, "\n") != 1 {
		t.Errorf("got\n%s\nwant one line that begins with: %v", stderr, mdbcontainer.ErrNoEngine)
	}
}
