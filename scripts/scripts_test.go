// Package scripts_test checks what the scripts, the Makefile and the workflows have in
// common.
package scripts_test

import (
	"go/version"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestWorkflows checks that the jobs of CI are the steps of .ci/run, that those of the
// nightly run are the steps of make nightly, and that a job does nothing but install
// packages and make one target.
func TestWorkflows(t *testing.T) {
	t.Parallel()
	makefile := read(t, "../Makefile")
	nightly, _, _ := strings.Cut(makefile[strings.Index(makefile, "\nnightly:"):], "\n\n")
	for workflow, steps := range map[string][]string{
		"ci.yml":      find(read(t, "../.ci/run"), `(?m)^step make (.*)$`),
		"nightly.yml": find(nightly, `(?m)^\t\$\(MAKE\) (.*)$`),
		"release.yml": {"release-publish"},
	} {
		t.Run(workflow, func(t *testing.T) {
			t.Parallel()
			text := read(t, "../.github/workflows/"+workflow)
			if got := find(text, `run: make (.*)`); !slices.Equal(sorted(got), sorted(steps)) {
				t.Errorf("the jobs make %q, want %q", got, steps)
			}
			if jobs := find(text, `(runs-on): `); len(jobs) != len(steps) {
				t.Errorf("%d jobs make %d targets, want one each", len(jobs), len(steps))
			}
			for _, run := range find(text, `run: (.*)`) {
				if !regexp.MustCompile(`^(make |(sudo )?apt-get update && (sudo )?apt-get install -y )`).MatchString(run) {
					t.Errorf("a job runs %q, want a target of the Makefile, or the installation of packages", run)
				}
			}
			for _, step := range steps {
				if target, _, _ := strings.Cut(step, " "); !strings.Contains(makefile, "\n"+target+": ") {
					t.Errorf("the Makefile has no target %q", target)
				}
			}
		})
	}
}

// TestWorkflowsGo checks that the workflows use a Go that is new enough for all modules.
// setup-go installs the version of one go.mod, and forbids Go to fetch a newer one.
func TestWorkflowsGo(t *testing.T) {
	t.Parallel()
	needs := func(module string) string { return "go" + find(read(t, module), `(?m)^go (.*)$`)[0] }
	for _, workflow := range []string{"ci.yml", "nightly.yml", "release.yml"} {
		for _, file := range find(read(t, "../.github/workflows/"+workflow), `go-version-file: (.*)`) {
			for _, module := range []string{"go.mod", "bench/go.mod", "demo/go.mod", "mdbcontainer/go.mod", "mdbotel/go.mod", "tools/go.mod", "webtest/go.mod"} {
				if got, want := needs("../"+file), needs("../"+module); version.Compare(got, want) < 0 {
					t.Errorf("%s takes %s from %s, and %s needs %s", workflow, got, file, module, want)
				}
			}
		}
	}
}

// TestHelp checks that make help lists every target that is meant for people, and that
// each target is phony.
func TestHelp(t *testing.T) {
	t.Parallel()
	makefile := read(t, "../Makefile")
	phony := strings.Fields(find(makefile, `(?m)^\.PHONY: (.*)$`)[0])
	targets := find(makefile, `(?m)^([a-z-]+):(?: |$)`)
	if !slices.Equal(sorted(phony), sorted(targets)) {
		t.Errorf(".PHONY has %q, want %q", phony, targets)
	}
	for _, line := range find(makefile, `(?m)^([a-z-]+:(?: .*)?)$`) {
		if !strings.Contains(line, " # ") && !strings.Contains(line, " ## ") {
			t.Errorf("%q has no description", line)
		}
	}
}

// TestListServerPackages checks that runs on a further server have the packages whose tests can use
// one, also if other packages of the test start it, and say which they leave out.
func TestListServerPackages(t *testing.T) {
	t.Parallel()
	const module = "github.com/messagedb-go/messagedb/"
	cmd := exec.CommandContext(t.Context(), "./list-server-packages", "../internal/...", "../mdb/...")
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &said)
	}
	packages := strings.Fields(string(out))
	for _, p := range []string{"mdb", "mdb/consumer/consumertest", "internal/names"} {
		if !slices.Contains(packages, module+p) {
			t.Errorf("%s is missing in %q", p, packages)
		}
	}
	if slices.Contains(packages, module+"mdb/poll") || !strings.HasSuffix(said.String(), " internal/backoff internal/jsonl internal/scan internal/source internal/terminal mdb/poll\n") {
		t.Errorf("got %q, and it says %q, want mdb/poll to be left out", packages, &said)
	}
}

// find returns the first group of each match.
func find(text, pattern string) []string {
	var found []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	return found
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
