package consumer

import (
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// follow adds a page to the trail. A page that begins before other cursors shows whether the messages are there after which these
// continue. If one is not, the page is not passed on: their checkpoints have to be compared with the store again. The server does not compare
// these, because it compares what the page begins with.
func (r *reader) follow(from source.Checkpoint, page *source.Page[mdb.Message]) (contradicted bool, err error) {
	for i := range page.Messages {
		if m := &page.Messages[i]; r.trail.isLost(m) {
			return false, &mdb.ForkError{Fork: mdb.Fork{
				Category: mdb.Category(r.category),
				Missing:  []mdb.MissingMessage{{Position: m.GlobalPosition, ID: m.ID, Time: m.Time}},
			}}
		}
	}
	end := page.End.Position
	if page.Unreadable != nil {
		end = page.Past.Position
	}
	r.trail.add(from, page.Messages, end)
	if r.agrees(from.Position, page.Messages, page.End.Position) {
		return false, nil
	}
	r.forget()
	r.rewound(r.category, from.Position, nil)
	return true, nil
}

// agrees reports whether a page has the last messages of the cursors that it covers.
func (r *reader) agrees(from int64, messages []mdb.Message, end int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.cursors {
		if c == nil || !c.joined || len(c.at.Anchors()) == 0 {
			continue
		}
		if a := c.at.Anchors()[0]; a.Position > from && a.Position <= end && !has(messages, a) {
			return false
		}
	}
	return true
}
