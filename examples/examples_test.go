// Package examples_test builds the example programs and runs each on its own database.
package examples_test

import (
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
		if name == "orders" || name == "archive" {
			continue // they do not end by themselves, see TestOrders and TestArchiveKilled
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
	for _, name := range []string{"archive", "batch", "concurrency", "group", "orders", "projection", "subscription", "transaction", "workers"} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(programs, name))
		cmd.Env = append(os.Environ(), "DATABASE_URL=")
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "set DATABASE_URL") {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
}
