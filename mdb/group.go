package mdb

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"
)

// The most that the writes of a group have together. One that has more is sent by itself.
const (
	groupMessages = 1000
	groupBytes    = 1 << 20
)

// groups send writes of a Store together that would otherwise wait for each other: those to
// one category, whose lock a transaction holds until its commit is durable.
//
// A category has a turn. A write that finds it free takes it, and is sent immediately, as without
// groups, for one attempt. Other writes to the category wait. What has the turn passes it on:
// if one write waits, it gets the turn; if several do, a goroutine gets it, sends them in one
// transaction, and repeats that until no more than one waits.
//
// The transaction of a group is the first attempt of each of its writes. What follows from its
// outcome, such as further attempts after a lost connection, is up to each write, whose caller
// does it without the turn. While the server cannot be reached there are no groups.
type groups struct {
	calls *procedures
	rests *rests
	least int // of the writes of a group; tests send groups of one

	mu     sync.Mutex
	queues map[Category]*queue // of the categories whose turn is taken
	spare  []*queue
	active int           // goroutines
	idle   chan struct{} // closed when none is left; nil: nobody waits for that
}

// A queue is what waits for the turn of a category, in the order of arrival.
type queue struct {
	waiting []*member
	sent    []*member          // those of the group that is under way
	giveUp  context.CancelFunc // of the wait for a connection; nil: there is none
}

// A member is a write that waits, or that is sent in a group.
type member struct {
	*proposedWrite
	bytes   int
	noTurn  bool      // its caller waits for other writes, too, so that it is always sent in a group
	written []Written // by the group
	news    chan news
}

// news tell a member how to go on.
type news struct {
	kind newsKind
	err  error // of the attempt
}

type newsKind int

const (
	byItself  newsKind = iota // the write was not tried, and does not get the turn
	itsTurn                   // the write has the turn
	undone                    // the write was not tried, because the server has refused a group
	attempted                 // the group was its first attempt
)

func newGroups(calls *procedures) *groups {
	return &groups{calls: calls, rests: newRests(calls.config.logger), least: 2, queues: make(map[Category]*queue)}
}

// write does w until its outcome is known.
func (g *groups) write(ctx context.Context, w *proposedWrite) error {
	s := g.calls
	if s.gate.closed.Load() || s.proxied() || g.rests.has(w.stream) {
		return s.report(w, s.settle(ctx, w))
	}
	category := w.stream.Category()
	m := g.enter(category, w) //nolint:contextcheck // a group goes on, whichever of its callers leaves
	if m == nil {
		return s.report(w, g.writeInTurn(ctx, category, w))
	}
	n, ok := g.news(ctx, m)
	w.joined(n, ok)
	switch {
	case !ok:
		return w.abandoned(ctx)
	case n.kind == itsTurn:
		return s.report(w, g.writeInTurn(ctx, category, w))
	case n.kind != attempted:
		err := s.settle(ctx, w)
		if n.kind == undone {
			g.rests.failed(w.stream, err)
		}
		return s.report(w, err)
	case n.err != nil:
		return s.report(w, s.settleAfter(ctx, w, n.err))
	}
	w.attempts++
	copy(w.written, m.written) // the group has told subscriptions
	return nil
}

// news waits for the news of a member. If ctx ends before the member is sent, they are an attempt that has not got a
// connection. If it ends later, there are none: the group goes on, and may still read the write.
func (g *groups) news(ctx context.Context, m *member) (n news, ok bool) {
	if n, ok = m.wait(ctx); ok {
		return n, true
	}
	if g.leave(m.stream.Category(), m) {
		return news{attempted, &acquireError{ctx.Err()}}, true
	}
	return m.heard()
}

// joined records the news of a write in a group, or that there are none.
func (w *proposedWrite) joined(n news, ok bool) {
	w.grouped = !ok || n.kind == attempted && (n.err == nil || classify(n.err) != classNoConnection)
	if !ok {
		w.attempts++ // others are judged, which counts them
	}
}

// abandoned returns the error of a write whose group goes on after the end of ctx.
func (w *proposedWrite) abandoned(ctx context.Context) error {
	return &UnknownOutcomeError{IDs: slices.Clone(w.ids), err: ctx.Err()}
}

// writeInTurn does w, which has the turn for its first attempt.
func (g *groups) writeInTurn(ctx context.Context, category Category, w *proposedWrite) error {
	return g.calls.settleAfter(ctx, w, g.attemptInTurn(ctx, category, w))
}

func (g *groups) attemptInTurn(ctx context.Context, category Category, w *proposedWrite) error {
	defer g.passTurn(category) //nolint:contextcheck // the next group belongs to other callers
	return g.calls.attempt(ctx, w)
}

// enter takes the turn for w, or returns w as a member of the queue.
func (g *groups) enter(category Category, w *proposedWrite) *member {
	if g.takeTurn(category) {
		return nil
	}
	m := newMember(w)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.queues[category] == nil && g.least > 1 { // it has become free
		g.queue(category)
		return nil
	}
	g.join(category, m)
	return m
}

