package doorbell

import (
	"math"
	"time"
	"unicode/utf8"

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
	shard    *shard // where it was last known to be
	placed   bool   // it is known to be there; if not, it is off
	state    state
	epoch    int64 // counts how often it was armed
	sleepers map[*Sleeper]struct{}
	rate     rate      // of the writes that were noticed
	used     time.Time // when a write was noticed or its key was shared

	wanted    bool // the goroutine is to arm it
	refused   int  // how many attempts to arm it in a row a writer has prevented
	nextTry   time.Time
	pollDelay time.Duration // of a strategy; the longest time between attempts to arm it

	unrung   time.Time // when a fallback read first found messages without a ring
	disabled int       // how many times in a row it was disabled, without a ring in between
	crowded  bool      // it is off because there is no room for its key
	offUntil time.Time // when it may become cooling after a failure, or if it is crowded
}

// place says on which shard the category is.
func (c *category) place(s *shard) {
	if c.placed && c.shard == s {
		return
	}
	if c.shard != s {
		if c.shard != nil {
			c.shard.wake() // to give its key up
		}
		c.shard, c.disabled, c.offUntil, c.unrung = s, 0, time.Time{}, time.Time{}
	}
	c.placed = true
	c.begin()
}

// unplace says that it is not known on which shard the category is.
func (c *category) unplace() {
	if !c.placed {
		return
	}
	c.shard.wake() // to give its key up
	c.placed = false
	c.begin()
}

// begin sets the state that the category has before its key is shared.
func (c *category) begin() {
	c.state, c.wanted = stateOff, false
	if c.crowded { // there may be more room now
		c.crowded, c.offUntil = false, time.Time{}
	}
	if c.placed && c.shard.listening && time.Now().After(c.offUntil) {
		c.state = stateCooling
	}
	c.ringAll()
}

// turnOff makes the category off for the time, and its sleepers read, because they would
// wait for rings that no longer come.
func (c *category) turnOff(until time.Time, crowded bool) {
	if c.state == stateArmed {
		c.ringAll()
	}
	c.state, c.wanted, c.crowded, c.offUntil = stateOff, false, crowded, until
}

// rang notices rings, or parts of one that may have been for other categories too.
func (c *category) rang(now time.Time, n float64) {
	c.unrung = time.Time{}
	c.rate.add(now, n)
}

// ring wakes the sleepers of subscriptions that read the stream. Only if the server stores
// text as UTF-8, its hash of every name is ours.
func (c *category) ring(stream string, sameHash bool) {
	sameHash = sameHash || ascii(stream)
	for s := range c.sleepers {
		switch in := s.interest; {
		case in.Stream != "" && in.Stream != stream:
		case in.Size != 0 && sameHash && names.Member(stream, in.Size) != in.Member:
		case in.Wants != nil && sameHash && !in.Wants(stream):
		default:
			s.ring()
		}
	}
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
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
