package consumer

import (
	"errors"
	"testing"
	"time"
)

// TestTimersEnd checks that no wait for a retry or a replay outlives the run.
func TestTimersEnd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, engineConfig{})
		r.begin(1)
		r.fails(1, 1, RetryAfter(errors.New("failed"), time.Hour))
		r.give(0, 0, "a", "b")
		r.wants("1", "2")
		r.stops()
		if s := r.stats(); s.waiting != 0 {
			t.Errorf("%d lanes wait", s.waiting)
		}
		for _, p := range r.parts {
			for l := range r.lanesOf(p) {
				if l.timer != nil {
					t.Error("a timer is running")
				}
			}
		}
		r.surrender([]partition{orders(0)})
		r.drop([]partition{orders(0)}, errDropped) // after the end
	})
}
