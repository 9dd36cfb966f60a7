package main

import (
	_ "embed"
	"math"
	"strings"
	"text/template"
)

const chartFile = "speed.svg"

//go:embed chart.svg.tmpl
var chartText string

var chartTemplate = template.Must(template.New("chart").Parse(chartText))

// The layout of the chart, in pixels. Labels are to the left of the bars, the legend is
// to the right of them.
const (
	barsLeft  = 240
	barsWidth = 376
	barHeight = 11
	barStep   = 15
	groupGap  = 14
	barsTop   = 74
)

type chartBar struct {
	Y, Width, TextX, TextY int
	Variant                int
	Text                   string
}

type chartGroup struct {
	Label string
	Y     int
	Bars  []chartBar
}

type chartTick struct{ X, Value int }

type chartLegend struct {
	Y, TextY int
	Line     bool // whether it is the line at 1× and no bar
	Variant  int
	Lines    []string
}

type chartData struct {
	Height, Frame, Bottom, Left, One int
	Groups                           []chartGroup
	Ticks                            []chartTick
	Legend                           []chartLegend
}

// chart returns an SVG of each variant's time as a multiple of raw pgconn's. It has a
// background of its own and follows the colour scheme of the reader.
func chart(rows []summaryRow) string {
	most := 1.0
	for _, row := range rows {
		for _, r := range row.ratios {
			most = max(most, r)
		}
	}
	most = math.Ceil(most)
	x := func(ratio float64) int { return int(math.Round(ratio / most * barsWidth)) }
	d := chartData{Left: barsLeft, One: barsLeft + x(1)}
	y := barsTop
	for _, row := range rows {
		group := chartGroup{Label: row.label, Y: y + len(row.ratios)*barStep/2 + 3}
		for i, r := range row.ratios {
			group.Bars = append(group.Bars, chartBar{
				Y: y, Width: x(r), TextX: barsLeft + x(r) + 5, TextY: y + barHeight - 1,
				Variant: i, Text: duration(row.ns[i]),
			})
			y += barStep
		}
		y += groupGap
		d.Groups = append(d.Groups, group)
	}
	d.Bottom = y - groupGap + 6
	d.Height = d.Bottom + 32
	d.Frame = d.Height - 1
	for value := 0; value <= int(most); value += max(1, int(most)/8) {
		d.Ticks = append(d.Ticks, chartTick{barsLeft + x(float64(value)), value})
	}
	y = barsTop + 4
	for i, v := range summaryVariants {
		// A long name takes two lines.
		lines := []string{v.label}
		if begin, end, ok := strings.Cut(v.label, " per call "); ok {
			lines = []string{begin, "per call " + end}
		}
		d.Legend = append(d.Legend, chartLegend{Y: y, TextY: y + 10, Variant: i, Lines: lines})
		y += 20 * len(lines)
	}
	d.Legend = append(d.Legend, chartLegend{Y: y, TextY: y + 10, Line: true, Lines: []string{"raw pgconn,", "same procedures"}})
	var w strings.Builder
	if err := chartTemplate.Execute(&w, d); err != nil {
		panic(err) // the template and the data are of this file
	}
	return w.String()
}
