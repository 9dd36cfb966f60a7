package consumer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime/debug"
	"time"

	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// run reads until ctx ends or an error cannot be retried. It may be called once.
func (r *reader) run(ctx context.Context) error {
	hooks := source.Hooks{BeforeRead: func() bool {
		// Only a page that covers all partitions that have caught up may make the sleeper
		// forget what it was woken for.
		return r.front && r.sleeper.BeforeRead()
	}}
	if r.filters {
		hooks.Wanted = func() (int64, string) { return int64(r.partitions), string(r.wanted) }
	}
	opened, err := r.readerConfig.open(hooks)
	if err != nil {
		return err
	}
	r.source, r.sleeper = opened, opened.Subscribe(r.wants)
	defer r.sleeper.Close()
	if r.polling == nil {
		r.polling = opened.Polling
	}
	for ctx.Err() == nil {
		switch p := r.plan(); {
		case p.next == planRest:
			select {
			case <-r.woken:
			case <-ctx.Done():
			}
			r.due = true
		case p.next == planPoll && !r.due:
			err = r.sleep(ctx)
		default:
			err = r.read(ctx, p)
		}
		if err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

var errWoken = errors.New("there is something else to do")

// sleep waits until the next poll, or until there is something else to do.
func (r *reader) sleep(ctx context.Context) error {
	delay, err := r.delay()
	if err != nil {
		return err
	}
	err = r.sleeper.Sleep(ctx, delay, r.found, r.woken, func() error {
		if r.plan().next != planPoll {
			return errWoken
		}
		return nil
	})
	if !errors.Is(err, errWoken) {
		r.due = true
	}
	return nil
}

// delay asks the strategy.
func (r *reader) delay() (delay time.Duration, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("consumer: the polling strategy failed: %w", &mdb.PanicError{Value: v, Stack: debug.Stack()})
		}
	}()
	r.seen.Retrieved, r.seen.BatchSize = r.found, r.batch
	if r.seen.Empty++; r.found > 0 {
		r.seen.Empty = 0
	}
	delay = r.polling(r.seen)
	r.seen.Previous = delay
	return delay, nil
}

// read reads a page and passes it on.
func (r *reader) read(ctx context.Context, p plan) error {
	r.front = p.front
	from, page, ok := r.first(ctx, p)
	var err error
	if !ok {
		if from, err = r.anchored(ctx, p); err != nil || ctx.Err() != nil {
			return r.unlessAhead(err)
		}
		page, err = r.source.Next(ctx, from, r.batch)
	}
	if err == nil && !page.Forked && p.highest > max(r.used, page.End.Position) {
		if _, err := r.after(ctx, p.highest); err != nil || ctx.Err() != nil {
			return r.unlessAhead(err)
		}
		r.used = p.highest
	}
	switch {
	case page.Forked:
		r.forget()
		r.rewound(r.category, page.End.Position, page.Gone) // also for an mdb.ForkError, with 0
		return nil
	case err != nil:
		return err
	}
	if r.trail != nil {
		if contradicted, err := r.follow(from, &page); contradicted || err != nil {
			return err
		}
	}
	unreadable, err := whose(&page)
	full := page.Full || page.Unreadable != nil
	found := r.take(from, &page, unreadable, full)
	if err != nil {
		return err
	}
	r.used = max(r.used, page.End.Position)
	maps.DeleteFunc(r.ahead, func(position int64, _ bool) bool { return position <= r.used })
	if p.turns {
		r.turn++
	}
	if full {
		r.span = page.End.Position - from.Position
		r.seen = poll.Seen{} // the next poll follows messages, without a delay
	} else {
		r.due, r.found = false, found
	}
	r.report()
	return nil
}

// whose returns the unreadable message that ends the page, or nil, and an error if it is not
// known whose it is.
func whose(page *source.Page[mdb.Message]) (*mdb.UnreadableError, error) {
	if page.Unreadable == nil {
		return nil, nil
	}
	var unreadable *mdb.UnreadableError
	if !errors.As(page.Unreadable, &unreadable) || unreadable.Stream == "" {
		page.Past = page.End // only what precedes it is passed on
		return nil, page.Unreadable
	}
	return unreadable, nil
}

// report calls live.
func (r *reader) report() {
	upto, live := r.caughtUp()
	if upto == math.MaxInt64 {
		return // all were closed meanwhile
	}
	if r.late++; live {
		r.late = 0
	}
	// One full page may happen to contain everything there was.
	if !live && r.late < 2 || r.wasLive != nil && *r.wasLive == live {
		return
	}
	r.wasLive = &live
	if r.live != nil {
		r.live(r.category, live, upto)
	}
}

// anchored returns where the page begins. The history of a position without an anchor is
// unknown, so it is asked for the message before it. For others it is enough to know that the
// store has used them: their first page begins at another one. If this one has an anchor, usually the page shows that.
func (r *reader) anchored(ctx context.Context, p plan) (from source.Checkpoint, err error) {
	if p.highest > r.used && !p.from.checked {
		if from, err = r.after(ctx, p.highest); err != nil {
			return from, err
		}
		r.used = p.highest
	}
	switch at := p.from.at.Position; {
	case p.from.checked || at <= 0:
		return p.from.at, nil
	case at == from.Position:
		return from, nil
	default:
		return r.after(ctx, at)
	}
}

// first reads a page that begins at a position without an anchor, together with what anchored asks for, so that a partition is not
// without a process for longer than necessary.
func (r *reader) first(ctx context.Context, p plan) (from source.Checkpoint, page source.Page[mdb.Message], ok bool) {
	position := p.from.at.Position
	if p.from.checked || position <= 0 {
		return from, page, false
	}
	if from, page, ok = r.source.First(ctx, position, p.highest, r.batch); ok {
		delete(r.ahead, p.highest)
		r.used = max(r.used, p.highest)
		r.check(from)
	}
	return from, page, ok
}

// after looks up the message before a position.
func (r *reader) after(ctx context.Context, position int64) (source.Checkpoint, error) {
	at, err := r.source.After(ctx, position)
	if err == nil {
		delete(r.ahead, position)
		r.check(at)
	}
	return at, err
}

// check gives the anchor of a position to the partitions that are there.
func (r *reader) check(at source.Checkpoint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.cursors {
		if c != nil && c.joined && c.at.Position == at.Position {
			c.at, c.checked = at, true
		}
	}
}

// unlessAhead returns the error, unless a position is for the first time one that the store
// has not used. The store may have failed over after the row was read, and then the row may
// have gone back with it.
func (r *reader) unlessAhead(err error) error {
	var ahead *mdb.AheadError
	if !errors.As(err, &ahead) || r.ahead[ahead.Position] {
		return err
	}
	r.ahead[ahead.Position] = true
	r.forget()
	r.rewound(r.category, ahead.Last, nil)
	return nil
}
