// Package examples_test builds the example programs and runs each on its own database.
package examples_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// programs is the folder of the compiled examples.
var programs string

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	var err error
	if programs, err = os.MkdirTemp("", "mdb-examples-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(programs)
	if err := pgtest.Build(programs, "./..."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// TestExamples checks the output of each example.
func TestExamples(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("*/main.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		name = filepath.Dir(name)
		if name == "bank" { // its output varies, see TestBank
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, err := os.ReadFile(filepath.Join("..", "testdata", "examples", name+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), filepath.Join(programs, name))
			cmd.Env = append(os.Environ(), "DATABASE_URL="+testdb.New(t))
			got, err := cmd.CombinedOutput()
			if err != nil || string(got) != string(want) {
				t.Errorf("%v, got:\n%s\nwant:\n%s", err, got, want)
			}
		})
	}
}

// TestWithoutDatabaseURL checks that an example without DATABASE_URL asks for it.
func TestWithoutDatabaseURL(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"batch", "concurrency", "group", "projection", "subscription", "transaction", "workers"} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(programs, name))
		cmd.Env = append(os.Environ(), "DATABASE_URL=")
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "set DATABASE_URL") {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
}

func TestBank(t *testing.T) {
	t.Parallel()
	program := filepath.Join(programs, "bank")
	run := func(t *testing.T, url, input string, args ...string) (string, error) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env = append(os.Environ(), "DATABASE_URL="+url)
		cmd.Stdin = strings.NewReader(input)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		return out.String(), err
	}

	t.Run("a server of its own", func(t *testing.T) {
		t.Parallel()
		pgtest.NeedPrograms(t)
		out, err := run(t, "", "", "-for", "500ms")
		requireProof(t, out, err)
	})
	t.Run("an installed store", func(t *testing.T) {
		t.Parallel()
		url := testdb.New(t)
		for range 2 { // what the first run left does not disturb the second
			out, err := run(t, url, "", "-for", "200ms", "-accounts", "2", "-writers", "8")
			requireProof(t, out, err)
		}
	})
	t.Run("installs if the user agrees", func(t *testing.T) {
		t.Parallel()
		url := testdb.Empty(t)
		out, err := run(t, url, "n\n", "-for", "100ms")
		if err == nil || !strings.Contains(out, "not installed, as you wish") {
			t.Fatalf("%v:\n%s", err, out)
		}
		out, err = run(t, url, "y\n", "-for", "100ms")
		requireProof(t, out, err)
	})
	t.Run("an unreachable server", func(t *testing.T) {
		t.Parallel()
		if out, err := run(t, "postgres://127.0.0.1:1/none", ""); err == nil {
			t.Fatalf("succeeded:\n%s", out)
		}
	})
}

func requireProof(t *testing.T, out string, err error) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err != nil || !strings.Contains(lines[len(lines)-1], "proved: ") {
		t.Fatalf("%v:\n%s", err, out)
	}
}
