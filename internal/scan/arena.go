package scan

import (
	"bytes"
	"math"
	"math/bits"
)

const (
	// scratchSize is that of the scratch at first. Whatever fits costs one allocation
	// of exactly the bytes read, and the scratch itself is paid for once. It follows
	// the pages that are read, up to maxChunk.
	scratchSize = 64 << 10

	// maxChunk limits both what an unlucky last chunk wastes and what a single
	// kept field can hold in memory.
	maxChunk = 1 << 20

	// keepChunks bounds the list of chunks that a pooled page holds on to.
	keepChunks = 1 << 10
)

// span locates a value by chunk and offset rather than by pointer: the first
// chunk moves when it is copied out of the scratch.
type span struct {
	chunk, off, n uint32
}

// nullSpan is told from an empty value by a length that no value can have.
var nullSpan = span{n: math.MaxUint32}

// arena gathers values in chunks that are never reallocated, so that no byte is
// copied more than twice however long the page.
type arena struct {
	chunks [][]byte
	cur    int // the chunk being filled; those after it hold a single value each
	used   int // of chunks[cur]
	next   int // size of the next chunk
	total  int // bytes of the values that a scratch could hold with others

	// While gathering is true chunks[0] is the scratch, which belongs to the pool
	// and must never be handed out.
	gathering bool
	scratch   []byte
	want      int // size of the next scratch
}

func (a *arena) reset() {
	// Chunks belong to the rows handed out; the pool must not keep them alive.
	clear(a.chunks)
	a.chunks = a.chunks[:0]
	if cap(a.chunks) > keepChunks {
		a.chunks = nil
	}
	if size := min(a.total, maxChunk); size > max(len(a.scratch), scratchSize) {
		a.scratch, a.want = nil, 1<<bits.Len(uint(size-1))
	}
	a.cur, a.used, a.total, a.gathering = 0, 0, 0, false
}

func (a *arena) start() {
	// An empty page has no use for a scratch, so it is made on first need.
	if a.scratch == nil {
		a.scratch = make([]byte, max(a.want, scratchSize))
	}
	a.chunks = append(a.chunks, a.scratch)
	a.next = min(2*len(a.scratch), maxChunk)
	a.gathering = true
}

// putShared stores b unless it equals the value at prev, which stream reads
// repeat for every row.
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
		// A value this large would leave too much of the present chunk unused, or
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
	a.settle()
	a.cur, a.used = len(a.chunks), 0
	a.chunks = append(a.chunks, make([]byte, a.next))
	a.enlarge()
}

// enlarge also follows a value stored alone: a run of values that are each too
// large for the next chunk must come to share one, or each would cost an
// allocation.
func (a *arena) enlarge() {
	a.next = min(2*a.next, maxChunk)
}

// settle gives the chunk being filled its final place. The chunk counts as full
// afterwards, so that a value put later cannot share memory handed out before.
func (a *arena) settle() {
	if len(a.chunks) == 0 || !a.gathering && a.used == len(a.chunks[a.cur]) {
		return
	}
	c := a.chunks[a.cur][:a.used]
	if a.gathering || a.used < len(a.chunks[a.cur])/2 {
		c = clone(c)
		a.gathering = false
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