// enterAll adds members to the queue of the category. They are sent in groups.
func (g *groups) enterAll(category Category, members []*member) {
	for _, m := range members {
		m.noTurn = true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.join(category, members...)
}

// join adds members to the queue of the category, and starts the goroutine that sends them if the turn is free. The lock is held.
func (g *groups) join(category Category, members ...*member) {
	q := g.queues[category]
	if q == nil {
		q = g.queue(category)
		g.start(category, q)
	}
	q.waiting = append(q.waiting, members...)
}

func (g *groups) takeTurn(category Category) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.queues[category] != nil || g.least == 1 {
		return false
	}
	g.queue(category)
	return true
}

// queue takes the turn of a category, which is free. The lock is held.
func (g *groups) queue(category Category) *queue {
	var q *queue
	if last := len(g.spare) - 1; last < 0 {
		q = new(queue)
	} else {
		q, g.spare = g.spare[last], g.spare[:last]
	}
	g.queues[category] = q
	return q
}

// start starts the goroutine that sends groups to the category. The lock is held.
func (g *groups) start(category Category, q *queue) {
	g.active++
	go g.run(category, q)
}

// free makes the turn of a category free. The lock is held, and nothing waits.
func (g *groups) free(category Category, q *queue) {
	delete(g.queues, category)
	if len(g.spare) < maxSpareQueues {
		q.waiting = nil
		g.spare = append(g.spare, q)
	}
}

const maxSpareQueues = 16

// passTurn passes the turn on.
func (g *groups) passTurn(category Category) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if q := g.queues[category]; !g.passToOne(category, q) {
		g.start(category, q)
	}
}

// passToOne passes the turn on, unless it is that of a group. The lock is held.
func (g *groups) passToOne(category Category, q *queue) bool {
	q.sent = nil
	if g.calls.gate.closed.Load() {
		q.dismiss()
	}
	switch n := q.next(2); {
	case n == 0:
		g.free(category, q)
	case g.takesTurn(q, n):
		q.pop(1)[0].tell(itsTurn, nil)
	default:
		return false
	}
	return true
}

// takesTurn reports whether the next write gets the turn itself, because the next n are only that one. The lock is held.
func (g *groups) takesTurn(q *queue, n int) bool {
	return n == 1 && g.least > 1 && !q.waiting[0].noTurn
}

// leave takes a member out of the queue, and reports whether it was there.
func (g *groups) leave(category Category, m *member) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	q := g.queues[category]
	if q == nil {
		return false
	}
	for i, other := range q.waiting {
		if other == m {
			q.waiting = append(q.waiting[:i:i], q.waiting[i+1:]...)
			if len(q.waiting) == 0 && q.giveUp != nil {
				q.giveUp()
			}
			return true
		}
	}
	return false
}

// dismiss makes all writes that wait go on by themselves.
func (q *queue) dismiss() {
	for _, m := range q.pop(len(q.waiting)) {
		m.tell(byItself, nil)
	}
}

// pop removes the first n.
func (q *queue) pop(n int) []*member {
	first := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	return first
}

// next returns how many of those that wait may be in the next group, n at most: no two of them
// share an ID, and together they do not exceed the limits, unless it is one.
func (q *queue) next(n int) int {
	n = min(n, len(q.waiting))
	if n < 2 {
		return n
	}
	messages, bytes := 0, 0
	seen := make(map[uuid.UUID]bool, n)
	for i, m := range q.waiting[:n] {
		messages += len(m.ids)
		bytes += m.bytes
		if i > 0 && (messages > groupMessages || bytes > groupBytes) || slices.ContainsFunc(m.ids, func(id uuid.UUID) bool { return seen[id] }) {
			return i
		}
		for _, id := range m.ids {
			seen[id] = true
		}
	}
	return n
}

// newMember returns w with JSON of its own: the group may still send it after the call has
// returned, when the caller may change its bytes.
func newMember(w *proposedWrite) *member {
	m := &member{proposedWrite: w, news: make(chan news, 1)}
	for i := range w.ids {
		m.bytes += len(w.stream) + len(w.types[i]) + messageOverhead
		for _, text := range []*string{w.data[i], w.metadata[i]} {
			if text != nil {
				*text = strings.Clone(*text)
				m.bytes += len(*text)
			}
		}
	}
	return m
}

func (m *member) tell(kind newsKind, err error) { m.news <- news{kind, err} }

// wait waits for the news of the member, unless ctx ends first.
func (m *member) wait(ctx context.Context) (n news, ok bool) {
	select {
	case n = <-m.news:
		return n, true
	case <-ctx.Done():
		return news{}, false
	}
}

// heard returns the news of the member if there are any.
func (m *member) heard() (n news, ok bool) {
	select {
	case n = <-m.news:
		return n, true
	default:
		return news{}, false
	}
}

// wait waits until no group is under way.
func (g *groups) wait() {
	for {
		g.mu.Lock()
		if g.active == 0 {
			g.mu.Unlock()
			return
		}
		if g.idle == nil {
			g.idle = make(chan struct{})
		}
		idle := g.idle
		g.mu.Unlock()
		<-idle
	}
}
