package mdb

import (
	"context"

	"github.com/messagedb-go/messagedb/internal/source"
)

// ahead is the read of the page after the one that the handler has, so that the server and the
// handler work at the same time. Such a read reports nothing that fails, and no loss of messages:
// the loop then reads the page itself, when it is due. So callbacks are called by the loop only, one
// at a time.
type ahead struct {
	read *aheadRead // nil: no page is read ahead
	// launch begins a read, and returns a function that waits until it has ended. It is inGoroutine, or
	// nil if no pages are read ahead. Tests choose when the read happens.
	launch func(read func()) (wait func())
}

type aheadRead struct {
	wait func() // until the other fields are set
	page source.Page[Message]
	ok   bool
}

// readAhead begins to read the next page.
func (s *subscription) readAhead(ctx context.Context) {
	if s.ahead.launch == nil {
		return
	}
	from, r := s.next, new(aheadRead)
	s.ahead.read = r
	r.wait = s.ahead.launch(func() {
		defer func() { _ = recover() }() // what panics will do so in the caller's goroutine, when the page is due
		r.page, r.ok = s.tryNext(ctx, from, int(s.read.batchSize))
	})
}

func inGoroutine(read func()) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		read()
	}()
	return func() { <-done }
}

// nextPage returns the page that was read ahead, or reads one. A page that was read early may lack
// messages that were written while the handler had the one before.
func (s *subscription) nextPage(ctx context.Context) (page source.Page[Message], early bool, err error) {
	if r := s.ahead.read; r != nil {
		s.ahead.read = nil
		r.wait()
		if r.ok {
			return r.page, true, nil
		}
	}
	page, err = s.Next(ctx, s.next, int(s.read.batchSize))
	return page, false, err
}

// dropAhead returns when a read ahead has released its connection.
func (s *subscription) dropAhead() {
	if r := s.ahead.read; r != nil {
		s.ahead.read = nil
		r.wait()
	}
}
