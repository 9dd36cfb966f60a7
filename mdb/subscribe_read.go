package mdb

import (
	"context"
	"errors"

	"github.com/messagedb-go/messagedb/internal/source"
)

// errMoreSteps is returned by a source's page if the read takes a further step. Each step
// has the time of a read of its own, and if it fails, it alone is retried.
var errMoreSteps = errors.New("the read takes a further step")

// pageReader returns the page function of a source. r is kept between calls: with the steps
// of a page, and with the size of parts if a page was too large.
func (s *Store) pageReader(r pageRead) func(context.Context, question) (answer, error) {
	r.follows = true
	return func(ctx context.Context, q question) (answer, error) { return s.takeStep(ctx, &r, q) }
}

// takeStep takes a step of the read of a page on the store's server.
func (s *Store) takeStep(ctx context.Context, r *pageRead, q question) (answer, error) {
	if q.first {
		r.start(q)
	}
	r.kept = false
	if r.unproved != nil {
		if err := s.prove(ctx, r); err != nil {
			return answer{}, err
		}
	}
	r.tableless = s.headless.Load()
	r.withHead = r.filtered() && !r.tableless
	if s.sharded() { // its shards have a function for the head, and none for an anchor
		r.tableless = true
	}
	usesTable := r.usesTable()
	done, err := s.hookedStep(ctx, r)
	if err != nil && usesTable && classify(err) == classSetup && !s.headed.Load() {
		// A role may be allowed to call the procedures but not to read the table. Then
		// progress advances only with messages that the filter selects.
		sharded := s.sharded() // as the failed step has found out
		r.tableless, r.withHead = true, r.withHead && sharded
		if done, err = s.hookedStep(ctx, r); !sharded && (err == nil || errors.Is(err, errGone)) {
			s.headless.Store(true)
		}
	}
	a := answer{messages: r.page, head: r.noAnchor(), more: r.more, kept: r.kept}
	if err == nil && usesTable && !r.tableless && !s.sharded() {
		s.headed.Store(true)
	}
	if err == nil && !done {
		return a, errMoreSteps
	}
	if err == nil && r.withHead {
		a.head = r.head
	}
	return a, err
}

// firstPage reads the page after a position together with its anchor, and with what shows that the sequence has reached the
// position used. The anchor comes first: what is lost after it was read is not in the page, and the next page notices that. ok is
// false unless all of this has succeeded in one step.
func (s *Store) firstPage(ctx context.Context, r pageRead, position, used, most int64) (from checkpoint, a answer, ok bool) {
	if s.headless.Load() || r.isStream || r.filtered() {
		return from, a, false
	}
	last, before := int64(-1), r.noAnchor()
	r.follows = true
	r.start(question{from: source.At(position), most: most})
	r.most, r.room = most, r.batchBytes
	st, args := s.statement(&r)
	call := r.subscribedCall()
	ctx, begun := s.config.hooks.startRead(ctx, call)
	err := s.runBatch(ctx, nil,
		step{st: lastNumber, read: number(&last)},
		step{st: beforeInCategory, read: anchorInto(&before), args: []any{r.name, position}},
		step{st: st, read: r.read, args: args})
	s.config.hooks.endRead(ctx, call, begun, r.messages, err)
	if err != nil || last >= 0 && max(position, used) > last {
		return from, a, false
	}
	return checkpointAt(before, &r).Past(position), answer{messages: r.messages, head: r.noAnchor(), more: r.cut}, true
}

// start begins a page. What is known of the size of its parts and of messages remains.
func (r *pageRead) start(q question) {
	r.position, r.batchSize = q.from.Position+1, q.most
	r.anchored = len(q.from.Anchors()) > 0
	if r.anchored {
		r.anchor = q.from.Anchors()[0]
	}
	r.clear()
	r.unproved = nil
	r.search, r.searched = nil, false
	r.succeeds, r.fails = 0, 0
}

// prove returns errGone unless what was kept of a step belongs to the history of the step's
// anchor. That is so if the anchor and the last kept message are there at the same time, which
// only one server can show. The last kept message alone shows no loss before it.
func (s *Store) prove(ctx context.Context, r *pageRead) error {
	there, err := s.compareAnchors(ctx, r, []anchor{r.anchor, *r.unproved})
	if err != nil {
		return err
	}
	if !there[0] || !there[1] {
		return errGone
	}
	r.unproved = nil
	return nil
}

// pass calls OnUnreadable for a message that cannot be read, after everything before it is
// handled, and skips it.
func (s *subscription) pass(ctx context.Context, page *source.Page[Message], progress func() error) error {
	if err := s.workerSet.waitForAll(ctx, progress); err != nil {
		return err
	}
	unreadable := page.Unreadable.(*UnreadableError) //nolint:errorlint,forcetypeassert // a source's is one
	if s.onUnreadable == nil {
		return unreadable
	}
	if err := s.invoke(ctx, unreadable.message(), func() error { return s.onUnreadable(ctx, unreadable) }); err != nil {
		return err
	}
	s.next = page.Past
	if err := s.deliver(ctx, nil); err != nil {
		return err
	}
	return progress()
}

// goBack goes back to the newest known message that is in the store, after everything is
// handled that was read before the others were lost.
func (s *subscription) goBack(ctx context.Context, page *source.Page[Message], progress func() error) error {
	if err := s.workerSet.waitForAll(ctx, progress); err != nil {
		return err
	}
	if s.onFork != nil {
		fork := s.describe(page.Gone, page.End.Position)
		if err := s.invoke(ctx, nil, func() error { return s.onFork(ctx, fork) }); err != nil {
			return err
		}
	}
	s.next, s.full, s.liveAt = page.End, 0, notCaughtUp
	s.reported = page.End.Position - 1 // OnProgress receives where the subscription goes on
	if err := s.deliver(ctx, nil); err != nil {
		return err
	}
	return progress()
}

// message returns what identifies the message.
func (e *UnreadableError) message() *Message {
	return &Message{Stream: e.Stream, Position: e.Position, GlobalPosition: e.GlobalPosition}
}
