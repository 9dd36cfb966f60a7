package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// columns are the parts of the suite that users ask about, by the tests' names.
var columns = []struct {
	Title string
	tests *regexp.Regexp
}{
	{"procedures", regexp.MustCompile(`(?i)procedures`)},
	{"direct SQL", regexp.MustCompile(`(?i)direct`)},
	{"NOTIFY trigger", regexp.MustCompile(`(?i)notify|ring|wake|doorbell`)},
	{"all tests", regexp.MustCompile(``)},
}

// A result is what the tests said on one version.
type result struct {
	PostgreSQL string  // with the minor version
	Counts     []count // by column
	failures   []string
}

type count struct{ Passed, Failed, Skipped int }

func (r result) fault() error {
	if len(r.failures) > 0 {
		return fmt.Errorf("PostgreSQL %s: %s", r.PostgreSQL, strings.Join(r.failures, ", "))
	}
	for i, c := range r.Counts {
		if c.Passed == 0 {
			return fmt.Errorf("PostgreSQL %s: no test of the column %q ran", r.PostgreSQL, columns[i].Title)
		}
	}
	return nil
}

// test runs the suite on a major version, which is fetched if the machine lacks it.
func test(ctx context.Context, major string, short bool, show io.Writer) (result, error) {
	env := append(os.Environ(), "MDB_TEST_POSTGRES="+major, "MDB_TEST_DATABASE_URL=", "MDB_TEST_ONLY=server")
	find := exec.CommandContext(ctx, "go", "run", "./internal/pgtest/find-postgres")
	find.Env, find.Stderr = env, os.Stderr
	bin, err := find.Output()
	if err != nil {
		return result{}, fmt.Errorf("there are no programs of PostgreSQL %s: %w", major, err)
	}
	postgres := filepath.Join(strings.TrimSpace(string(bin)), "postgres")
	said, err := exec.CommandContext(ctx, postgres, "--version").Output() //nolint:gosec // the program that was found
	if err != nil {
		return result{}, fmt.Errorf("%s --version: %w", postgres, err)
	}
	version := regexp.MustCompile(`[0-9]+\.[0-9]+`).FindString(string(said))
	if _, err := fmt.Fprintf(show, "# PostgreSQL %s\n", version); err != nil {
		return result{}, err
	}

	list := exec.CommandContext(ctx, "scripts/list-server-packages", "./...")
	list.Stderr = os.Stderr
	packages, err := list.Output()
	if err != nil {
		return result{}, fmt.Errorf("list-server-packages: %w", err)
	}
	args := append([]string{"test", fmt.Sprintf("-race=%t", !short), "-count=1", "-json", fmt.Sprintf("-parallel=%d", 2*runtime.NumCPU()), fmt.Sprintf("-short=%t", short)},
		strings.Fields(string(packages))...)
	cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // with packages of this module
	cmd.Env, cmd.Stderr = env, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return result{}, err
	}
	if err := cmd.Start(); err != nil {
		return result{}, err
	}
	r, readErr := read(out, show)
	r.PostgreSQL = version
	err = cmd.Wait()
	if failed := new(exec.ExitError); errors.As(err, &failed) && len(r.failures) > 0 {
		err = nil // the table tells
	}
	return r, errors.Join(readErr, err)
}

// event is a line of go test -json.
type event struct {
	Action, Package, Test, Output string
}

// read counts the tests, and shows what those that fail have said.
func read(events io.Reader, show io.Writer) (result, error) {
	r := result{Counts: make([]count, len(columns))}
	said := map[[2]string][]string{}
	lines := bufio.NewScanner(events)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return r, fmt.Errorf("go test: %q: %w", lines.Text(), err)
		}
		key := [2]string{e.Package, e.Test}
		switch e.Action {
		case "output":
			said[key] = append(said[key], e.Output)
			continue
		case "fail":
			if _, err := io.WriteString(show, strings.Join(said[key], "")); err != nil {
				return r, err
			}
			r.failures = append(r.failures, strings.TrimSpace(e.Package+" "+e.Test))
		}
		if e.Test != "" {
			r.count(e)
		}
		if e.Action == "pass" || e.Action == "fail" || e.Action == "skip" {
			delete(said, key)
		}
	}
	return r, lines.Err()
}

func (r *result) count(e event) {
	for i, column := range columns {
		if !column.tests.MatchString(path.Base(e.Package) + " " + e.Test) {
			continue
		}
		switch c := &r.Counts[i]; e.Action {
		case "pass":
			c.Passed++
		case "fail":
			c.Failed++
		case "skip":
			c.Skipped++
		}
	}
}
