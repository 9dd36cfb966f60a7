package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/bench/internal/figures"
	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// TestLong checks that ways are measured beside a long transaction and after it, and that the versions of the rows are kept meanwhile.
func TestLong(t *testing.T) {
	pgtest.NeedPrograms(t)
	e, err := newEnvironment(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	defer func(before []load) { loads = before }(loads)
	loads = []load{{0, 60}, {3, 60}}
	ways := e.ways()
	table, err := e.long(t.Context(), ways)
	if err != nil {
		t.Fatal(err)
	}
	if len(table) != 3 || table[0].versions != 1 || table[1].versions != 1+3*3600/64 || table[1].bytes < 2*table[0].bytes {
		t.Errorf("got %+v", table)
	}
	if block := longBlock(ways, table, 2); strings.Count(block, "\n| 3 ") != 2 || !strings.Contains(block, "`EachTx` |") {
		t.Errorf("got:\n%s", block)
	}
}

// TestWays checks that each way handles each message once, with several workers if it can have them.
func TestWays(t *testing.T) {
	t.Parallel()
	pgtest.NeedPrograms(t)
	e, err := newEnvironment(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	for _, w := range e.ways() {
		n := 3
		if w.single {
			n = 1
		}
		if _, err := e.measure(t.Context(), w, n); err != nil {
			t.Errorf("%s: %v", w.name, err)
		}
	}
}

// TestBlock checks the table, and that a bound which does not hold is reported.
func TestBlock(t *testing.T) {
	t.Parallel()
	b := &bench{rounds: 6, env: &environment{version: "18.0"}, rates: map[string]map[int][]float64{
		nothingEach:         {1: {900, 900, 900, 900, 900, 900}, 4: {1000, 1000, 1000, 1000, 1000, 1000}},
		nothingSubscription: {1: {1000, 1000, 1000, 1000, 1000, 1000}, 4: {1000, 1000, 1000, 1000, 1000, 1000}},
	}}
	block := b.block([]way{{name: nothingEach}, {name: nothingSubscription}, {name: "not run"}})
	for _, want := range []string{"| " + nothingEach + " | 900 | 1,000 | – |\n", "PostgreSQL 18.0"} {
		if !strings.Contains(block, want) {
			t.Errorf("got:\n%s\nwant it to contain %q", block, want)
		}
	}
	text, failed := b.bounds()
	if !failed || strings.Count(text, "does not hold") != 1 || !strings.Contains(text, "| 0.90: does not hold |") {
		t.Errorf("got %v:\n%s", failed, text)
	}
}

// TestDoc checks that docs/consumers.md has a place for each table, and that a newer one replaces it.
func TestDoc(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../docs/consumers.md")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "consumers.md")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, block := range []string{"old\n", "new\n"} {
		for begin, end := range map[string]string{docBegin: docEnd, longBegin: longEnd} {
			if err := figures.Put(file, begin, end, block); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(got), docBegin+"new\n"+docEnd) || !strings.Contains(string(got), longBegin+"new\n"+longEnd) || strings.Contains(string(got), "old\n"+docEnd) {
		t.Errorf("got:\n%s", got)
	}
}
