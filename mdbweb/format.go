package mdbweb

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// number returns a number with separators.
func number(n int64) string {
	if n < 0 {
		return "−" + number(-n)
	}
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// anyNumber is number for templates.
func anyNumber(v any) (string, error) {
	switch n := v.(type) {
	case int:
		return number(int64(n)), nil
	case int64:
		return number(n), nil
	case *int64:
		return number(*n), nil
	}
	return "", fmt.Errorf("mdbweb: a number of type %T", v)
}

// approx returns an estimate with two digits.
func approx(n float64) string {
	if n < 100 {
		return "≈ " + number(int64(math.Round(n)))
	}
	scale := math.Pow(10, math.Floor(math.Log10(n))-1)
	return "≈ " + number(int64(math.Round(n/scale)*scale))
}

// maxCount is how far the pages count.
const maxCount = 10_000

// A count is exact, or an estimate, or exact up to a limit.
type count struct {
	N         int64
	Estimated bool
	More      bool // there are more than N
}

func textOfCount(c count) string {
	switch {
	case c.Estimated:
		return approx(float64(c.N))
	case c.More:
		return number(c.N) + "+"
	}
	return number(c.N)
}

// age returns a duration in the largest unit of which there are several.
func age(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d d", d/(24*time.Hour))
}

// since returns how long ago a time was.
func since(now, t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return age(now.Sub(t))
}

// stamp returns a time in seconds, for people.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

// iso returns a time for machines, with all its digits.
func iso(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }

func byteSize(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, names := float64(n)/unit, "KMGT"
	for value >= unit && len(names) > 1 {
		value, names = value/unit, names[1:]
	}
	return fmt.Sprintf("%.1f %ciB", value, names[0])
}

func percent(share float64) string {
	switch p := 100 * share; {
	case p == 0:
		return "0 %"
	case p < 0.1:
		return "< 0.1 %"
	case p < 10:
		return fmt.Sprintf("%.1f %%", p)
	default:
		return fmt.Sprintf("%.0f %%", p)
	}
}

func plural[N int | int64](n N, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return number(int64(n)) + " " + what + "s"
}

// hues is the number of colours that tell streams, members and categories apart.
const hues = 8

// hue returns the number of a colour.
func hue(i int) int { return i % hues }
