package scan

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestArenaProportion checks that a page needs at most twice the memory of its content,
// in few chunks, for any mix of value sizes.
func TestArenaProportion(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	all := make([]byte, 1<<20)
	for n := range 100 {
		var a arena
		content, values := 0, 0
		most := 1 << r.IntN(20)
		for range r.IntN(200) {
			size := r.IntN(most)
			if r.IntN(20) == 0 {
				size = r.IntN(1 << 19)
			}
			s := a.put(all[:size])
			if got := len(a.view(s)); got != size {
				t.Fatalf("page %d: view of %d bytes, want %d", n, got, size)
			}
			content += size
			values++
		}
		a.seal()
		memory := 0
		for i, c := range a.chunks {
			memory += cap(c)
			if a.scratch != nil && len(c) > 0 && &c[0] == &a.scratch[0] {
				t.Fatalf("page %d: chunk %d is the scratch", n, i)
			}
		}
		if memory > 2*content {
			t.Errorf("page %d: %d bytes of memory for %d bytes of values", n, memory, content)
		}
		if limit := 2 + values; len(a.chunks) > limit {
			t.Errorf("page %d: %d chunks for %d values", n, len(a.chunks), values)
		}
	}
}

// TestArenaFewChunks checks that values too large for the first chunks share the later
// ones, and that values too large to share any leave none half empty.
func TestArenaFewChunks(t *testing.T) {
	t.Parallel()
	for _, size := range []int{100, 17_000, 33_000, 70_000, 130_000, 200_000, 600_000} {
		var a arena
		b := make([]byte, size)
		const total = 16 << 20
		for range total / size {
			a.put(b)
		}
		a.seal()
		// Chunks of 1 MiB would be 16, and the largest values are 27.
		if got := len(a.chunks); got > 32 {
			t.Errorf("%d chunks for 16 MiB in values of %d bytes", got, size)
		}
		memory := 0
		for _, c := range a.chunks {
			memory += cap(c)
		}
		if memory > total*4/3 {
			t.Errorf("%d bytes of memory for 16 MiB in values of %d bytes", memory, size)
		}
	}
}

// TestArenaReset checks that a pooled arena keeps no chunk alive, and no long list of
// them.
func TestArenaReset(t *testing.T) {
	t.Parallel()
	var a arena
	b := make([]byte, maxChunk/4+1)
	for range 10 {
		a.put(b)
	}
	a.reset()
	for i, c := range a.chunks[:cap(a.chunks)] {
		if c != nil {
			t.Errorf("chunk %d is still referenced", i)
		}
	}
	for range keepChunks + 1 {
		a.put(b)
	}
	a.reset()
	if cap(a.chunks) > keepChunks {
		t.Errorf("a list of %d chunks is kept", cap(a.chunks))
	}
}

// TestArenaSealed checks that a value stored after sealing does not change an earlier
// view.
func TestArenaSealed(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 1000, scratchSize, scratchSize + 1, maxChunk} {
		var a arena
		first := bytes.Repeat([]byte{1}, size)
		s := a.put(first)
		a.seal()
		v := a.view(s)
		a.put(bytes.Repeat([]byte{2}, 1000))
		a.seal()
		if !bytes.Equal(v, first) || !bytes.Equal(a.view(s), first) {
			t.Errorf("a view of %d bytes changed", size)
		}
	}
}

// TestResetKeepsNoHugeScratch checks the size up to which a pooled page keeps its rows.
func TestResetKeepsNoHugeScratch(t *testing.T) {
	t.Parallel()
	for _, n := range []int{keepRows, keepRows + 1} {
		p := Page{rows: make([]row, n)}
		p.reset()
		if kept := p.rows != nil; kept != (n <= keepRows) {
			t.Errorf("scratch for %d rows kept: %t", n, kept)
		}
	}
}
