package main

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// larger matches cases that take long and differ from others in a number only.
var larger = regexp.MustCompile(`^Write 1000 |32 concurrently$`)

// TestOnce checks that each variant of each case runs, except in the larger cases.
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
			if want := 2 * len(c.variants); len(samples) != want {
				t.Errorf("%d samples, want %d", len(samples), want)
			}
			text := table(samples)
			for _, r := range c.variants {
				if !strings.Contains(text, r.name) {
					t.Errorf("the table lacks %s:\n%s", r.name, text)
				}
			}
		})
	}
}

// TestGrowth checks that each dimension can be measured, with small sizes.
func TestGrowth(t *testing.T) {
	pgtest.NeedPrograms(t)
	e, err := newServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	shrink = 100
	t.Cleanup(func() { shrink = 1 })
	o := options{rounds: 1, turn: time.Nanosecond}
	for _, d := range dimensions {
		t.Run(d.name, func(t *testing.T) {
			d.sizes = d.sizes[:2]
			if d.name == "store" {
				d.sizes = []int{1000, 2000}
			}
			var w strings.Builder
			if err := e.grow(t.Context(), o, d, &output{w: &w}); err != nil {
				t.Fatal(err)
			}
			if got, want := strings.Count(w.String(), "\n| "), 1+len(d.names()); got != want {
				t.Errorf("%d rows, want %d:\n%s", got, want, w.String())
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

// TestBounds checks that a bound is compared with the nearer end of the interval, and is
// out of reach where the server takes the time.
func TestBounds(t *testing.T) {
	t.Parallel()
	const write = "Write 1 message"
	measured := func(times map[string]float64) (samples []sample) {
		for round := range 10 {
			for variant, ns := range times {
				samples = append(samples, sample{Case: write, Variant: variant, Round: round, NsPerOp: ns})
			}
		}
		return samples
	}
	samples := measured(map[string]float64{rawName: 100, pgxName: 100, proceduresName: 107, stdlibPerCall: 111})
	verdicts := judge(samples)
	if len(verdicts) != 2 {
		t.Fatalf("%d verdicts, want 2", len(verdicts))
	}
	if v := verdicts[1]; v.holds() || v.outOfReach() { // 111 ÷ 107 < 1.1 < 111 ÷ 100
		t.Errorf("%s at %v: holds %t, out of reach %t", v.what, v.ratio, v.holds(), v.outOfReach())
	}
	if v := verdicts[0]; !v.holds() { // 1.07 ≤ 1.08
		t.Errorf("%s fails at %v", v.what, v.ratio)
	}
	if _, hold := boundsTable(samples); hold {
		t.Error("the table says that all hold")
	}
	slow := measured(map[string]float64{rawName: 100, pgxName: 100, proceduresName: 104, stdlibPerCall: 105})
	if v := judge(slow)[1]; v.holds() || !v.outOfReach() { // 105 ÷ 100 < 1.1
		t.Errorf("%s at %v: holds %t, out of reach %t", v.what, v.ratio, v.holds(), v.outOfReach())
	}
	if table, hold := boundsTable(slow); !hold || !strings.Contains(table, "raw pgconn gets 1.05") {
		t.Errorf("hold %t:\n%s", hold, table)
	}
}
