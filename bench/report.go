package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/perf/benchmath"
)

const confidence = 0.95

func summary(values []float64) benchmath.Summary {
	values = slices.Clone(values) // as a sample sorts its own, and rounds are paired by their place
	thresholds := benchmath.DefaultThresholds
	return benchmath.AssumeNothing.Summary(benchmath.NewSample(values, &thresholds), confidence)
}

// ratio compares round by round: what a round has in common, such as a busy
// neighbour, is in both and drops out.
func ratio(times, reference []float64) benchmath.Summary {
	ratios := make([]float64, len(times))
	for i := range times {
		ratios[i] = times[i] / reference[i]
	}
	return summary(ratios)
}

func nanoseconds(s sample) float64 { return s.NsPerOp }

// perRound returns the means of a rival's turns.
func perRound(samples []sample, inCase, rival string, of func(sample) float64) []float64 {
	var sums, counts []float64
	for _, s := range samples {
		if s.Case != inCase || s.Rival != rival {
			continue
		}
		for len(sums) <= s.Round {
			sums, counts = append(sums, 0), append(counts, 0)
		}
		sums[s.Round] += of(s)
		counts[s.Round]++
	}
	for i := range sums {
		sums[i] /= counts[i]
	}
	return sums
}

// A row is what the samples of a rival in a case say.
type row struct {
	name                     string
	ns, ratio, allocs, bytes benchmath.Summary
	server                   time.Duration
	outside                  bool // in a process of its own
}

// summarize compares each rival with the first.
func summarize(c benchCase, samples []sample) []row {
	reference := perRound(samples, c.name, c.rivals[0].name, nanoseconds)
	rows := make([]row, len(c.rivals))
	for i, r := range c.rivals {
		times := perRound(samples, c.name, r.name, nanoseconds)
		rows[i] = row{
			name:    r.name,
			ns:      summary(times),
			ratio:   ratio(times, reference),
			allocs:  summary(perRound(samples, c.name, r.name, func(s sample) float64 { return s.AllocsPerOp })),
			bytes:   summary(perRound(samples, c.name, r.name, func(s sample) float64 { return s.BytesPerOp })),
			outside: r.op == nil,
		}
		// Its ticks are too coarse for a median.
		sum, n := 0.0, 0.0
		for _, s := range perRound(samples, c.name, r.name, func(s sample) float64 { return s.ServerNsPerOp }) {
			sum, n = sum+s, n+1
		}
		rows[i].server = time.Duration(sum / n)
	}
	return rows
}

// table returns a case in Markdown.
func table(c benchCase, rows []row) string {
	var w strings.Builder
	fmt.Fprintf(&w, "\n### %s\n\n", c.name)
	fmt.Fprintf(&w, "| | time | × (95 %% interval) | messages/s | allocations | bytes | server CPU |\n|---|---:|---:|---:|---:|---:|---:|\n")
	for i := range rows {
		r := &rows[i]
		rate, allocs, bytes := "–", "–", "–"
		if c.messages > 0 {
			rate = fmt.Sprintf("%.0f", float64(c.messages)*1e9/r.ns.Center)
		}
		if !r.outside {
			allocs, bytes = fmt.Sprintf("%.0f", r.allocs.Center), fmt.Sprintf("%.0f", r.bytes.Center)
		}
		fmt.Fprintf(&w, "| %s | %s | %.2f (%.2f–%.2f) | %s | %s | %s | %s |\n",
			r.name, duration(r.ns.Center), r.ratio.Center, r.ratio.Lo, r.ratio.Hi, rate, allocs, bytes, duration(float64(r.server)))
	}
	return w.String()
}

// duration returns three digits that count.
func duration(ns float64) string {
	d := time.Duration(ns)
	for unit := time.Second; unit >= 10; unit /= 10 {
		if d >= unit {
			return d.Round(unit / 100).String()
		}
	}
	return d.String()
}
