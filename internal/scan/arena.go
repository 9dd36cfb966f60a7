package scan

import (
	"bytes"
	"math"
	"math/bits"
)

const (
	// scratchSize is the initial size of the scratch. Values that fit cost one
	// allocation of exactly the bytes read; the scratch itself is allocated once and
	// pooled. It grows with the pages that are read, up to maxChunk.
	scratchSize = 64 << 10

	// maxChunk limits both what a nearly empty last chunk wastes and how much memory
	// a single kept field can keep alive.
	maxChunk = 1 << 20

	// keepChunks bounds the list of chunks that a pooled page keeps.
	keepChunks = 1 << 10
)

// span locates a value by chunk and offset rather than by pointer, because the first
// chunk moves when it is copied out of the scratch.
type span struct {
	chunk, off, n uint32
}

// nullSpan has a length that no value can have, which distinguishes it from an empty
// value.
var nullSpan = span{n: math.MaxUint32}

// arena collects values in chunks that are never reallocated, so that no byte is
// copied more than twice, however long the page is.
type arena struct {
	chunks [][]byte
	cur    int // the chunk being filled; each one after it contains a single value
	used   int // of chunks[cur]
	next   int // size of the next chunk
	total  int // bytes of all values that are small enough to share a chunk

	// While inScratch is true, chunks[0] is the scratch, which belongs to the pool
	// and must never be handed out.
	inScratch bool
	scratch   []byte
	want      int // size of the next scratch
}

func (a *arena) reset() {
	// Chunks belong to the rows that were returned; the pool must not keep them alive.
	clear(a.chunks)
	a.chunks = a.chunks[:0]
	if cap(a.chunks) > keepChunks {
		a.chunks = nil
	}
	if size := min(a.total, maxChunk); size > max(len(a.scratch), scratchSize) {
		a.scratch, a.want = nil, 1<<bits.Len(uint(size-1))
	}
	a.cur, a.used, a.total, a.inScratch = 0, 0, 0, false
}

func (a *arena) start() {
	// An empty page needs no scratch, so the first value allocates it.
	if a.scratch == nil {
		a.scratch = make([]byte, max(a.want, scratchSize))
	}
	a.chunks = append(a.chunks, a.scratch)
	a.next = min(2*len(a.scratch), maxChunk)
	a.inScratch = true
}

// putShared stores b unless it equals the value at prev. In a read of a stream the
// stream name is the same in every row.
func (a *arena) putShared(b []byte, prev span) span {
	if bytes.Equal(b, a.view(prev)) {
		return prev
	}
	return a.put(b)
}

func (a *arena) put(b []byte) span {
	if b == nil {
		return nullSpan
	}
	if len(b) == 0 {
		return span{}
	}
	if len(a.chunks) == 0 {
		a.start()
	}
	if len(b) <= maxChunk/4 {
		a.total += len(b)
	}
	if len(b) > len(a.chunks[a.cur])-a.used {
		// A value this large would leave too much of the current chunk unused, or
		// of the next one.
		if len(b) > a.next/4 {
			return a.putAlone(b)
		}
		a.grow()
	}
	s := span{uint32(a.cur), uint32(a.used), uint32(len(b))}
	a.used += copy(a.chunks[a.cur][a.used:], b)
	return s
}

func (a *arena) putAlone(b []byte) span {
	a.chunks = append(a.chunks, clone(b))
	a.enlarge()
	return span{uint32(len(a.chunks) - 1), 0, uint32(len(b))}
}

func (a *arena) grow() {
	a.seal()
	a.cur, a.used = len(a.chunks), 0
	a.chunks = append(a.chunks, make([]byte, a.next))
	a.enlarge()
}

// enlarge is called after a value stored alone too: otherwise each of many values
// that are all too large for the next chunk would cost an allocation.
func (a *arena) enlarge() {
	a.next = min(2*a.next, maxChunk)
}

// seal gives the chunk being filled its final place. The chunk counts as full
// afterwards, so that a value stored later cannot share memory already handed out.
func (a *arena) seal() {
	if len(a.chunks) == 0 || !a.inScratch && a.used == len(a.chunks[a.cur]) {
		return
	}
	c := a.chunks[a.cur][:a.used]
	if a.inScratch || a.used < len(a.chunks[a.cur])/2 {
		c = clone(c)
		a.inScratch = false
	}
	a.chunks[a.cur] = c
}

func (a *arena) view(s span) []byte {
	switch s.n {
	case nullSpan.n:
		return nil
	case 0:
		return []byte{}
	}
	end := s.off + s.n
	return a.chunks[s.chunk][s.off:end:end]
}

// clone makes the capacity exact up to the allocator's size class, which
// append and bytes.Clone do not promise.
func clone(b []byte) []byte {
	c := make([]byte, len(b))
	copy(c, b)
	return c
}
