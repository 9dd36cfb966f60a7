// Mutants shows that the tests of subscriptions, of writes during failovers and of consumers can fail. It breaks one
// rule of the program after the other, in a copy that only the compiler sees, and runs the tests that must notice it:
//
//	go run ./scripts/mutants [-run REGEXP]
//
// Rules of the SQL functions are broken by tests themselves, whose names contain Mutants. It runs these as they are.
// Its exit status is 1 if a mutant survives. -run selects mutants by their text.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// A mutant breaks one rule.
type mutant struct {
	rule string // that it breaks
	file string // which it changes; empty: the tests break the rule themselves
	old  string // a text that occurs once in the file
	new  string
	in   string // the package of the tests
	test string // names of tests, some of them with a subtest, separated by |
}

var mutants = slices.Concat(clientMutants, consumerMutants)

func main() {
	run := flag.String("run", "", "only mutants whose text matches this `regexp`")
	flag.Parse()
	selected, err := regexp.Compile(*run)
	if err != nil || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if !survey(selected) {
		os.Exit(1)
	}
}

// survey runs the mutants that are selected, and reports whether all of them are caught.
func survey(selected *regexp.Regexp) bool {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	all := true
	for _, m := range mutants {
		if !selected.MatchString(m.rule) {
			continue
		}
		result := "caught"
		err := m.caught(ctx)
		if ctx.Err() != nil {
			return false
		}
		if err != nil {
			all, result = false, fmt.Sprintf("SURVIVES: %v", err)
		}
		fmt.Printf("%s\n    %s %s: %s\n", m.rule, m.in, m.test, result)
	}
	return all
}

var errSurvives = errors.New("no test fails")

// caught returns nil if the tests notice the mutant.
func (m mutant) caught(ctx context.Context) error {
	args := []string{"test", "-count=1", "-vet=off", "-failfast", "-timeout=2m", "-run", m.pattern()}
	if m.file != "" {
		dir, err := os.MkdirTemp("", "mutants-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		overlay, err := m.overlay(dir)
		if err != nil {
			return err
		}
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, m.in)...) //nolint:gosec // the arguments are those of the table
	out, err := cmd.CombinedOutput()
	text := string(out)
	switch {
	case strings.Contains(text, "no tests to run"):
		return errors.New("there is no such test")
	case strings.Contains(text, "[build failed]") || strings.Contains(text, "[setup failed]"):
		return fmt.Errorf("it does not compile: %s", text)
	case m.file == "" && err != nil:
		return errors.New(text)
	case m.file != "" && err == nil:
		return errSurvives
	case m.file != "" && !strings.Contains(text, "--- FAIL") && !strings.Contains(text, "panic: "):
		return errors.New(text)
	}
	return nil
}

// pattern returns the names of the tests, for go test -run.
func (m mutant) pattern() string {
	names := strings.Split(m.test, "|")
	for i, name := range names {
		names[i] = "^" + strings.ReplaceAll(name, "/", "$/^") + "$"
	}
	return strings.Join(names, "|")
}

// overlay writes the changed file and what tells the compiler about it.
func (m mutant) overlay(dir string) (string, error) {
	source, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(source) //nolint:gosec // a file of the table
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(text), m.old); n != 1 {
		return "", fmt.Errorf("%s contains the text %d times, want once", m.file, n)
	}
	changed := filepath.Join(dir, filepath.Base(m.file))
	if err := os.WriteFile(changed, []byte(strings.Replace(string(text), m.old, m.new, 1)), 0o600); err != nil { //nolint:gosec // in a directory of its own
		return "", err
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {source: changed}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, list, 0o600)
}
