package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// larger are cases that differ from others in a number alone, and take long.
var larger = regexp.MustCompile(`^Write 1000 |32 at the same time$`)

// TestOnce runs every rival of every case but the larger ones, so that none rots.
func TestOnce(t *testing.T) {
	pgtest.NeedPrograms(t)
	e, err := newEnvironment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	h := &harness{postmaster: e.postmaster, rounds: 1, turn: time.Nanosecond}
	for _, c := range e.cases() {
		if larger.MatchString(c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			samples, err := h.measure(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if want := 2 * len(c.rivals); len(samples) != want {
				t.Errorf("%d samples, want %d", len(samples), want)
			}
			text := table(c, summarize(c, samples))
			for _, r := range c.rivals {
				if !strings.Contains(text, r.name) {
					t.Errorf("the table lacks %s:\n%s", r.name, text)
				}
			}
		})
	}
}

// TestRatios pins the arithmetic: a rival that takes twice as long in each round
// has a ratio of 2, however the rounds differ.
func TestRatios(t *testing.T) {
	t.Parallel()
	c := benchCase{name: "c", rivals: []rival{{name: "a"}, {name: "b"}}}
	var samples []sample
	for round := range 10 {
		base := float64(100 + 50*(round*7%10)) // in no order
		for range 2 {
			samples = append(samples,
				sample{Case: "c", Rival: "a", Round: round, NsPerOp: base},
				sample{Case: "c", Rival: "b", Round: round, NsPerOp: 2 * base})
		}
	}
	rows := summarize(c, samples)
	if r := rows[1].ratio; r.Center != 2 || r.Lo != 2 || r.Hi != 2 {
		t.Errorf("ratio %v (%v–%v), want 2", r.Center, r.Lo, r.Hi)
	}
}

// TestGrowth measures the smallest sizes, so that no dimension rots.
func TestGrowth(t *testing.T) {
	pgtest.NeedPrograms(t)
	e, err := newServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	shrink = 100
	t.Cleanup(func() { shrink = 1 })
	o := options{rounds: 1, turn: time.Nanosecond, out: t.TempDir()}
	for _, d := range dimensions {
		t.Run(d.file, func(t *testing.T) {
			d.sizes = d.sizes[:2]
			if d.file == "store" {
				d.sizes = []int{1000, 2000}
			}
			var w strings.Builder
			if err := e.grow(t.Context(), o, d, &output{w: &w}); err != nil {
				t.Fatal(err)
			}
			if got, want := strings.Count(w.String(), "\n| "), 1+len(d.sizes); got != want {
				t.Errorf("%d rows, want %d:\n%s", got, want, w.String())
			}
			if _, err := os.Stat(filepath.Join(o.out, "growth-"+d.file+".svg")); err != nil {
				t.Error(err)
			}
		})
	}
	var w strings.Builder
	if err := e.wholes(t.Context(), o, &output{w: &w}); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Count(w.String(), "\n| "), 1+len(wholeSizes); got != want || strings.Contains(w.String(), "NaN") {
		t.Errorf("%d rows of whole categories, want %d:\n%s", got, want, w.String())
	}
}

// TestFloors pins how a floor is judged: by the bound that is kinder, and not where the
// time is the server's.
func TestFloors(t *testing.T) {
	t.Parallel()
	const page = "Read a page of 1,000 messages of a category"
	measured := func(times map[string]float64) (samples []sample) {
		for round := range 10 {
			for rival, ns := range times {
				samples = append(samples, sample{Case: page, Rival: rival, Round: round, NsPerOp: ns})
			}
		}
		return samples
	}
	samples := measured(map[string]float64{floorName: 100, proceduresName: 114, stdlibOnce: 150})
	verdicts := judge(samples)
	if len(verdicts) != 2 {
		t.Fatalf("%d verdicts, want 2", len(verdicts))
	}
	if v := verdicts[0]; v.holds() || v.outOfReach() { // 150 ÷ 114 < 1.4 < 150 ÷ 100
		t.Errorf("%s at %v: holds %t, out of reach %t", v.what, v.ratio, v.holds(), v.outOfReach())
	}
	if v := verdicts[1]; !v.holds() { // 1.14 ≤ 1.15
		t.Errorf("%s fails at %v", v.what, v.ratio)
	}
	if _, hold := floorsTable(samples); hold {
		t.Error("the table says that all hold")
	}
	slow := measured(map[string]float64{floorName: 100, proceduresName: 105, stdlibOnce: 130})
	if v := judge(slow)[0]; v.holds() || !v.outOfReach() { // 130 ÷ 100 < 1.4
		t.Errorf("%s at %v: holds %t, out of reach %t", v.what, v.ratio, v.holds(), v.outOfReach())
	}
	if table, hold := floorsTable(slow); !hold || !strings.Contains(table, "the floor itself gets 1.30") {
		t.Errorf("hold %t:\n%s", hold, table)
	}
}
