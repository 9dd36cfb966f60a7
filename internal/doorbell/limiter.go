package doorbell

import "time"

// A limiter is what rings may cost: so many a second, and as many in one burst.
type limiter struct {
	perSecond float64
	left      float64
	last      time.Time
}

func (l *limiter) refill(now time.Time) {
	if !l.last.IsZero() {
		l.left += now.Sub(l.last).Seconds() * l.perSecond
	} else {
		l.left = l.perSecond
	}
	// What was taken too much is made up for, or else it would not be a limit, but not
	// for ever: one burst must not keep rings off for minutes.
	l.left = min(max(l.left, -2*l.perSecond), l.perSecond)
	l.last = now
}

// take takes a ring, and reports whether that was more than is allowed.
func (l *limiter) take(now time.Time) (over bool) {
	l.refill(now)
	l.left--
	return l.left < 0
}

// reserve reports whether a category that rings so often fits, and sets a second of its
// rings aside.
func (l *limiter) reserve(now time.Time, perSecond float64) bool {
	l.refill(now)
	if perSecond < 1 {
		perSecond = 0 // of the silent ones there may be any number
	}
	if l.left-perSecond < l.perSecond/4 {
		return false
	}
	l.left -= perSecond
	return true
}
