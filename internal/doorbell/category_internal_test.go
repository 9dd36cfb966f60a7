package doorbell

import (
	"math"
	"testing"
	"time"
)

// TestRate checks that a rate decays with time, and that a steady pace keeps it.
func TestRate(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var r rate
	for range 10 {
		r.add(now, 1)
	}
	for _, test := range []struct {
		after time.Duration
		want  float64
	}{{0, 10}, {time.Second, 10 / math.E}, {time.Hour, 0}} {
		if got := r.at(now.Add(test.after)); math.Abs(got-test.want) > 1e-6 {
			t.Errorf("rate after %v: got %v, want %v", test.after, got, test.want)
		}
	}
	// Events at a steady pace give their number per second.
	for range 10_000 {
		now = now.Add(10 * time.Millisecond)
		r.add(now, 1)
	}
	if got := r.at(now); got < 99 || got > 102 {
		t.Errorf("rate at 100 events a second: got %v, want 99 to 102", got)
	}
}
