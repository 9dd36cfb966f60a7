package source

import (
	"slices"
	"testing"
)

// TestLatest checks that a checkpoint knows the newest message of each of the last categories,
// the newest first, and that Advance keeps them.
func TestLatest(t *testing.T) {
	t.Parallel()
	var c Checkpoint
	newest := make(map[uint32]int64)
	for p := int64(1); p <= 1000; {
		n := int(p%7) + 1
		message := func(i int) Latest {
			at := p + int64(i)
			return Latest{anchorOf(at), uint32(at*at%97) % uint32(1+at/10)}
		}
		for i := range n {
			l := message(i)
			newest[l.Category] = l.Position
		}
		c = c.Advance(n, func(i int) Anchor { return message(i).Anchor }).WithLatest(n, message)
		p += int64(n)
		checkLatest(t, c, newest)
	}
	if len(c.Latest()) != maxLatest {
		t.Errorf("got %d, want %d", len(c.Latest()), maxLatest)
	}
	gone := c.Latest()[3].Anchor
	kept := At(1).KeepLatest(c, func(a Anchor) bool { return a != gone })
	if want := slices.Delete(slices.Clone(c.Latest()), 3, 4); !slices.Equal(kept.Latest(), want) {
		t.Errorf("got %v, want %v", kept.Latest(), want)
	}
	var h History
	if known := h.Known(c); !slices.ContainsFunc(known, func(a Anchor) bool { return a == gone }) || !slices.IsSortedFunc(known, func(a, b Anchor) int { return int(b.Position - a.Position) }) {
		t.Errorf("got %v, want all that the checkpoint knows, in descending order", known)
	}
}

func checkLatest(t *testing.T, c Checkpoint, newest map[uint32]int64) {
	t.Helper()
	var want []int64
	for _, p := range newest {
		want = append(want, p)
	}
	slices.Sort(want)
	slices.Reverse(want)
	want = want[:min(len(want), maxLatest)]
	var got []int64
	for _, l := range c.Latest() {
		if newest[l.Category] == l.Position {
			got = append(got, l.Position)
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got %d, want %d", got, want)
	}
}
