// Mutants shows that the tests of subscriptions, of writes during failovers and of consumers can fail. It breaks one
// rule of the program after the other, in a copy that only the compiler sees, and runs the tests that must notice it. They
// must pass without the mutant:
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

var mutants = slices.Concat(clientMutants, replicaMutants, shardMutants, allMutants, consumerMutants)

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
	b := bench{passed: make(map[string]error)}
	for _, m := range mutants {
		if !selected.MatchString(m.rule) {
			continue
		}
		result := "caught"
		err := b.caught(ctx, m)
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

// A bench runs the tests.
type bench struct {
	passed map[string]error // the results of lists of tests without a mutant
}

// caught returns nil if the tests notice the mutant, and pass without it.
func (b *bench) caught(ctx context.Context, m mutant) error {
	list := m.in + " " + m.test
	err, known := b.passed[list]
	if !known {
		text, failed := m.run(ctx)
		err = passes(text, failed)
		b.passed[list] = err
	}
	if err != nil || m.file == "" {
		return err
	}
	dir, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	overlay, err := m.overlay(dir)
	if err != nil {
		return err
	}
	return notices(m.run(ctx, "-overlay", overlay))
}

// run runs the tests, and returns what they print.
func (m mutant) run(ctx context.Context, flags ...string) (string, error) {
	args := append([]string{"test", "-count=1", "-vet=off", "-failfast", "-timeout=2m", "-run", m.pattern()}, flags...)
	out, err := exec.CommandContext(ctx, "go", append(args, m.in)...).CombinedOutput() //nolint:gosec // the arguments are those of the table
	return string(out), err
}

// passes returns nil if tests without a mutant have passed.
func passes(text string, err error) error {
	switch {
	case strings.Contains(text, "no tests to run"):
		return errors.New("there is no such test")
	case err != nil:
		return fmt.Errorf("the tests fail without it: %s", text)
	}
	return nil
}

// notices returns nil if a test has failed because of a mutant.
func notices(text string, err error) error {
	switch {
	case err == nil:
		return errSurvives
	case strings.Contains(text, "[build failed]") || strings.Contains(text, "[setup failed]"):
		return fmt.Errorf("it does not compile: %s", text)
	case strings.Contains(text, "panic: test timed out") && !strings.Contains(text, "--- FAIL"): // which a slow machine does, too
		return fmt.Errorf("the tests do not end: %s", text)
	case !strings.Contains(text, "--- FAIL") && !strings.Contains(text, "panic: "):
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
