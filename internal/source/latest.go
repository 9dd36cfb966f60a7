package source

import "slices"

// A Latest is the newest message of a category.
//
// In the order of global positions, a lost message may be followed by one that is not lost: it
// was written first, and committed last. In the order of a category it may not. So a checkpoint
// of all categories knows the newest messages of several categories, and if each of these is
// there, no earlier message of its category is lost.
type Latest struct {
	Anchor

	Category uint32 // a hash of the name
}

// maxLatest is the number of categories of which a checkpoint knows the newest message.
const maxLatest = 32

// Latest returns the newest messages of categories, the newest first. They must not be changed.
func (c Checkpoint) Latest() []Latest { return c.latest }

// WithLatest returns the checkpoint with the newest messages of their categories, after n more
// messages, in ascending order. Categories in which nothing has happened for long are left out.
func (c Checkpoint) WithLatest(n int, message func(i int) Latest) Checkpoint {
	latest := make([]Latest, 0, maxLatest)
	add := func(l Latest) (more bool) {
		if !slices.ContainsFunc(latest, func(other Latest) bool { return other.Category == l.Category }) {
			latest = append(latest, l)
		}
		return len(latest) < maxLatest
	}
	for i := n - 1; i >= 0; i-- {
		if !add(message(i)) {
			break
		}
	}
	for _, l := range c.latest {
		if len(latest) == maxLatest || !add(l) {
			break
		}
	}
	c.latest = latest
	return c
}

// OfLatest returns the checkpoint with these newest messages, in descending order.
func (c Checkpoint) OfLatest(latest []Latest) Checkpoint {
	c.latest = latest
	return c
}

// KeepLatest returns the checkpoint with those of the other one's newest messages that are kept.
func (c Checkpoint) KeepLatest(other Checkpoint, kept func(Anchor) bool) Checkpoint {
	c.latest = nil
	for _, l := range other.latest {
		if kept(l.Anchor) {
			c.latest = append(c.latest, l)
		}
	}
	return c
}
