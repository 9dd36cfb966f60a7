package mdb

import "time"

// Recheck sets how long the bell stays off after it has failed, which is too long
// for a test to wait for.
func Recheck(d time.Duration) NotifyOption {
	return notifyOption(func(c *notifyConfig, _ *faults) { c.recheck = d })
}

// Settled tells whether all categories are armed and every subscription has begun
// a read since, and nothing has woken it after that: from here on it reads only
// when it is rung for.
func Settled(s *Store) bool {
	s.bell.mu.Lock()
	defer s.bell.mu.Unlock()
	for _, r := range s.bell.rooms {
		for sleeper := range r.sleepers {
			if r.state != stateArmed || sleeper.epoch != r.epoch || len(sleeper.rung) > 0 {
				return false
			}
		}
	}
	return len(s.bell.rooms) > 0
}
