package scripts_test

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestPromises checks that docs/promises.md names tests for each promise, and that these exist.
func TestPromises(t *testing.T) {
	t.Parallel()
	folders := map[string]string{
		"consumer": "mdb/consumer", "ledger": "internal/ledger", "chaos": "internal/chaos", "schema": "mdb/schema",
	}
	existing := make(map[string][]string)
	for name, folder := range folders {
		files, err := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			existing[name] = append(existing[name], find(read(t, file), `(?m)^func (Test\w+)\(t \*testing\.T\)`)...)
		}
	}
	rows := 0
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]*) \| ([^|]*) \|$`).FindAllStringSubmatch(read(t, "../docs/promises.md"), -1) {
		if row[1] == "Promise" {
			continue
		}
		rows++
		for test := range strings.SplitSeq(row[2], ", ") {
			if name, test, _ := strings.Cut(test, "."); !slices.Contains(existing[name], test) {
				t.Errorf("%q names %s.%s, which does not exist", row[1], name, test)
			}
		}
	}
	if rows == 0 {
		t.Error("the page has no promises")
	}
}
