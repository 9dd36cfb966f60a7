package doorbell

import (
	"math"
	"time"

	"github.com/messagedb-go/messagedb/internal/names"
)

// A state is the state of a category, as the package documentation describes.
type state int

const (
	stateOff state = iota
	stateCooling
	stateArmed
)

// A category has the sleepers of subscriptions to it and to its streams. The bell's mu
// guards its fields.
type category struct {
	name     string
	state    state
	epoch    int64 // counts how often it was armed
	sleepers map[*Sleeper]struct{}
	rate     rate // of the writes that were noticed

	wanted    bool // the goroutine is to arm it
	refused   int  // how many attempts to arm it in a row a writer has prevented
	nextTry   time.Time
	pollDelay time.Duration // of a strategy; the longest time between attempts to arm it

	unrung   time.Time // when a fallback read first found messages without a ring
	offUntil time.Time // when it may become cooling after a failure
}

// ring wakes the sleepers of subscriptions that read the stream.
func (c *category) ring(stream string) {
	for s := range c.sleepers {
		switch in := s.interest; {
		case in.Stream != "" && in.Stream != stream:
		case in.Size != 0 && names.Member(stream, in.Size) != in.Member:
		default:
			s.ring()
		}
	}
}

func (c *category) ringAll() {
	for s := range c.sleepers {
		s.ring()
	}
}

// A rate is about the number of events in the last second. It decays exponentially.
type rate struct {
	value float64
	last  time.Time
}

func (r *rate) at(now time.Time) float64 {
	return r.value * math.Exp(-now.Sub(r.last).Seconds())
}

func (r *rate) add(now time.Time, n float64) {
	r.value, r.last = r.at(now)+n, now
}
