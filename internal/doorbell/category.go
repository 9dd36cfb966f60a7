package doorbell

import (
	"math"
	"time"

	"github.com/messagedb-go/messagedb/internal/names"
)

// A state is that of a category.
type state int

const (
	stateOff state = iota
	stateCooling
	stateArmed
)

// A category has the subscriptions to it and to its streams. The bell's mu guards its
// fields.
type category struct {
	name     string
	state    state
	epoch    int64 // counts how often it was armed
	sleepers map[*Sleeper]struct{}
	rate     rate // of what was written, as far as it was noticed

	wanted    bool // to be armed
	refused   int  // times in a row
	nextTry   time.Time
	pollDelay time.Duration // a strategy's, beyond which there is no point in trying often

	unrung   time.Time // when a fallback read first found what nobody has rung for
	offUntil time.Time
}

// ring wakes the sleepers that a message in the stream is for.
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

// A rate is how much has happened in about the last second.
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
