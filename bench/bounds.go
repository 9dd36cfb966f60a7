package main

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/perf/benchmath"

	"github.com/messagedb-go/messagedb/bench/internal/figures"
)

// A bound is a promise about the ratio of two variants' times in a case.
type bound struct {
	what       string
	inCase     string
	slow, fast string               // the variants whose times are divided
	least      float64              // the smallest slow ÷ fast that is allowed, or
	most       float64              // the largest
	of         func(sample) float64 // what is divided; nil: the time per op
}

var bounds = []bound{
	{what: "a page of 1,000, procedures ÷ raw pgconn", inCase: "Read a page of 1,000 messages of a category", slow: proceduresName, fast: rawName, most: 1.15},
	{what: "an empty page, database/sql on pgx, prepares per call ÷ direct SQL", inCase: "Read an empty page of a category", slow: stdlibPerCall, fast: directName, least: 1.8},
	{what: "an empty page, database/sql on lib/pq, prepares per call ÷ direct SQL", inCase: "Read an empty page of a category", slow: pqPerCall, fast: directName, least: 1.8},
	{what: "a page of 10, database/sql on pgx, prepares per call ÷ direct SQL", inCase: "Read a page of 10 messages of a category", slow: stdlibPerCall, fast: directName, least: 1.4},
	{what: "a page of 10, database/sql on lib/pq, prepares per call ÷ direct SQL", inCase: "Read a page of 10 messages of a category", slow: pqPerCall, fast: directName, least: 1.4},
	{what: "one write, procedures ÷ pgx", inCase: "Write 1 message", slow: proceduresName, fast: pgxName, most: 1.08},
	{what: "one write, database/sql on pgx, prepares per call ÷ procedures", inCase: "Write 1 message", slow: stdlibPerCall, fast: proceduresName, least: 1.1},
	{what: "a batch of 100, one by one ÷ direct SQL", inCase: "Write 100 messages to one stream, atomically", slow: singlesName, fast: directName, least: 12},
	{what: "a batch of 100, one by one ÷ procedures", inCase: "Write 100 messages to one stream, atomically", slow: singlesName, fast: proceduresName, least: 3},
	{what: "a member of a group of 16 on Message DB's own SQL, procedures ÷ direct SQL", inCase: memberOfficial, slow: proceduresName, fast: directName, least: 2.5},
	{what: "16 members ÷ 16 workers of one subscription, on Message DB's own SQL", inCase: spreadOfficial, slow: membersName, fast: workersName, least: 8},
}

const (
	membersName = "16 members of a consumer group"
	workersName = "WithWorkers(16)"
)

// A verdict is a bound with what was measured.
type verdict struct {
	bound
	ratio benchmath.Summary
	// reach is the ratio that raw pgconn gets, which does as little as a client can; 0
	// if it was not measured.
	reach float64
}

// outOfReach reports whether no client can keep the bound, because the server takes the
// time.
func (v verdict) outOfReach() bool {
	return v.least != 0 && v.reach != 0 && v.reach < v.least
}

// holds uses the end of the interval that is nearer to the bound, so that noise is no
// failure.
func (v verdict) holds() bool {
	if v.most != 0 {
		return v.ratio.Lo <= v.most
	}
	return v.ratio.Hi >= v.least
}

// required returns the bound, and a target 10 % beyond it.
func (v verdict) required() (bound, target string) {
	if v.most != 0 {
		return fmt.Sprintf("≤ %.2f", v.most), fmt.Sprintf("≤ %.2f", 1+(v.most-1)*0.9)
	}
	return fmt.Sprintf("≥ %.2f", v.least), fmt.Sprintf("≥ %.2f", v.least*1.1)
}

// judge returns a verdict for each bound whose case was run.
func judge(samples []sample) []verdict {
	var verdicts []verdict
	for _, b := range slices.Concat(bounds, allBounds, groupedBounds, catchUpBounds) {
		of := b.of
		if of == nil {
			of = nanoseconds
		}
		slow := perRound(samples, b.inCase, b.slow, of)
		fast := perRound(samples, b.inCase, b.fast, of)
		if len(slow) == 0 || len(slow) != len(fast) {
			continue
		}
		v := verdict{bound: b, ratio: figures.Ratio(slow, fast)}
		if raw := perRound(samples, b.inCase, rawName, of); len(raw) == len(slow) {
			v.reach = figures.Ratio(slow, raw).Center
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// allocationsPerRow compares two pages. least is the lower end of the interval.
func allocationsPerRow(samples []sample, variant string) (n, least float64, ok bool) {
	allocs := func(s sample) float64 { return s.AllocsPerOp }
	small := perRound(samples, "Read a page of 10 messages of a category", variant, allocs)
	large := perRound(samples, "Read a page of 1,000 messages of a category", variant, allocs)
	if len(small) == 0 || len(large) == 0 {
		return 0, 0, false
	}
	s, l := figures.Summary(small), figures.Summary(large)
	return (l.Center - s.Center) / 990, (l.Lo - s.Hi) / 990, true
}

// boundsTable returns the verdicts in Markdown, and whether all bounds hold.
func boundsTable(samples []sample) (table string, hold bool) {
	var w strings.Builder
	hold = true
	w.WriteString("\n## Bounds\n\n| ratio of times | required | target | measured (95 % interval) | |\n|---|---:|---:|---:|---|\n")
	mark := func(ok bool) string {
		if ok {
			return "holds"
		}
		hold = false
		return "**does not hold**"
	}
	for _, v := range judge(samples) {
		required, target := v.required()
		var result string
		if !v.holds() && v.outOfReach() {
			result = fmt.Sprintf("no client can reach it: raw pgconn gets %.2f", v.reach)
		} else {
			result = mark(v.holds())
		}
		fmt.Fprintf(&w, "| %s | %s | %s | %.2f (%.2f–%.2f) | %s |\n", v.what, required, target, v.ratio.Center, v.ratio.Lo, v.ratio.Hi, result)
	}
	for _, variant := range []string{proceduresName, directName} {
		if n, least, ok := allocationsPerRow(samples, variant); ok {
			fmt.Fprintf(&w, "| allocations per row, from 10 to 1,000 rows, %s | 0 | 0 | %.3f | %s |\n", variant, n, mark(least < 0.01))
		}
	}
	return w.String(), hold
}
