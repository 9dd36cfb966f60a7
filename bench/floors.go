package main

import (
	"fmt"
	"strings"

	"golang.org/x/perf/benchmath"
)

// A floorRule is what has to hold: so many times what another rival takes, in the
// same case and run.
type floorRule struct {
	what       string
	inCase     string
	slow, fast string  // rivals, whose times are divided
	least      float64 // of slow ÷ fast, or
	most       float64 // of it
}

var floorRules = []floorRule{
	{what: "a page of 1,000 by procedures against database/sql on pgx", inCase: "Read a page of 1,000 messages of a category", slow: stdlibOnce, fast: proceduresName, least: 1.4},
	{what: "a page of 1,000 by procedures, of the floor's time", inCase: "Read a page of 1,000 messages of a category", slow: proceduresName, fast: floorName, most: 1.15},
	{what: "an empty page by direct SQL against database/sql on pgx with a Prepare per call", inCase: "Read an empty page of a category", slow: stdlibPerCall, fast: directName, least: 1.8},
	{what: "the same against lib/pq", inCase: "Read an empty page of a category", slow: pqPerCall, fast: directName, least: 1.8},
	{what: "a page of 10 by direct SQL against database/sql on pgx with a Prepare per call", inCase: "Read a page of 10 messages of a category", slow: stdlibPerCall, fast: directName, least: 1.4},
	{what: "the same against lib/pq", inCase: "Read a page of 10 messages of a category", slow: pqPerCall, fast: directName, least: 1.4},
	{what: "one write, of raw pgx's time", inCase: "Write 1 message", slow: proceduresName, fast: pgxName, most: 1.08},
	{what: "one write against database/sql on pgx with a Prepare per call", inCase: "Write 1 message", slow: stdlibPerCall, fast: proceduresName, least: 1.1},
	{what: "a batch of 100 by direct SQL against single writes", inCase: "Write 100 messages to one stream, atomically", slow: singlesName, fast: directName, least: 12},
	{what: "a batch of 100 by procedures against single writes", inCase: "Write 100 messages to one stream, atomically", slow: singlesName, fast: proceduresName, least: 3},
	{what: "a group member of 16 by direct SQL against the procedures of Message DB's own SQL", inCase: "The same on Message DB's own SQL", slow: proceduresName, fast: directName, least: 2.5},
	{what: "16 workers of one subscription against 16 members on Message DB's own SQL", inCase: spreadOfficial, slow: membersName, fast: partitionName, least: 8},
}

const (
	membersName   = "16 members of a consumer group"
	partitionName = "WithWorkers(16)"
)

// A verdict is a rule with what was found.
type verdict struct {
	floorRule
	ratio benchmath.Summary
	// reach is what the floor itself gets, which does as little as a client can; 0 if
	// it was not measured.
	reach float64
}

// outOfReach says that no client can hold the rule, because the time is the server's.
func (v verdict) outOfReach() bool {
	return v.least != 0 && v.reach != 0 && v.reach < v.least
}

// holds goes by the bound of the interval that is kinder: noise is no failure.
func (v verdict) holds() bool {
	if v.most != 0 {
		return v.ratio.Lo <= v.most
	}
	return v.ratio.Hi >= v.least
}

// wanted returns the floor, and the target 10 % beyond.
func (v verdict) wanted() (floor, target string) {
	if v.most != 0 {
		return fmt.Sprintf("≤ %.2f", v.most), fmt.Sprintf("≤ %.2f", 1+(v.most-1)*0.9)
	}
	return fmt.Sprintf("≥ %.2f", v.least), fmt.Sprintf("≥ %.2f", v.least*1.1)
}

// judge returns what the samples say of the rules whose cases were run.
func judge(samples []sample) []verdict {
	var verdicts []verdict
	for _, rule := range floorRules {
		slow := perRound(samples, rule.inCase, rule.slow, nanoseconds)
		fast := perRound(samples, rule.inCase, rule.fast, nanoseconds)
		if len(slow) == 0 || len(slow) != len(fast) {
			continue
		}
		v := verdict{floorRule: rule, ratio: ratio(slow, fast)}
		if floor := perRound(samples, rule.inCase, floorName, nanoseconds); len(floor) == len(slow) {
			v.reach = ratio(slow, floor).Center
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// allocationsPerRow compares two pages. As with times, least is the bound that is
// kinder.
func allocationsPerRow(samples []sample, rival string) (n, least float64, ok bool) {
	allocs := func(s sample) float64 { return s.AllocsPerOp }
	small := perRound(samples, "Read a page of 10 messages of a category", rival, allocs)
	large := perRound(samples, "Read a page of 1,000 messages of a category", rival, allocs)
	if len(small) == 0 || len(large) == 0 {
		return 0, 0, false
	}
	s, l := summary(small), summary(large)
	return (l.Center - s.Center) / 990, (l.Lo - s.Hi) / 990, true
}

// floorsTable tells how far it got, and whether all hold.
func floorsTable(samples []sample) (table string, hold bool) {
	var w strings.Builder
	hold = true
	w.WriteString("\n## Floors\n\n| floor | wanted | target | × (95 % interval) | |\n|---|---:|---:|---:|---|\n")
	mark := func(ok bool) string {
		if ok {
			return "holds"
		}
		hold = false
		return "**fails**"
	}
	for _, v := range judge(samples) {
		floor, target := v.wanted()
		var result string
		if !v.holds() && v.outOfReach() {
			result = fmt.Sprintf("out of any client's reach: the floor itself gets %.2f", v.reach)
		} else {
			result = mark(v.holds())
		}
		fmt.Fprintf(&w, "| %s | %s | %s | %.2f (%.2f–%.2f) | %s |\n", v.what, floor, target, v.ratio.Center, v.ratio.Lo, v.ratio.Hi, result)
	}
	for _, rival := range []string{proceduresName, directName} {
		if n, least, ok := allocationsPerRow(samples, rival); ok {
			fmt.Fprintf(&w, "| allocations per row, %s, from 10 to 1,000 rows | 0 | 0 | %.3f | %s |\n", rival, n, mark(least < 0.01))
		}
	}
	return w.String(), hold
}
