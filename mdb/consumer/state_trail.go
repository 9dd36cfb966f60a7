package consumer

import (
	"slices"
	"sync"

	"github.com/google/uuid"

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
	lost     map[string]bool // the IDs of the first message of each loss
}

// A branch is a history that has ended.
type branch struct {
	common source.Anchor   // the last message that is left
	lost   []source.Anchor // what followed
}

// isLost reports whether a message is the first one of a loss. It is in the store again if that has gone back to an earlier history, and then
// nobody knows which of the messages after it were handled.
func (t *trail) isLost(id uuid.UUID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.lost) > 0 && t.lost[id.String()]
}

// lose remembers losses.
func (t *trail) lose(ids []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lost == nil {
		t.lost = make(map[string]bool)
	}
	for _, id := range ids {
		t.lost[id] = true
	}
}

// add remembers a page, which has everything after from up to end.
func (t *trail) add(from source.Checkpoint, messages []mdb.Message, end int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.known || from.Position > t.high {
		t.known, t.base, t.messages, t.high = true, source.Anchor{}, nil, from.Position
		if anchors := from.Anchors(); len(anchors) > 0 {
			t.base = anchors[0]
		}
	}
	t.compare(from.Position, messages, end)
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

// compare begins a branch if the page does not have the messages of the trail.
func (t *trail) compare(from int64, messages []mdb.Message, end int64) {
	first := slices.IndexFunc(t.messages, func(a source.Anchor) bool { return a.Position > from })
	if first < 0 {
		return
	}
	for i := first; i < len(t.messages) && t.messages[i].Position <= end; i++ {
		if !has(messages, t.messages[i]) {
			t.fork(i)
			return
		}
	}
}

// fork ends the history before the message with the index.
func (t *trail) fork(i int) {
	common := t.base
	if i > 0 {
		common = t.messages[i-1]
	}
	t.branches = append(t.branches, branch{common, slices.Clone(t.messages[i:])})
	if n := len(t.branches) - mostBranches; n > 0 {
		t.branches = slices.Delete(t.branches, 0, n)
	}
	t.messages, t.high = t.messages[:i], common.Position
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

// branchOf returns the last branch that has lost a message.
func (t *trail) branchOf(id uuid.UUID) (b branch, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range slices.Backward(t.branches) {
		if slices.ContainsFunc(b.lost, func(a source.Anchor) bool { return a.ID == id }) {
			return b, true
		}
	}
	return b, false
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
