package main

import (
	"bytes"
	"math"
	"os"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

const width, height = 8 * vg.Inch, 5 * vg.Inch

// newPlot returns one whose letters are all as wide, because the widths are measured
// here, and whoever looks at the chart may have other fonts.
func newPlot() *plot.Plot {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Mono"}
	return plot.New()
}

func savePlot(p *plot.Plot, w, h vg.Length, file string) error {
	image, err := p.WriterTo(w, h, "svg")
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if _, err := image.WriteTo(&b); err != nil {
		return err
	}
	text := bytes.ReplaceAll(b.Bytes(), []byte("font-family:Liberation Mono;"), []byte("font-family:Liberation Mono,monospace;"))
	return os.WriteFile(file, text, 0o600)
}

// ratiosChart shows the times of this package's two ways, of the floor's.
func ratiosChart(file string, samples []sample) error {
	var names []string
	for _, s := range samples {
		if !slices.Contains(names, s.Case) {
			names = append(names, s.Case)
		}
	}
	shown := []string{proceduresName, directName, pgxName, stdlibPerCall}
	p := newPlot()
	p.Title.Text = "Time as a multiple of the floor's"
	p.X.Label.Text = "×"
	p.Legend.Top = true
	var kept []string
	values := make([]plotter.Values, len(shown))
	for _, name := range slices.Backward(names) {
		reference := perRound(samples, name, floorName, nanoseconds)
		if len(reference) == 0 {
			continue
		}
		kept = append(kept, name)
		for i, rival := range shown {
			times, value := perRound(samples, name, rival, nanoseconds), 0.0
			if len(times) == len(reference) {
				value = ratio(times, reference).Center
			}
			values[i] = append(values[i], value)
		}
	}
	if len(kept) == 0 {
		return nil
	}
	const bar = 4
	for i := range shown {
		bars, err := plotter.NewBarChart(values[i], vg.Points(bar))
		if err != nil {
			return err
		}
		bars.Horizontal = true
		bars.LineStyle.Width = 0
		bars.Color = plotutil.Color(i)
		bars.Offset = vg.Points(bar * (float64(len(shown))/2 - float64(i)))
		p.Add(bars)
		p.Legend.Add(shown[i], bars)
	}
	p.NominalY(kept...)
	p.X.Max *= 1.3 // room for the legend
	return savePlot(p, 13*vg.Inch, vg.Length(len(kept))*0.4*vg.Inch+vg.Inch, file)
}

// A curve is a line of a chart.
type curve struct {
	name   string
	points plotter.XYs
}

// growthChart draws times in milliseconds, both axes by powers of ten.
func growthChart(file, title, x string, curves []curve) error {
	p := newPlot()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, "ms"
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = plot.LogTicks{Prec: -1}, plot.LogTicks{Prec: -1}
	p.Legend.Top, p.Legend.Left = true, true
	lowest, highest := math.Inf(1), math.Inf(-1)
	for i, c := range curves {
		line, points, err := plotter.NewLinePoints(c.points)
		if err != nil {
			return err
		}
		line.Color, points.Color = plotutil.Color(i), plotutil.Color(i)
		p.Add(line, points)
		p.Legend.Add(c.name, line)
		for _, point := range c.points {
			lowest, highest = min(lowest, point.Y), max(highest, point.Y)
		}
	}
	p.Add(plotter.NewGrid())
	// Room for the legend.
	p.Y.Min, p.Y.Max = math.Pow(10, math.Floor(math.Log10(lowest))), math.Pow(10, math.Ceil(math.Log10(highest))+1)
	return savePlot(p, width, height, file)
}
