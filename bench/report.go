package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/messagedb-go/messagedb/bench/internal/figures"
)

// writeReport writes report.md and the chart, and updates the README.
func writeReport(o options, r results) error {
	if o.out == "" {
		return fmt.Errorf("a report needs a folder: -out")
	}
	var w strings.Builder
	w.WriteString(heading(r))
	for _, c := range cases(r.samples) {
		w.WriteString(table(c))
	}
	bounds, _ := boundsTable(r.samples)
	w.WriteString(bounds)
	if err := os.WriteFile(filepath.Join(o.out, "report.md"), []byte(w.String()), 0o600); err != nil {
		return err
	}
	rows, writers := summaryRows(r.samples), writersRows(r.samples)
	if rows == nil || writers == nil { // some of the cases were left out
		return nil
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(o.out, chartFile), []byte(chart(rows)), 0o600),
		os.WriteFile(filepath.Join(o.out, groupedChartFile), []byte(writersChart(writers)), 0o600),
	); err != nil {
		return err
	}
	if o.readme == "" {
		return nil
	}
	return figures.Put(o.readme, readmeBegin, readmeEnd, readmeBlock(filepath.Base(o.out), r, rows, writers))
}

func heading(r results) string {
	return fmt.Sprintf(`# Benchmarks

%s; %s, server and clients on this machine; %s on %s; PostgreSQL %s with fsync, over TCP; commit %s.

A store of %s messages; %s rounds of 2 × %s for each variant. Times are medians. The ratio divides the times of each round by those of the first row.

- **%s** sends the statements of Message DB's procedures on bare connections and does not decode the rows. A client that calls the same procedures does at least this work, so a smaller time is noise. Direct SQL and pgbench do something else and can be faster.
- **%s** calls Message DB's procedures; **%s** is the same with `+"`WithDirectSQL`"+`.
- **%s** is a program of its own on the same pool as mdb.
- **database/sql** prepares its statements once, or in each call, as gomdb does.
- **pgbench** is PostgreSQL's own client, written in C. It decodes nothing, and its allocations are unknown.

Server settings: %s
`, date(r), machine(r), r.fact("go"), r.fact("goos"), r.fact("postgresql"), r.fact("commit"),
		thousands(r.fact("store-messages")), r.fact("rounds"), r.fact("turn"),
		rawName, proceduresName, directName, pgxName, r.fact("settings"))
}

func machine(r results) string { return r.fact("cpu") + ", " + r.fact("cpus") + " CPUs" }

func date(r results) string {
	d, err := time.Parse(time.DateOnly, r.fact("date"))
	if err != nil {
		return r.fact("date")
	}
	return d.Format("2 January 2006")
}

// thousands separates the digits of a number by commas.
func thousands(digits string) string {
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// cases splits samples by their cases.
func cases(samples []sample) (split [][]sample) {
	for _, s := range samples {
		i := slices.IndexFunc(split, func(c []sample) bool { return c[0].Case == s.Case })
		if i < 0 {
			i, split = len(split), append(split, nil)
		}
		split[i] = append(split[i], s)
	}
	return split
}

// variants returns the names of the variants in their order.
func variants(samples []sample) (names []string) {
	for _, s := range samples {
		if !slices.Contains(names, s.Variant) {
			names = append(names, s.Variant)
		}
	}
	return names
}

func nanoseconds(s sample) float64 { return s.NsPerOp }

func medianTime(s sample) float64 { return s.MedianNs }

// perRound returns the mean of a variant's turns for each round.
func perRound(samples []sample, inCase, variant string, of func(sample) float64) []float64 {
	var sums, counts []float64
	for _, s := range samples {
		if s.Case != inCase || s.Variant != variant {
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

// table returns a case's samples in Markdown.
func table(samples []sample) string {
	first := samples[0]
	names := variants(samples)
	var w strings.Builder
	fmt.Fprintf(&w, "\n### %s\n\n", first.Case)
	fmt.Fprintf(&w, "| | time | ratio (95 %% interval) | messages/s | median of a call | allocations | bytes | server CPU |\n|---|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, name := range names {
		values := func(of func(sample) float64) []float64 { return perRound(samples, first.Case, name, of) }
		median := func(of func(sample) float64) float64 { return figures.Summary(values(of)).Center }
		ns := median(nanoseconds)
		ratio := figures.Ratio(values(nanoseconds), perRound(samples, first.Case, names[0], nanoseconds))
		rate, call, allocs, bytes := "–", "–", "–", "–"
		if m := median(medianTime); m > 0 {
			call = duration(m)
		}
		if first.Messages > 0 {
			rate = fmt.Sprintf("%.0f", float64(first.Messages)*1e9/ns)
		}
		if outside := slices.ContainsFunc(samples, func(s sample) bool { return s.Variant == name && s.Outside }); !outside {
			allocs = fmt.Sprintf("%.0f", median(func(s sample) float64 { return s.AllocsPerOp }))
			bytes = fmt.Sprintf("%.0f", median(func(s sample) float64 { return s.BytesPerOp }))
		}
		// Ticks of 10 ms are too coarse for a median.
		server := values(func(s sample) float64 { return s.ServerNsPerOp })
		total := 0.0
		for _, v := range server {
			total += v
		}
		fmt.Fprintf(&w, "| %s | %s | %.2f (%.2f–%.2f) | %s | %s | %s | %s | %s |\n", name, duration(ns),
			ratio.Center, ratio.Lo, ratio.Hi, rate, call, allocs, bytes, duration(total/float64(len(server))))
	}
	return w.String()
}

func duration(ns float64) string { return figures.Duration(time.Duration(ns)) }
