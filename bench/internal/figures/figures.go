// Package figures contains what the benchmarks do with what they measure.
package figures

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/perf/benchmath"
)

const confidence = 0.95

// Summary returns the median of values and its 95 % interval.
func Summary(values []float64) benchmath.Summary {
	values = slices.Clone(values) // NewSample sorts its argument, and rounds are paired by their index
	thresholds := benchmath.DefaultThresholds
	return benchmath.AssumeNothing.Summary(benchmath.NewSample(values, &thresholds), confidence)
}

// Ratio divides round by round, so that whatever affects a whole round, such as a
// busy neighbour, cancels out.
func Ratio(values, reference []float64) benchmath.Summary {
	ratios := make([]float64, len(values))
	for i := range values {
		ratios[i] = values[i] / reference[i]
	}
	return Summary(ratios)
}

// Quantile returns the q-quantile of durations in ascending order, 0 if there are none.
func Quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(q*float64(len(sorted)-1))]
}

// Duration formats a time with three significant digits, and with a dash if it is 0.
func Duration(d time.Duration) string {
	if d == 0 {
		return "–"
	}
	unit, name := time.Nanosecond, "ns"
	switch {
	case d >= time.Second:
		unit, name = time.Second, "s"
	case d >= time.Millisecond:
		unit, name = time.Millisecond, "ms"
	case d >= time.Microsecond:
		unit, name = time.Microsecond, "µs"
	}
	value, decimals := float64(d)/float64(unit), 2
	switch {
	case value >= 100:
		decimals = 0
	case value >= 10:
		decimals = 1
	}
	return fmt.Sprintf("%.*f %s", decimals, value, name)
}
