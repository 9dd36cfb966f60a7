package consumer

import (
	"slices"
	"sort"
	"sync"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/scan"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

const (
	mostTrail    = 8192 // messages of a category that are remembered, at most
	mostBranches = 8
)

// A trail remembers which messages a category has, without a gap, up to where this process has read it. So after a loss it says which of
// the messages that were handled is the last one that is left, see [running.reconcile]. It also remembers what was lost, because other processes may
// store for some time yet that they have handled it.
type trail struct {
	mu       sync.Mutex
	known    bool            // something was read
	base     source.Anchor   // the last message before the others; the zero value is the beginning
	messages []source.Anchor // all that follow the base, up to high
	high     int64
	branches []branch
	lost     map[source.Anchor]bool // the first message of each loss, without its position, by this process's checkpoints
}

// A branch is what the trail had before it continued elsewhere: because of a loss, but also because messages were deleted, or were not
// read. So nobody knows whether its messages are there.
type branch struct {
	base     source.Anchor // as in the trail
	messages []source.Anchor
}

// isLost reports whether a message is the first one of a loss. It is in the store again if that has gone back to an earlier history, and then
// nobody knows which of the messages after it were handled. One that was written again with its ID has another time, and is new.
func (t *trail) isLost(m *mdb.Message) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.lost) > 0 && t.lost[source.Anchor{ID: m.ID, Time: scan.Micros(m.Time)}]
}

// onlyLost remembers the losses that checkpoints have, and forgets others: whoever has moved the checkpoints since knew of these.
func (t *trail) onlyLost(first []ledger.Anchor) {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.lost)
	t.addLost(first)
}

// lose remembers further losses.
func (t *trail) lose(first []ledger.Anchor) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addLost(first)
}

func (t *trail) addLost(first []ledger.Anchor) {
	if t.lost == nil {
		t.lost = make(map[source.Anchor]bool)
	}
	for _, a := range first {
		t.lost[source.Anchor{ID: a.ID, Time: scan.Micros(a.Time)}] = true
	}
}

// add remembers a page, which has everything after from up to end.
func (t *trail) add(from source.Checkpoint, messages []mdb.Message, end int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.continues(from, messages, end) {
		t.compare(from.Position, messages, end)
	} else {
		t.fork(0)
		t.known, t.base, t.high = true, source.Anchor{}, from.Position
		if anchors := from.Anchors(); len(anchors) > 0 {
			t.base = anchors[0]
		}
	}
	for i := range messages {
		if m := &messages[i]; m.GlobalPosition > t.high {
			t.messages = append(t.messages, anchorOf(m))
		}
	}
	t.high = max(t.high, end)
	if n := len(t.messages) - mostTrail; n > mostTrail/2 {
		t.base = t.messages[n-1]
		t.messages = slices.Delete(t.messages, 0, n)
	}
}

// continues reports whether a page begins in the trail's history, so that the trail has no gap with it.
func (t *trail) continues(from source.Checkpoint, messages []mdb.Message, end int64) bool {
	anchors := from.Anchors()
	switch {
	case !t.known || from.Position > t.high:
		return false
	case from.Position < t.base.Position:
		return end < t.base.Position || has(messages, t.base)
	case len(anchors) == 0 || anchors[0].Position < t.base.Position || anchors[0] == t.base:
		return true
	}
	i := t.after(anchors[0].Position) - 1
	return i >= 0 && t.messages[i] == anchors[0]
}

// after returns the index of the first message after a position.
func (t *trail) after(position int64) int {
	return sort.Search(len(t.messages), func(i int) bool { return t.messages[i].Position > position })
}

// compare begins a branch where a page and the trail have different messages.
func (t *trail) compare(from int64, messages []mdb.Message, end int64) {
	i := t.after(from)
	for j := range messages {
		m := &messages[j]
		if m.GlobalPosition <= t.base.Position {
			continue
		}
		if m.GlobalPosition > t.high {
			break
		}
		if i == len(t.messages) || t.messages[i] != anchorOf(m) {
			t.fork(i)
			return
		}
		i++
	}
	if i < len(t.messages) && t.messages[i].Position <= end {
		t.fork(i)
	}
}

// fork ends the trail before the message with the index.
func (t *trail) fork(i int) {
	last := t.base
	if i > 0 {
		last = t.messages[i-1]
	}
	if i < len(t.messages) {
		t.branches = append(t.branches, branch{last, slices.Clone(t.messages[i:])})
	}
	if n := len(t.branches) - mostBranches; n > 0 {
		t.branches = slices.Delete(t.branches, 0, n)
	}
	t.messages, t.high = t.messages[:i], last.Position
}

// forkAt ends the history before a message, if it has that.
func (t *trail) forkAt(a source.Anchor) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.messages, a); i >= 0 {
		t.fork(i)
	}
}

// upto returns the base and the messages up to one.
func (t *trail) upto(id uuid.UUID) []source.Anchor {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(t.messages, func(a source.Anchor) bool { return a.ID == id })
	if i < 0 {
		return nil
	}
	return append([]source.Anchor{t.base}, t.messages[:i+1]...)
}

// branchOf returns the message before the last branch that has a message, and the branch's messages up to that.
func (t *trail) branchOf(id uuid.UUID) []source.Anchor {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range slices.Backward(t.branches) {
		if i := slices.IndexFunc(b.messages, func(a source.Anchor) bool { return a.ID == id }); i >= 0 {
			return append([]source.Anchor{b.base}, b.messages[:i+1]...)
		}
	}
	return nil
}

func anchorOf(m *mdb.Message) source.Anchor {
	return source.Anchor{Position: m.GlobalPosition, ID: m.ID, Time: scan.Micros(m.Time)}
}

// has reports whether messages, in ascending order, contain one.
func has(messages []mdb.Message, a source.Anchor) bool {
	i, found := slices.BinarySearchFunc(messages, a.Position, func(m mdb.Message, position int64) int {
		return int(min(1, max(-1, m.GlobalPosition-position)))
	})
	return found && anchorOf(&messages[i]) == a
}
