package main

import (
	"strings"
	"testing"
	"time"
)

// TestOnce runs every rival of every case, so that none rots.
func TestOnce(t *testing.T) {
	e, err := newEnvironment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	for _, c := range e.cases() {
		t.Run(c.name, func(t *testing.T) {
			samples, err := measure(t.Context(), c, 1, time.Nanosecond)
			if err != nil {
				t.Fatal(err)
			}
			if want := 2 * len(e.clients); len(samples) != want {
				t.Errorf("%d samples, want %d", len(samples), want)
			}
			table := report(c, summarize(c, samples))
			for _, name := range e.names {
				if !strings.Contains(table, name) {
					t.Errorf("the table lacks %s:\n%s", name, table)
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
		base := float64(100 + 50*round)
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
