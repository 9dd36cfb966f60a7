package mdb

import "time"

// Recheck sets how long the bell stays off after it has failed, which is too long
// for a test to wait for.
func Recheck(d time.Duration) NotifyOption {
	return notifyOption(func(c *notifyConfig, _ *argumentFaults) { c.recheck = d })
}

// Settled reports whether all subscriptions of the store sleep until they are notified.
func Settled(s *Store) bool { return s.bell.Settled() }
