package source

import (
	"cmp"
	"slices"
)

const (
	keptAnchors = 4096 // at least this many are kept in memory
	mostAnchors = 3 * keptAnchors / 2
)

// A History remembers the last few thousand messages that a source has read, so that after
// a loss of messages reading continues after the last one that is left. Its zero value is
// empty and uses no memory.
type History struct {
	messages []remembered    // in ascending order
	lost     map[Anchor]bool // those of the last losses
}

type remembered struct {
	Anchor

	delivered bool // a message of a page, and not only the last message of the category
}

// Add remembers messages of a page, in ascending order, or one that a filter may have left
// out.
func (h *History) Add(n int, message func(i int) Anchor, delivered bool) {
	for i := max(0, n-mostAnchors); i < n; i++ {
		h.add(remembered{message(i), delivered})
	}
}

func (h *History) add(m remembered) {
	delete(h.lost, m.Anchor) // it is there again, as after a failback
	if n := len(h.messages); n > 0 && m.Position <= h.messages[n-1].Position {
		// A cursor at an earlier position, or a head that turns out to be selected.
		i, found := h.find(m.Position)
		switch {
		case found:
			h.messages[i] = remembered{m.Anchor, m.delivered || h.messages[i].delivered}
		case i > 0 || n < keptAnchors:
			h.messages = slices.Insert(h.messages, i, m)
		}
	} else {
		h.messages = append(h.messages, m)
	}
	if len(h.messages) > mostAnchors {
		h.messages = h.messages[:copy(h.messages, h.messages[len(h.messages)-keptAnchors:])]
	}
}

func (h *History) find(position int64) (i int, found bool) {
	return slices.BinarySearchFunc(h.messages, position, func(m remembered, position int64) int {
		return cmp.Compare(m.Position, position)
	})
}

// Known returns everything that is known up to the checkpoint, in descending order.
func (h *History) Known(from Checkpoint) []Anchor {
	n, found := h.find(from.Position)
	if found {
		n++
	}
	known := slices.Clone(from.anchors)
	for _, l := range from.latest {
		known = append(known, l.Anchor)
	}
	for _, m := range h.messages[:n] {
		known = append(known, m.Anchor)
	}
	slices.SortStableFunc(known, func(a, b Anchor) int { return cmp.Compare(b.Position, a.Position) })
	return slices.CompactFunc(known, func(a, b Anchor) bool { return a.Position == b.Position })
}

// Lose forgets anchors that are gone, in descending order, and returns those of messages,
// in ascending order. What is only known from a checkpoint counts as a message, unless another
// cursor has found that it is gone.
func (h *History) Lose(gone []Anchor) []Anchor {
	if h.lost == nil || len(h.lost) > mostAnchors {
		h.lost = make(map[Anchor]bool, len(gone))
	}
	lost := make([]Anchor, 0, len(gone))
	for _, a := range slices.Backward(gone) {
		i, found := h.find(a.Position)
		if found && h.messages[i].delivered || !found && !h.lost[a] {
			lost = append(lost, a)
		}
		h.lost[a] = true
	}
	h.messages = slices.DeleteFunc(h.messages, func(m remembered) bool {
		_, found := slices.BinarySearchFunc(gone, m.Position, func(a Anchor, position int64) int {
			return cmp.Compare(position, a.Position)
		})
		return found
	})
	return lost
}
