package mdb

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxRefusals is how often running the server may refuse writes to a stream, before they
	// stay out of groups for groupRest.
	maxRefusals = 2
	groupRest   = time.Second
	// allStreams stands for the writes to all streams. It is the name of none.
	allStreams StreamName = ""
	// maxRests limits the number of streams that are remembered.
	maxRests = 1000
)

// rests are the streams whose writes the server has refused for a reason of its own, such as
// a trigger. Each such write costs those of its group a second transaction. So if it happens
// several times running, the writes to the stream stay out of groups for a while. If the server
// refuses the statement of groups, for example because the role may not read the table, all
// writes do.
type rests struct {
	logger *slog.Logger
	now    func() time.Time // tests replace it

	any     atomic.Bool // whether there are streams
	mu      sync.Mutex
	streams map[StreamName]rest
}

// A rest is what is known of a stream.
type rest struct {
	refusals int
	until    time.Time
}

func newRests(logger *slog.Logger) *rests {
	return &rests{logger: logger, now: time.Now, streams: make(map[StreamName]rest)}
}

// has reports whether writes to the stream stay out of groups now.
func (r *rests) has(stream StreamName) bool {
	if !r.any.Load() {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	return now.Before(r.streams[stream].until) || now.Before(r.streams[allStreams].until)
}

// failed records that a write to the stream has failed with err after its group was undone.
func (r *rests) failed(stream StreamName, err error) {
	if err != nil && refusesGroup(classify(err)) {
		r.refused(stream)
	}
}

// refused records that a write to the stream has undone its group.
func (r *rests) refused(stream StreamName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.streams[stream]; !ok && len(r.streams) == maxRests {
		clear(r.streams)
	}
	s := r.streams[stream]
	s.refusals++
	if s.refusals >= maxRefusals {
		s.until = r.now().Add(groupRest)
		r.logger.Warn("writes are refused repeatedly: they stay out of groups for a while", "stream", string(stream))
	}
	r.streams[stream] = s
	r.any.Store(true)
}

// refusesGroup reports whether a write that fails with an error of the class undoes its group.
func refusesGroup(c class) bool {
	return refusesOne(c) && c != classWrongVersion && c != classDuplicateID
}

// succeeded records that the members were written in a group.
func (r *rests) succeeded(members []*member) {
	if !r.any.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.streams, allStreams)
	for _, m := range members {
		delete(r.streams, m.stream)
	}
	r.any.Store(len(r.streams) > 0)
}
