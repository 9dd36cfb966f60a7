package mdb

import "math"

// pageBytes is the size of a page and of its steps, see [WithBatchBytes].
type pageBytes struct {
	room  int64 // the bytes that the step's messages may have, unless the first is the page's first; 0: no limit
	taken int64 // the bytes of the step's messages
	cut   bool  // whether a message of the step did not fit
	bytes int64 // the bytes of the page's messages
	mean  int64 // the bytes of a message in the last step that had some; 0: unknown
	more  bool  // whether there may be more after the page, although it has fewer messages than were asked for
}

// clear begins a page.
func (r *pageRead) clear() {
	r.page, r.complete = nil, false
	r.bytes, r.more = 0, false
}

// beginStep begins a step, whose size is not limited.
func (r *pageRead) beginStep() {
	r.messages, r.arrived = nil, 0
	r.room, r.taken, r.cut = 0, 0, false
}

// left returns the room for a step. After the page's first message, it may be as small as one
// byte, in which no message fits, so that the step shows whether there is a next one.
func (r *pageRead) left() int64 {
	if r.batchBytes == 0 {
		return 0
	}
	return max(r.batchBytes-r.bytes, 1)
}

// fits reports whether a row, which follows n others of the step, fits into the page.
func (r *pageRead) fits(n int, values [][]byte) bool {
	size := int64(0)
	for _, v := range values {
		size += int64(len(v))
	}
	if r.room > 0 && n+len(r.page) > 0 && r.taken+size > r.room {
		return false
	}
	r.taken += size
	return true
}

// count counts n messages of a step as the page's.
func (r *pageRead) count(n int64) {
	r.bytes += r.taken
	if n > 0 {
		r.mean = max(r.taken/n, 1)
	}
}

// full reports whether the page ends because of its size, after a step of n messages. A page that
// is at least half full is not worth a further step.
func (r *pageRead) full(complete bool, n int64) bool {
	return r.cut || !complete && r.batchBytes > 0 && n == r.most && r.bytes >= r.batchBytes/2
}

// ask returns how many messages probably fit into the page.
func (r *pageRead) ask() int64 {
	if r.batchBytes == 0 || r.mean == 0 {
		return math.MaxInt64
	}
	return max((r.batchBytes-r.bytes)/r.mean, 1)
}

// size returns about as many bytes as the server has sent for the message.
func (m *Message) size() int64 {
	return int64(len(m.Stream) + len(m.Type) + len(m.Data) + len(m.Metadata))
}
