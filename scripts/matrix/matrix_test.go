package main

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestCompatibility checks that the generated part of the page was not edited by hand, lacks
// no version, and is as new as the files go.mod.
func TestCompatibility(t *testing.T) {
	t.Parallel()
	var results []result
	if err := json.Unmarshal(readFile(t, "../../docs/compatibility.json"), &results); err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if len(r.Counts) != len(columns) {
			t.Fatalf("PostgreSQL %s has %d columns, want %d: run make compatibility", r.PostgreSQL, len(r.Counts), len(columns))
		}
		for j, c := range r.Counts {
			if c.Failed > 0 || c.Passed == 0 {
				t.Errorf("PostgreSQL %s, %s: %s", r.PostgreSQL, columns[j].Title, c)
			}
		}
		if want := []string{"14.", "15.", "16.", "17.", "18."}[i]; !strings.HasPrefix(r.PostgreSQL, want) {
			t.Errorf("row %d is of PostgreSQL %s, want %s…", i, r.PostgreSQL, want)
		}
	}
	if len(results) != 5 {
		t.Errorf("%d versions, want 14 to 18", len(results))
	}
	got := readFile(t, "../../docs/compatibility.md")
	want, err := fill(got, results, "../..")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("docs/compatibility.md is not what its results give, which is\n%s\nrun make compatibility", want)
	}
	if _, err := fill([]byte("# Compatibility\n"), results, "../.."); err == nil {
		t.Error("a page without a generated part was filled")
	}
}

func TestMerge(t *testing.T) {
	t.Parallel()
	before := []byte(`[{"PostgreSQL": "14.1"}, {"PostgreSQL": "16.1"}]`)
	merged, err := merge(before, []result{{PostgreSQL: "15.2"}, {PostgreSQL: "14.2"}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range merged {
		got = append(got, r.PostgreSQL)
	}
	if want := []string{"14.2", "15.2", "16.1"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestRead(t *testing.T) {
	t.Parallel()
	events := `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestConformance/direct_SQL"}
{"Action":"output","Package":"p","Test":"TestConformance/direct_SQL","Output":"not shown\n"}
{"Action":"pass","Package":"p","Test":"TestConformance/direct_SQL"}
{"Action":"output","Package":"p","Test":"TestNotifyLost","Output":"shown\n"}
{"Action":"fail","Package":"p","Test":"TestNotifyLost"}
{"Action":"skip","Package":"p","Test":"TestAlloc"}
{"Action":"fail","Package":"p"}
`
	var shown strings.Builder
	r, err := read(strings.NewReader(events), &shown)
	if err != nil || shown.String() != "shown\n" {
		t.Errorf("showed %q, %v", shown.String(), err)
	}
	want := []count{{}, {Passed: 1}, {Failed: 1}, {Passed: 1, Failed: 1, Skipped: 1}}
	for i, c := range r.Counts {
		if c != want[i] {
			t.Errorf("%s: %s, want %s", columns[i].Title, c, want[i])
		}
	}
	if err := r.fault(); err == nil || !strings.Contains(err.Error(), "p TestNotifyLost") {
		t.Errorf("got %v, want the failed test", err)
	}
	if err := (result{Counts: want[:1]}).fault(); err == nil || !strings.Contains(err.Error(), `"procedures"`) {
		t.Errorf("got %v, want the empty column", err)
	}
}
