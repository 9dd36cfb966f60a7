// Package docs reads the queries that the documentation has for the metrics, for tests.
package docs

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A Panel is one of the dashboard.
type Panel struct {
	Title   string
	Type    string
	Targets []struct{ Expr string }
}

// Panels returns the panels of docs/grafana.json.
func Panels(t *testing.T) (panels []Panel) {
	t.Helper()
	var dashboard struct{ Panels []Panel }
	if err := json.Unmarshal([]byte(Read(t, "grafana.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard.Panels {
		if p.Type != "row" {
			panels = append(panels, p)
		}
	}
	if len(panels) == 0 {
		t.Fatal("the dashboard has no panels")
	}
	return panels
}

// Queries returns the queries of the dashboard.
func Queries(t *testing.T) (queries []string) {
	t.Helper()
	for _, p := range Panels(t) {
		if len(p.Targets) == 0 {
			t.Errorf("%s has no query", p.Title)
		}
		for _, target := range p.Targets {
			queries = append(queries, target.Expr)
		}
	}
	return queries
}

// Rules returns the queries of docs/alerts.yml.
func Rules(t *testing.T) (queries []string) {
	t.Helper()
	for _, rule := range regexp.MustCompile(`(?s)\n +expr: (?:>-)?(.*?)\n +(?:for|labels):`).FindAllStringSubmatch(Read(t, "alerts.yml"), -1) {
		queries = append(queries, strings.Join(strings.Fields(rule[1]), " "))
	}
	if len(queries) == 0 {
		t.Fatal("there are no rules")
	}
	return queries
}

// Read returns a file of docs, from a package of this module.
func Read(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for filepath.Base(dir) != "mdbotel" {
		dir = filepath.Dir(dir)
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "docs", name)) //nolint:gosec // a file of the repository
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
