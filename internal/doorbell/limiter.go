package doorbell

import "time"

// A limiter is a token bucket for rings: perSecond tokens a second, and as many in a burst.
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
	// Tokens may be taken in advance, and are then paid back, or it would not be a limit.
	// But the debt is limited: one burst must not turn rings off for minutes.
	l.left = min(max(l.left, -2*l.perSecond), l.perSecond)
	l.last = now
}

// take takes a token for a ring, and reports whether there was none left.
func (l *limiter) take(now time.Time) (over bool) {
	l.refill(now)
	l.left--
	return l.left < 0
}

// reserve reports whether a category with this rate of rings fits, and takes the tokens of
// one second for it if so. own is the rate of all categories of the store.
func (l *limiter) reserve(now time.Time, perSecond, own float64) bool {
	l.refill(now)
	if perSecond < 1 {
		perSecond = 0 // any number of silent categories fits
		if own <= l.perSecond/2 {
			return true // even if the categories of others take all tokens
		}
	}
	if l.left-perSecond < l.perSecond/4 {
		return false
	}
	l.left -= perSecond
	return true
}
