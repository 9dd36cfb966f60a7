package main

import (
	_ "embed"
	"fmt"
	"math"
	"strings"
	"text/template"

	"github.com/messagedb-go/messagedb/bench/internal/figures"
)

const groupedChartFile = "writers.svg"

//go:embed grouped_chart.svg.tmpl
var groupedChartText string

var groupedChartTemplate = template.Must(template.New("writers").Parse(groupedChartText))

// chartWriters are the numbers of writers of the chart, and tableWriters those of the README's table.
var (
	chartWriters = []int{1, 2, 4, 8, 16, 32, 64, 128, 256}
	tableWriters = []int{1, 8, groupedWriters, 256}
)

// groupedVariants are the lines of the chart, and the columns of the README's table.
var groupedVariants = []struct{ name, label string }{
	{proceduresName, "mdb"},
	{groupedName, "mdb, WithGroupCommit"},
	{groupedDirectName, "the same, direct SQL"},
	{pgxName, "pgx"},
	{stdlibOnce, "database/sql"},
}

// A writersRow is what each of groupedVariants does with a number of writers.
type writersRow struct {
	writers    int
	rate, call []float64 // messages a second, and the median of a call in nanoseconds
}

// writersRows returns nil if a case is missing.
func writersRows(samples []sample) (rows []writersRow) {
	for _, n := range chartWriters {
		row := writersRow{writers: n}
		for _, v := range groupedVariants {
			times := perRound(samples, groupedCase(1, n, ""), v.name, nanoseconds)
			if len(times) == 0 {
				return nil
			}
			row.rate = append(row.rate, 1e9/figures.Summary(times).Center)
			call := figures.Summary(perRound(samples, groupedCase(1, n, ""), v.name, medianTime)).Center
			if n == 1 {
				call = figures.Summary(times).Center // calls of one writer are not timed each
			}
			row.call = append(row.call, call)
		}
		rows = append(rows, row)
	}
	return rows
}

// writersBlock returns the chart and the table of the README.
func writersBlock(at string, rows []writersRow) string {
	var w strings.Builder
	fmt.Fprintf(&w, "\n![Line chart: messages per second and median time of a call by the number of writers](%s)\n\n", at+groupedChartFile)
	w.WriteString("| Writers of one category: messages/s (median of a call) |")
	for _, v := range groupedVariants {
		w.WriteString(" " + v.label + " |")
	}
	fmt.Fprintf(&w, "\n|---|%s\n", strings.Repeat("---:|", len(groupedVariants)))
	for _, row := range rows {
		for _, n := range tableWriters {
			if n != row.writers {
				continue
			}
			fmt.Fprintf(&w, "| %d |", n)
			for i := range groupedVariants {
				fmt.Fprintf(&w, " %s (%s) |", thousands(fmt.Sprintf("%.0f", row.rate[i])), duration(row.call[i]))
			}
			w.WriteString("\n")
		}
	}
	return w.String()
}

// The layout of the chart, in pixels.
const (
	panelsTop, panelHeight = 86, 226
	panelWidth             = 250
	ratePanelX, callPanelX = 72, 400
	linesTop               = 100 // of the legend
)

type panelTick struct {
	At   int
	Text string
}

type panelLine struct {
	Variant int
	Points  string
}

type chartPanel struct {
	Title                    string
	Left, Right, Top, Bottom int
	X, Y                     []panelTick
	Lines                    []panelLine
}

type writersChartData struct {
	Panels []chartPanel
	Legend []chartLegend
}

// writersChart returns an SVG with both values of each variant by the number of writers. All axes are logarithmic.
func writersChart(rows []writersRow) string {
	d := writersChartData{Panels: []chartPanel{
		writersPanel("messages per second", ratePanelX, rows, func(r writersRow) []float64 { return r.rate }, func(v float64) string { return thousands(fmt.Sprintf("%.0f", v)) }),
		writersPanel("median time of a call", callPanelX, rows, func(r writersRow) []float64 { return r.call }, duration),
	}}
	for i, v := range groupedVariants {
		y := linesTop + 22*i
		d.Legend = append(d.Legend, chartLegend{Y: y, TextY: y + 4, Variant: i, Lines: []string{v.label}})
	}
	var w strings.Builder
	if err := groupedChartTemplate.Execute(&w, d); err != nil {
		panic(err) // the template and the data are of this file
	}
	return w.String()
}

func writersPanel(title string, left int, rows []writersRow, of func(writersRow) []float64, text func(float64) string) chartPanel {
	p := chartPanel{Title: title, Left: left, Right: left + panelWidth, Top: panelsTop, Bottom: panelsTop + panelHeight}
	least, most := math.Inf(1), 0.0
	for _, row := range rows {
		for _, v := range of(row) {
			least, most = min(least, v), max(most, v)
		}
	}
	low, high := math.Floor(math.Log10(least)), math.Ceil(math.Log10(most))
	high = max(high, low+1)
	x := func(writers int) int {
		return left + int(math.Round(math.Log2(float64(writers))/math.Log2(float64(rows[len(rows)-1].writers))*panelWidth))
	}
	y := func(v float64) int {
		return p.Bottom - int(math.Round((math.Log10(v)-low)/(high-low)*panelHeight))
	}
	for _, row := range rows {
		p.X = append(p.X, panelTick{x(row.writers), fmt.Sprint(row.writers)})
	}
	for e := low; e <= high; e++ {
		p.Y = append(p.Y, panelTick{y(math.Pow(10, e)), text(math.Pow(10, e))})
	}
	for i := range groupedVariants {
		var points []string
		for _, row := range rows {
			points = append(points, fmt.Sprintf("%d,%d", x(row.writers), y(of(row)[i])))
		}
		p.Lines = append(p.Lines, panelLine{i, strings.Join(points, " ")})
	}
	return p
}
