package figures

import (
	"testing"
	"time"
)

// TestRatio checks that a side that takes twice as long in each round has a ratio of 2,
// whatever the order of the rounds.
func TestRatio(t *testing.T) {
	t.Parallel()
	var a, b []float64
	for round := range 10 {
		base := float64(100 + 50*(round*7%10))
		a, b = append(a, base), append(b, 2*base)
	}
	if r := Ratio(b, a); r.Center != 2 || r.Lo != 2 || r.Hi != 2 {
		t.Errorf("ratio %v (%v–%v), want 2", r.Center, r.Lo, r.Hi)
	}
}

func TestDuration(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0:                        "–",
		45:                       "45.0 ns",
		46_312:                   "46.3 µs",
		313 * time.Microsecond:   "313 µs",
		13_990_000:               "14.0 ms",
		2_970_000:                "2.97 ms",
		1_250 * time.Millisecond: "1.25 s",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%d) = %q, want %q", d, got, want)
		}
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	sorted := []time.Duration{1, 2, 3, 4, 5}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 3, 1: 5} {
		if got := Quantile(sorted, q); got != want {
			t.Errorf("quantile %v is %d, want %d", q, got, want)
		}
	}
	if got := Quantile(nil, 0.5); got != 0 {
		t.Errorf("the quantile of nothing is %d", got)
	}
}

// TestRounded checks that numbers have three digits that count.
func TestRounded(t *testing.T) {
	t.Parallel()
	for value, want := range map[float64]string{7.9: "7", 999: "999", 1234: "1,230", 9_999: "10,000", 123_456: "123,000", 1_234_567: "1,230,000"} {
		if got := Rounded(value); got != want {
			t.Errorf("%v is %s, want %s", value, got, want)
		}
	}
}
