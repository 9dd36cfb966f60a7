package doorbell

import (
	"slices"
	"time"
)

// The keys of the categories are entries of the server's lock table, which all databases
// and all sessions share. When it is full, anybody's statement can fail. So all bells
// together share at most a quarter of what the others leave, and each looks before it
// takes more.

const (
	lookInterval = 20 * time.Second // between looks while nothing is armed
	freshFor     = 10 * time.Second // how long a look allows to share more keys
	smallStep    = 8
)

// A lockTable is what a look finds in the server's lock table.
type lockTable struct {
	capacity int // the number of entries for which the server has certainly room
	foreign  int // the entries that are no keys of bells
	others   int // the keys of other bells
	bells    int // the number of other bells that have keys
}

// all returns how many keys all bells may have together.
func (t lockTable) all() int { return (t.capacity - t.foreign) / 4 }

// bound returns how many keys this bell may have: what the others leave, and its fair part
// even if they leave less. They then give up some when they look the next time.
func (t lockTable) bound() int { return max(t.all()/(t.bells+1), t.all()-t.others, 0) }

// A room says for how many keys there is room. Only the shard's goroutine uses it.
type room struct {
	table  lockTable
	looked time.Time
	step   int // the number of keys that may be shared before the next look

	// The lock table was full, in spite of all looks. Then ceiling is a bound too, and grows
	// at the given time.
	wasFull bool
	ceiling int
	grows   time.Time

	warned bool // that there are too many categories
}

// update takes the result of a look, while keys are shared. The ceiling grows at most once
// in every period.
//
// Bells that look at the same time see the same room, so each takes only a part of it
// before it looks again.
func (r *room) update(table lockTable, keys int, now time.Time, period time.Duration) {
	if table.capacity != r.table.capacity {
		r.warned = false
	}
	r.table, r.looked = table, now
	if r.wasFull && !now.Before(r.grows) {
		r.ceiling += max(smallStep, r.ceiling/8)
		r.grows = now.Add(period)
		r.wasFull = r.ceiling < table.bound()
	}
	r.step = min(max(smallStep, r.free(keys)/8), r.free(keys))
}

// full halves the number of keys, after the lock table was full. The bell is off for the
// first period, and the ceiling grows after the second.
func (r *room) full(keys int, now time.Time, period time.Duration) {
	r.wasFull, r.ceiling, r.grows = true, keys/2, now.Add(2*period)
}

func (r *room) bound() int {
	if r.wasFull {
		return min(r.ceiling, r.table.bound())
	}
	return r.table.bound()
}

// free returns the number of keys for which there was room at the last look. Until the others
// have given up what is more than their part, all bells have at most twice their quarter,
// however many begin.
func (r *room) free(keys int) int {
	return max(min(r.bound(), 2*r.table.all()-r.table.others)-keys, 0)
}

// stale reports whether it takes another look to know whether keys may be shared.
func (r *room) stale(keys int, now time.Time) bool {
	return now.Sub(r.looked) > freshFor || r.step == 0 && r.free(keys) > 0
}

// admit returns those of the wanted categories whose keys are to be shared now: at most step,
// and the ones that had messages most recently. Of those beyond free, one that had messages
// more recently than a category that has had its key for a while, and none since, stays
// wanted, and the other gives its key up. For the rest, crowded is true, and they are off.
func (s *shard) admit(now time.Time, wanted []string, free, step int) (arm []string, crowded bool) {
	b := s.bell
	b.mu.Lock()
	defer b.mu.Unlock()
	var categories []*category
	for _, name := range wanted {
		if c := b.categories[name]; c != nil && c.shard == s && c.wanted { // its last subscription may have ended
			categories = append(categories, c)
		}
	}
	slices.SortFunc(categories, func(x, y *category) int { return y.used.Compare(x.used) })
	for _, c := range categories[:min(step, len(categories))] {
		arm = append(arm, c.name)
	}
	if len(categories) <= free {
		return arm, false
	}
	idle := s.idlest()
	for _, c := range categories[free:] {
		switch {
		case len(idle) > 0 && now.Sub(idle[0].used) > b.config.Recheck && c.used.After(idle[0].used):
			idle[0].turnOff(now.Add(jittered(b.config.Recheck)), true)
			idle = idle[1:]
			s.wake()
		default:
			c.turnOff(now.Add(jittered(b.config.Recheck)), true)
			crowded = true
		}
	}
	return arm, crowded
}

// shed makes the categories that have had no message for the longest time give their keys up,
// until no more than bound have one, and reports whether any did.
func (s *shard) shed(now time.Time, bound int) (crowded bool) {
	b := s.bell
	b.mu.Lock()
	defer b.mu.Unlock()
	armed := s.idlest()
	for _, c := range armed[:max(len(armed)-bound, 0)] {
		c.turnOff(now.Add(jittered(b.config.Recheck)), true)
		crowded = true
	}
	return crowded
}

// idlest returns the shard's armed categories, that with the oldest message first. The bell's
// mu is held.
func (s *shard) idlest() []*category {
	armed := s.withState(stateArmed)
	slices.SortFunc(armed, func(x, y *category) int { return x.used.Compare(y.used) })
	return armed
}
