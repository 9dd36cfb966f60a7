package conformance

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

var update = flag.Bool("update", false, "write docs/conformance.md")

const introduction = `# Conformance

[conformance.Run](../mdb/mdbtest/conformance/conformance.go) checks that a Message DB
behaves like Message DB 1.3.0. Run it against another server, through a proxy or a
pooler, or after another way to install the schema; its
[example](../mdb/mdbtest/conformance/example_test.go) is a test to copy. This repository
runs it on its own schema and on Message DB's SQL, in each of pgx's modes.

Each line below is a subtest. Calls and expected results are in Go and in
[JSON](../mdb/mdbtest/conformance/testdata), which other languages can read. Reads are
made by plain SQL, by a Store and by a Tx of package mdb.

<!-- Written by go test ./mdb/mdbtest/conformance -run TestPage -update -->
`

// TestPage runs the suite on this repository's Message DB and checks that
// docs/conformance.md lists its subtests.
func TestPage(t *testing.T) {
	var mu sync.Mutex
	behaviours := make(map[string][]string)
	t.Run("suite", func(t *testing.T) {
		run(t, mdbtest.SharedStore, func(section, behaviour string) {
			mu.Lock()
			defer mu.Unlock()
			behaviours[section] = append(behaviours[section], behaviour)
		})
	})

	var page strings.Builder
	page.WriteString(introduction)
	for _, section := range sections {
		fmt.Fprintf(&page, "\n## %s\n\n", section.name)
		for _, behaviour := range behaviours[section.name] {
			fmt.Fprintf(&page, "- %s\n", behaviour)
		}
	}

	const name = "../../../docs/conformance.md"
	if *update {
		if err := os.WriteFile(name, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != page.String() {
		t.Errorf("docs/conformance.md does not list the subtests of the suite (error %v): write it with -update", err)
	}
}
