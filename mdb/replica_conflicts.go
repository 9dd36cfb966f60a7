package mdb

import (
	"errors"
	"maps"
	"sync"
	"time"
)

const (
	// conflictTime is how long reads of a stream use the primary after a conflict.
	conflictTime = 5 * time.Second
	// maxConflicts is for how many streams that is remembered.
	maxConflicts = 1000
)

// conflicts are the streams with versions that a replica may not have yet: a write has met them. A
// writer that reads the stream from there, decides again, and meets the same version would do so until the replica has it.
type conflicts struct {
	mu    sync.Mutex
	until map[StreamName]time.Time
	all   time.Time // until then, all streams are
}

// note records the result of a write to the stream. c may be nil.
func (c *conflicts) note(stream StreamName, err error) {
	if c == nil || err == nil || !errors.As(err, new(*WrongVersionError)) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if len(c.until) >= maxConflicts {
		maps.DeleteFunc(c.until, func(_ StreamName, until time.Time) bool { return until.Before(now) })
	}
	switch {
	case len(c.until) >= maxConflicts:
		c.all = now.Add(conflictTime)
		clear(c.until)
		return
	case c.until == nil:
		c.until = make(map[StreamName]time.Time)
	}
	c.until[stream] = now.Add(conflictTime)
}

// recent reports whether reads of the stream use the primary.
func (c *conflicts) recent(stream StreamName) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	return now.Before(c.all) || now.Before(c.until[stream])
}
