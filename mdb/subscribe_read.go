package mdb

import (
	"context"
	"errors"
)

// errMoreSteps is returned by a source's page if the read takes a further step. Each step
// has the time of a read of its own, and if it fails, it alone is retried.
var errMoreSteps = errors.New("the read takes a further step")

// pageReader returns the page function of a source. r is kept between calls: with the steps
// of a page, and with the size of parts if a page was too large.
func (s *Store) pageReader(r pageRead) func(context.Context, readConfig) ([]Message, int64, error) {
	r.complete = true
	return func(ctx context.Context, c readConfig) (page []Message, head int64, err error) {
		if r.complete {
			r.position = c.position
		}
		filtered := c.condition != nil || c.size != nil || c.correlation != nil
		r.withHead = filtered && (r.isStream || !s.headless.Load())
		done, err := s.step(ctx, &r)
		if err != nil && r.withHead && !r.isStream && classify(err) == classSetup && !s.headed.Load() {
			// A role may be allowed to call the procedures but not to read the table. Then
			// progress advances only with messages that the filter selects.
			r.withHead = false
			if done, err = s.step(ctx, &r); err == nil {
				s.headless.Store(true)
			}
		}
		if err == nil && !done {
			return nil, 0, errMoreSteps
		}
		switch {
		case r.withHead && err == nil:
			head = r.head
			s.headed.Store(true)
		case r.isStream:
			head = NoStream
		}
		return r.page, head, err
	}
}

// readPage reads the next page. If a message that cannot be read ends it, unreadable names
// that message.
func (s *subscription) readPage(ctx context.Context) (page []Message, head int64, unreadable *UnreadableError, err error) {
	for more := true; more && err == nil; {
		err = s.retryTransient(ctx, func(ctx context.Context) (err error) {
			s.sleeper.BeforeRead()
			page, head, err = s.page(ctx, s.read)
			if more = errors.Is(err, errMoreSteps); more || errors.As(err, &unreadable) {
				return nil
			}
			return err
		})
	}
	return page, head, unreadable, err
}

// pass calls OnUnreadable for a message that cannot be read, after everything before it is
// handled, and skips it.
func (s *subscription) pass(ctx context.Context, unreadable *UnreadableError, progress func() error) error {
	if err := s.workerSet.waitForPending(ctx, 0, progress); err != nil {
		return err
	}
	if s.onUnreadable == nil {
		return unreadable
	}
	m := Message{Stream: unreadable.Stream, Position: unreadable.Position, GlobalPosition: unreadable.GlobalPosition}
	if err := s.invoke(ctx, &m, func() error { return s.onUnreadable(ctx, unreadable) }); err != nil {
		return err
	}
	s.read.position = s.position(&m) + 1
	if err := s.deliver(ctx, nil); err != nil {
		return err
	}
	return progress()
}
