package main

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/perf/benchmath"
)

const confidence = 0.95

// A row is what the samples of a rival in a case say.
type row struct {
	name                     string
	ns, ratio, allocs, bytes benchmath.Summary
}

// summarize compares each rival with the first, round by round: what a round has
// in common, such as a busy neighbour, is in both and drops out of the ratio.
func summarize(c benchCase, samples []sample) []row {
	perRound := func(rival string, of func(sample) float64) []float64 {
		var sums, counts []float64
		for _, s := range samples {
			if s.Case != c.name || s.Rival != rival {
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
	summary := func(values []float64) benchmath.Summary {
		thresholds := benchmath.DefaultThresholds
		return benchmath.AssumeNothing.Summary(benchmath.NewSample(values, &thresholds), confidence)
	}
	ns := func(s sample) float64 { return s.NsPerOp }
	reference := perRound(c.rivals[0].name, ns)
	rows := make([]row, len(c.rivals))
	for i, r := range c.rivals {
		times := perRound(r.name, ns)
		ratios := make([]float64, len(times))
		for i := range times {
			ratios[i] = times[i] / reference[i]
		}
		rows[i] = row{
			name:   r.name,
			ns:     summary(times),
			ratio:  summary(ratios),
			allocs: summary(perRound(r.name, func(s sample) float64 { return s.AllocsPerOp })),
			bytes:  summary(perRound(r.name, func(s sample) float64 { return s.BytesPerOp })),
		}
	}
	return rows
}

// report returns a case as a table in Markdown.
func report(c benchCase, rows []row) string {
	var w strings.Builder
	fmt.Fprintf(&w, "\n### %s\n\n", c.name)
	fmt.Fprintf(&w, "| | time | × %s (95 %% interval) | messages/s | allocations | bytes |\n|---|---:|---:|---:|---:|---:|\n", c.rivals[0].name)
	for i := range rows {
		r := &rows[i]
		rate := "–"
		if c.messages > 0 {
			rate = fmt.Sprintf("%.0f", float64(c.messages)*1e9/r.ns.Center)
		}
		fmt.Fprintf(&w, "| %s | %s | %.2f (%.2f–%.2f) | %s | %.0f | %.0f |\n",
			r.name, time.Duration(r.ns.Center).Round(100*time.Nanosecond), r.ratio.Center, r.ratio.Lo, r.ratio.Hi,
			rate, r.allocs.Center, r.bytes.Center)
	}
	return w.String()
}
