package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/messagedb-go/messagedb/mdb/schema"
)

// table is in Markdown, which reads well on a terminal too.
func table(results []result) string {
	var b strings.Builder
	b.WriteString("| PostgreSQL |")
	for _, c := range columns {
		fmt.Fprintf(&b, " %s |", c.Title)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(columns)) + "\n")
	for _, r := range results {
		fmt.Fprintf(&b, "| %s |", r.PostgreSQL)
		for _, c := range r.Counts {
			fmt.Fprintf(&b, " %s |", c)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func (c count) String() string {
	s := fmt.Sprintf("%d passed", c.Passed)
	if c.Failed > 0 {
		s = fmt.Sprintf("%d failed, %s", c.Failed, s)
	}
	if c.Skipped > 0 {
		s += fmt.Sprintf(", %d skipped", c.Skipped)
	}
	return s
}

// record keeps the results, in place of earlier ones on the same major versions, and
// writes the page that shows them.
func record(file string, results []result) error {
	before, err := os.ReadFile(file) //nolint:gosec // the file that the caller names
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if results, err = merge(before, results); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	kept, err := json.MarshalIndent(results, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, append(kept, '\n'), 0o644); err != nil { //nolint:gosec // documentation is for all
		return err
	}
	text := strings.TrimSuffix(file, ".json") + ".md"
	page, err := os.ReadFile(text) //nolint:gosec // beside the file that the caller names
	if err != nil {
		return err
	}
	if page, err = fill(page, results, "."); err != nil {
		return fmt.Errorf("%s: %w", text, err)
	}
	return os.WriteFile(text, page, 0o644) //nolint:gosec // as above
}

func merge(before []byte, results []result) ([]result, error) {
	if len(before) == 0 {
		return results, nil
	}
	var kept []result
	if err := json.Unmarshal(before, &kept); err != nil {
		return nil, err
	}
	kept = slices.DeleteFunc(kept, func(k result) bool {
		return slices.ContainsFunc(results, func(r result) bool { return r.major() == k.major() })
	})
	kept = append(kept, results...)
	slices.SortFunc(kept, func(a, b result) int { return strings.Compare(a.major(), b.major()) })
	return kept, nil
}

// major is of two digits for all versions that are supported.
func (r result) major() string {
	major, _, _ := strings.Cut(r.PostgreSQL, ".")
	return major
}

// The part of the documentation's page between these lines is generated.
const (
	beginning = `<!-- "make compatibility" writes this part from compatibility.json and the files go.mod -->`
	end       = `<!-- end of the generated part -->`
)

// fill returns the page with its generated part replaced. root is the repository.
func fill(page []byte, results []result, root string) ([]byte, error) {
	before, rest, ok := strings.Cut(string(page), beginning+"\n")
	_, after, closed := strings.Cut(rest, end+"\n")
	if !ok || !closed {
		return nil, fmt.Errorf("it lacks the line %s or %s", beginning, end)
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod")) //nolint:gosec // a file of the repository
	if err != nil {
		return nil, err
	}
	container, err := os.ReadFile(filepath.Join(root, "mdbcontainer", "go.mod")) //nolint:gosec // as above
	if err != nil {
		return nil, err
	}
	return []byte(before + beginning + "\n" + facts(results, string(mod), string(container)) + end + "\n" + after), nil
}

// facts is the generated part, whose facts are all from elsewhere.
func facts(results []result, mod, container string) string {
	return fmt.Sprintf(`| What | Version |
|---|---|
| Go | %s or later; for the module mdbcontainer %s or later |
| pgx | %s or later |
| Message DB | %s, by its own script or by `+"`schema.Install`"+` |

Tests that passed with the race detector, on each major version of PostgreSQL. The first
three columns count the tests of one feature each:

%s
`+"`make test-matrix`"+` runs them, and downloads the versions that are missing.
`, requirement(mod, "go"), requirement(container, "go"), requirement(mod, "github.com/jackc/pgx/v5"), schema.Version, table(results))
}

// requirement returns the version in a line of go.mod.
func requirement(mod, name string) string {
	for line := range strings.Lines(mod) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == name {
			return fields[1]
		}
	}
	return "unknown"
}
