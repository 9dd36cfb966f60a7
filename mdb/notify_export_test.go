package mdb

import "time"

// Recheck sets how long a store stops waiting for notifications after some were missing.
// The default is too long for a test.
func Recheck(d time.Duration) NotifyOption {
	return notifyOption(func(c *notifyConfig, _ *argumentFaults) { c.recheck = d })
}

// Settled reports whether all subscriptions of the store sleep until they are notified.
func Settled(s *Store) bool { return s.bell.Settled() }
