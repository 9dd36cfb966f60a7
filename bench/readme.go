package main

import (
	"fmt"
	"strings"

	"github.com/messagedb-go/messagedb/bench/internal/figures"
)

// summaryCases are the cases of the README, with the names that they have there.
var summaryCases = []struct{ name, label string }{
	{"Write 1 message", "Write 1 message"},
	{"Write 100 messages to one stream, atomically", "Write 100 messages, atomically"},
	{"Read an empty page of a category", "Read an empty page"},
	{"Read a page of 10 messages of a category", "Read 10 messages"},
	{"Read a page of 1,000 messages of a category", "Read 1,000 messages"},
	{"Read the last message of a stream", "Read the last message"},
}

// summaryVariants are the columns of the README's table, and the bars of its chart.
var summaryVariants = []struct{ name, label string }{
	{proceduresName, "mdb"},
	{directName, "mdb, direct SQL"},
	{pgxName, "pgx"},
	{stdlibPerCall, "database/sql, prepares per call (as gomdb)"},
}

// A summaryRow is a case of the README: the median times of summaryVariants, and their
// ratios to raw pgconn's.
type summaryRow struct {
	label  string
	ns     []float64
	ratios []float64
	raw    float64
}

// summaryRows returns nil if a case is missing.
func summaryRows(samples []sample) (rows []summaryRow) {
	for _, c := range summaryCases {
		raw := perRound(samples, c.name, rawName, nanoseconds)
		if len(raw) == 0 {
			return nil
		}
		row := summaryRow{label: c.label, raw: figures.Summary(raw).Center}
		for _, v := range summaryVariants {
			times := perRound(samples, c.name, v.name, nanoseconds)
			if len(times) != len(raw) {
				return nil
			}
			row.ns = append(row.ns, figures.Summary(times).Center)
			row.ratios = append(row.ratios, figures.Ratio(times, raw).Center)
		}
		rows = append(rows, row)
	}
	return rows
}

// readmeBlock returns the charts and the tables, for results in a folder of bench/results.
func readmeBlock(folder string, r results, rows []summaryRow, writers []writersRow) string {
	at := "bench/results/" + folder + "/"
	var w strings.Builder
	fmt.Fprintf(&w, "![Bar chart of the table below: time per call relative to raw pgconn](%s)\n\n", at+chartFile)
	w.WriteString("| Median time per call |")
	for _, v := range summaryVariants {
		w.WriteString(" " + v.label + " |")
	}
	fmt.Fprintf(&w, " %s |\n|---|%s\n", rawName, strings.Repeat("---:|", len(summaryVariants)+1))
	for _, row := range rows {
		fmt.Fprintf(&w, "| %s |", row.label)
		for _, ns := range append(row.ns, row.raw) {
			fmt.Fprintf(&w, " %s |", duration(ns))
		}
		w.WriteString("\n")
	}
	w.WriteString(writersBlock(at, writers))
	fmt.Fprintf(&w, `
Raw pgconn sends the same statements as mdb and does not decode the rows. Direct SQL sends other statements, so it can be faster. Small differences are noise; the report contains the intervals.
Measured on %s with PostgreSQL %s, server and client on one machine (%s).
[Full report](%sreport.md), including the cases in which mdb is slower · [how times grow with the store](%[4]sgrowth.md)
`, date(r), r.fact("postgresql"), machine(r), at)
	return w.String()
}

// The lines of the README between which the block stands.
const (
	readmeBegin = "<!-- bench-report puts the table here -->\n"
	readmeEnd   = "<!-- end of bench-report -->\n"
)
