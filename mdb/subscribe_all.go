package mdb

import (
	"context"
	"hash/fnv"
	"slices"

	"github.com/messagedb-go/messagedb/internal/barrier"
	"github.com/messagedb-go/messagedb/internal/source"
)

// kindAll is the kind of a source of all categories.
const kindAll = "all"

// SubscribeToAll is like SubscribeToCategory for all categories of the store, or for those of
// [InCategories]. Messages are delivered in the order of their global positions, and none is
// skipped: where positions are missing, the subscription waits until the transactions have ended
// that may have drawn them, see [Store.GetAllMessages]. A transaction that stays open delays
// what comes after its first position, and is logged. Store the checkpoint that [OnAllProgress]
// receives, and resume with [AfterAllCheckpoint].
//
// Writers do not notify for it, so it polls, as its strategy says, see [WithPolling]: a message
// is delivered after at most the strategy's delay, which is a second by default. Writes of the same
// Store wake it immediately, and with [WithNotify], so do notifications that are sent because
// others wait for them.
//
// If the store loses its last messages, those that are lost may be older than others that are
// not, because transactions commit in another order than that of their positions. The
// subscription delivers every message that is written afterwards. [OnFork] receives the lost
// messages that it knows: for this, it looks with each read at the newest messages of the last
// 32 categories that it has handled.
func (s *Store) SubscribeToAll(ctx context.Context, h Handler, opts ...AllSubscribeOption) error {
	c := newSubscribeConfig(s.config, h)
	c.name = allName
	c.read.position = 1
	for _, opt := range opts {
		opt.allSubscribe(&c)
	}
	c.read.checkAll()
	return s.subscribe(ctx, c, s.allSource(c.read))
}

// SubscribeToCategories is SubscribeToAll with [InCategories].
func (s *Store) SubscribeToCategories(ctx context.Context, categories []Category, h Handler, opts ...AllSubscribeOption) error {
	return s.SubscribeToAll(ctx, h, append(slices.Clone(opts), InCategories(categories...))...)
}

func (s *Store) allSource(c readConfig) *messageSource {
	src := &messageSource{kind: kindAll, position: func(m *Message) int64 { return m.GlobalPosition }}
	r := pageRead{readConfig: c, all: new(allRead)}
	s.connectSource(src, r)
	src.page = s.allReader(r)
	src.compare = func(ctx context.Context, known []anchor) ([]bool, error) { return s.compareInAll(ctx, known) }
	src.end, src.after = s.lastFinal, s.afterInAll
	src.wants = func(stream string) bool {
		return c.categories == nil || slices.Contains(c.categories, string(StreamName(stream).Category()))
	}
	return src
}

// allReader returns the page function of a source of all categories.
func (s *Store) allReader(r pageRead) func(context.Context, question) (answer, error) {
	r.follows = true
	return func(ctx context.Context, q question) (answer, error) {
		if q.first {
			r.start(q)
			r.all.expect(q.from.Latest())
		}
		done, err := s.hookedStep(ctx, &r)
		a := answer{messages: r.page, head: r.noAnchor(), more: r.all.more}
		if err == nil && !done {
			return a, errMoreSteps
		}
		if err == nil && r.all.head.Position > 0 {
			a.head = r.all.head
		}
		return a, err
	}
}

// compareInAll reports which of the anchors are in the store.
func (s *Store) compareInAll(ctx context.Context, known []anchor) (there []bool, err error) {
	there = make([]bool, len(known))
	var d drawn
	err = s.runFinal(ctx, &d, step{st: barrierDrawn, read: d.read}, compareStep(compareInCategory, known, there))
	if err != nil {
		err = explain("look for known messages of all categories", err)
	}
	return there, err
}

// lastFinal returns the checkpoint after the last message that is final.
func (s *Store) lastFinal(ctx context.Context) (checkpoint, error) {
	final, err := s.reach(ctx, barrier.Now)
	if err != nil {
		return checkpoint{}, err
	}
	last, _, err := s.lastUpTo(ctx, final, final.Position)
	if err != nil {
		s.barrier.Forget(final.Server) // the error may say so
	}
	return checkpointAt(last, &pageRead{}), err
}

// afterInAll returns the checkpoint of a position, with the last message up to it as its anchor.
func (s *Store) afterInAll(ctx context.Context, position int64) (checkpoint, error) {
	last, drawn, err := s.lastUpTo(ctx, barrier.Final{}, position)
	if err == nil && position > drawn {
		err = &AheadError{Position: position, Last: drawn}
	}
	if err != nil {
		return checkpoint{}, err
	}
	return checkpointAt(last, &pageRead{}).Past(position), nil
}

// lastUpTo returns the anchor of the last message up to a position, and the last position that
// was drawn.
func (s *Store) lastUpTo(ctx context.Context, final barrier.Final, position int64) (last anchor, drawn int64, err error) {
	r := pageRead{all: &allRead{final: final}}
	err = s.runInAll(ctx, &r, step{st: beforeInAll, read: anchorInto(&last), args: []any{position}}, func() {})
	if err != nil {
		err = explain("find a position", err)
	}
	return last, r.all.drawn.last, err
}

// latestOf returns the message as the newest of its category.
func latestOf(m *Message) source.Latest {
	h := fnv.New32a()
	h.Write([]byte(m.Stream.Category()))
	return source.Latest{Anchor: anchorOf(m, m.GlobalPosition), Category: h.Sum32()}
}
