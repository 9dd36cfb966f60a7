package consumer

import (
	"slices"
	"sort"
	"strconv"

	"github.com/messagedb-go/messagedb/internal/scan"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// A cursor is where the reading of a partition has come to. The reader's mu guards it.
type cursor struct {
	partition partition
	epoch     int64
	at        source.Checkpoint // everything up to it was passed on, or is of others
	checked   bool              // at has an anchor, or there is no message before it
	live      bool              // the last page that covers it has shown that there is no more
	joined    bool              // it was open when the page's read began
	ready     bool              // it had room then

	share []mdb.Message // its messages of the page
	n     int           // how many there are
}

// What a reader does next.
type planned int

const (
	planRest planned = iota // no partition may be read
	planPoll                // all that may be read have caught up: wait for the next poll
	planRead                // read immediately
)

// A plan says where the next page begins.
type plan struct {
	next    planned
	from    cursor // a copy
	front   bool   // the page covers all partitions that have caught up
	turns   bool   // there are several cohorts
	highest int64  // the highest position of which nothing is known
}

// plan chooses where the next page begins, among the cursors of the partitions that have
// room. The cursors at one position are a cohort.
//
// The front is the lowest position of those that have caught up, or else the highest
// position. It gets every other page, so that it does not wait for those that have much to read.
// Of the other pages, every other is for the lowest cohort, which gathers all cohorts that it
// reaches: so the number of pages is at most four times that of the lowest cohort alone. The
// rest is for the one next to the front, which has the shortest way to join it. Cohorts that are
// not more than a page away get the front's pages, too: the page of the lowest of them probably gathers all of them up to the
// front. They do not get those of the lowest cohort of all, which would wait for as long as a partition falls back again and again.
func (r *reader) plan() (p plan) {
	r.starved.Store(true) // before anything is asked for room
	starved := false
	defer func() { r.starved.Store(starved) }()
	r.mu.Lock()
	defer r.mu.Unlock()
	front, live, ready, unread := int64(-1), false, false, false
	for _, c := range r.cursors {
		if c == nil {
			continue
		}
		c.joined, c.ready = true, false
		if !c.checked {
			p.highest = max(p.highest, c.at.Position)
		}
		if r.paused || c.at.Position >= r.barrier {
			continue
		}
		at := c.at.Position
		if c.live && (!live || at < front) {
			front, live = at, true // whether or not it has room
		}
		if c.ready = r.sink.room(c.partition); !c.ready {
			starved = true
			continue
		}
		ready = true
		if !c.live {
			unread = true
			if !live {
				front = max(front, at)
			}
		}
	}
	if !ready {
		return p // planRest
	}
	if p.next = planPoll; unread {
		p.next = planRead
	}
	r.below = r.below[:0]
	for _, c := range r.cursors {
		if c != nil && c.ready && c.at.Position < front {
			r.below = append(r.below, c.at.Position)
		}
	}
	slices.Sort(r.below)
	if r.filters {
		r.want()
	}
	position := r.choose(&p, front, slices.Compact(r.below))
	found := false
	for _, c := range r.cursors {
		if c != nil && c.at.Position == position && (!found || better(c, &p.from)) {
			p.from, found = *c, true
		}
	}
	return p
}

// want remembers the partitions that can receive messages of the next page: those that have room now.
func (r *reader) want() {
	r.wanted = append(r.wanted[:0], '{')
	all := true
	for n, c := range r.cursors {
		if c == nil || !c.ready {
			all = false
			continue
		}
		if len(r.wanted) > 1 {
			r.wanted = append(r.wanted, ',')
		}
		r.wanted = strconv.AppendInt(r.wanted, int64(n), 10)
	}
	r.wanted = append(r.wanted, '}')
	if all {
		r.wanted = r.wanted[:0]
	}
}

// better reports whether the checkpoint of a knows more than that of b.
func better(a, b *cursor) bool {
	if a.checked != b.checked {
		return a.checked
	}
	return len(a.at.Anchors()) > len(b.at.Anchors())
}

// choose returns the front, or one of the positions below it.
func (r *reader) choose(p *plan, front int64, below []int64) int64 {
	p.turns = len(below) > 0
	if p.turns && r.turn%4 != 1 {
		page := max(r.span, int64(r.batch)) // there are at most as many messages as positions
		if i, _ := slices.BinarySearch(below, front-page); i < len(below) {
			return below[i]
		}
	}
	switch {
	case !p.turns || r.turn%2 == 0:
		p.front = true
		return front
	case r.turn%4 == 1:
		return below[0]
	}
	return below[len(below)-1]
}

// take passes the page's messages to the partitions that it covers, and returns how many. The
// page ends with the unreadable message, if there is one. If it is not full, there was no
// more when it was read.
func (r *reader) take(from source.Checkpoint, page *source.Page[mdb.Message], unreadable *mdb.UnreadableError, full bool) (found int) {
	messages, end := page.Messages, page.End
	r.numbers = r.numbers[:0]
	for i := range messages {
		r.numbers = append(r.numbers, r.numbering.of(messages[i].Stream, r.partitions))
	}
	owner := -1
	if page.Unreadable != nil {
		end = page.Past
	}
	if unreadable != nil {
		owner = partitionOf(unreadable.Stream, r.partitions)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.paused {
		return 0 // it is read again
	}
	if end.Position > r.barrier {
		n := sort.Search(len(messages), func(i int) bool { return messages[i].GlobalPosition > r.barrier })
		messages = messages[:n]
		if owner >= 0 && unreadable.GlobalPosition > r.barrier {
			owner = -1
		}
		end, full = through(from, messages).Past(r.barrier), true
	}
	covers := func(c *cursor) bool {
		return c != nil && c.joined && c.at.Position >= from.Position && c.at.Position < r.barrier
	}
	total := 0
	for i := range messages {
		if c := r.cursors[r.numbers[i]]; covers(c) && messages[i].GlobalPosition > c.at.Position {
			c.n++
			total++
		}
	}
	r.shares = slices.Grow(r.shares[:0], total)[:total]
	defer clear(r.shares)
	begin := 0
	for _, c := range r.cursors {
		if c != nil {
			c.share = r.shares[begin : begin : begin+c.n]
			begin += c.n
			c.n = 0
		}
	}
	for i := range messages {
		if c := r.cursors[r.numbers[i]]; covers(c) && messages[i].GlobalPosition > c.at.Position {
			c.share = append(c.share, messages[i])
		}
	}
	for i, c := range r.cursors {
		if !covers(c) {
			continue
		}
		share := c.share
		c.share = nil
		unread := i == owner && unreadable.GlobalPosition > c.at.Position
		switch {
		case c.at.Position > end.Position:
			c.live = c.live || !full
			continue
		case !c.ready && (len(share) > 0 || unread):
			c.live = false // it stays where it is
			continue
		case unread:
			if page.End.Position > c.at.Position {
				r.sink.feed(c.partition, c.epoch, share, page.End)
			}
			r.sink.unreadable(c.partition, c.epoch, unreadable, end)
			found++
		case len(share) > 0 || end.Position > c.at.Position:
			r.sink.feed(c.partition, c.epoch, share, end)
		}
		found += len(share)
		c.at, c.checked, c.live = end, c.checked || len(end.Anchors()) > 0, !full
	}
	return found
}

// through returns the checkpoint after further messages.
func through(c source.Checkpoint, messages []mdb.Message) source.Checkpoint {
	return c.Advance(len(messages), func(i int) source.Anchor {
		m := &messages[i]
		return source.Anchor{Position: m.GlobalPosition, ID: m.ID, Time: scan.Micros(m.Time)}
	})
}
