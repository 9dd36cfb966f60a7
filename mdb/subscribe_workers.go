package mdb

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
)

const (
	maxWorkers = 1000
	// aheadOfWorker is how many messages for each worker may be in hand when the next
	// page is read, if a page is smaller.
	aheadOfWorker = 16
)

// WithWorkers has n workers, 1 to 1,000, handle the messages of one subscription at the
// same time. A stream belongs to the worker that the hash of its cardinal id gives, as
// with a consumer group, see [Hash64]; streams without an id belong to one of them.
// Each worker handles its messages in their order, so the order holds within a stream
// and a cardinal id, and not beyond. With one worker all is as without this option.
//
// The handler has to be safe for concurrent use. The other callbacks are called from
// the caller's goroutine as ever, one at a time, but while workers handle messages:
//
//   - [OnProgress] is told a position when everything up to it has been handled,
//     whatever was handled beyond.
//   - [OnLive] is told true when everything has been handled that was there when the
//     subscription caught up, and false as soon as that is known.
//
// The next page is read while workers still handle the ones before. The messages in
// hand are those from the first page on of which one has not been handled. There are
// two pages of them at most, see [WithBatchSize], or a page and 16 messages for each
// worker if that is more: they are what is in memory, and what a caller that goes on
// from OnProgress is delivered again at most. When they are all there, because one
// worker is slow, nothing is read until it has done with its page.
//
// The first error of a handler ends the subscription. No further message is begun; the
// context of the handlers that are running ends, with the error as its cause, and the
// subscription returns when they have. What they handle in spite of that counts.
func WithWorkers(workers int) CategorySubscribeOption {
	return partitionOption(workers)
}

type partitionOption int

func (o partitionOption) categorySubscribe(c *subscribeConfig) {
	if o < 1 || o > maxWorkers {
		c.faults.add("workers", strconv.Itoa(int(o)), "1 to "+strconv.Itoa(maxWorkers))
	}
	c.workers = int(o)
}

// A partition is the handler side of a subscription, spread over workers. The methods
// are for the loop's goroutine. Those that allow a nil one say that there is no worker.
type partition struct {
	workers  []worker
	group    uint64               // the size of the group of which only one member's streams come, or 1
	ahead    int                  // with more messages in hand no page is read
	position func(*Message) int64 // the subscription's

	pages []*handedPage // those in hand
	held  int           // messages in them
	end   int64         // everything up to here was handed over
	moved chan struct{} // holds something when a page is done with

	running sync.WaitGroup
	first   sync.Once
	err     error // the first, to be looked at when no worker is running
	cancel  context.CancelCauseFunc
}

// A worker is a goroutine with the messages that wait for it.
type worker struct {
	mu    sync.Mutex
	tasks []task
	wake  chan struct{} // holds something when there are tasks
}

type task struct {
	page *handedPage
	i    int
}

// A handedPage is a page in the hands of workers.
type handedPage struct {
	messages []Message
	before   int64        // everything up to here was handed over before
	handled  []bool       // each set by its worker
	left     atomic.Int64 // messages
}

// spread runs the loop with workers, which have returned when it does.
func (s *subscription) spread(ctx context.Context) error {
	work, cancel := context.WithCancelCause(ctx)
	p := &partition{
		workers:  make([]worker, s.workers),
		group:    1,
		ahead:    max(int(s.read.batchSize), s.workers*aheadOfWorker),
		position: s.position,
		end:      s.handled,
		moved:    make(chan struct{}, 1),
		cancel:   cancel,
	}
	if s.read.size != nil {
		p.group = uint64(*s.read.size)
	}
	s.partition = p
	// A callback may leave by runtime.Goexit.
	defer p.running.Wait()
	defer cancel(nil)
	for i := range p.workers {
		w := &p.workers[i]
		w.wake = make(chan struct{}, 1)
		p.running.Go(func() { s.work(work, w) })
	}
	err := s.loop(ctx, work)
	if ctx.Err() == nil {
		p.fail(err)
	}
	p.running.Wait()
	s.handled = p.prefix()
	if p.err != nil {
		return p.err
	}
	return err
}

// work is what a worker does. It may be in the middle of a message when ctx ends.
func (s *subscription) work(ctx context.Context, w *worker) {
	var m *Message
	defer func() {
		if m != nil {
			s.partition.fail(&HandlerError{m.Stream, m.Position, m.GlobalPosition, errHandlerExits})
		}
	}()
	for tasks := []task(nil); ; {
		select {
		case <-w.wake:
		case <-ctx.Done():
			return
		}
		w.mu.Lock()
		tasks, w.tasks = w.tasks, tasks[:0]
		w.mu.Unlock()
		for i, t := range tasks {
			if ctx.Err() != nil {
				return
			}
			m = &t.page.messages[t.i]
			if err := s.call(m, func() error { return s.handler(ctx, *m) }); err != nil {
				m = nil
				s.partition.fail(err)
				return
			}
			m = nil
			s.partition.done(t)
			tasks[i] = task{} // a page that is done with can be freed
		}
	}
}

// errHandlerExits would be a hanging subscription otherwise.
var errHandlerExits = errors.New("it has ended the goroutine, as t.FailNow does")

// fail ends the work because of an error, if it is the first.
func (p *partition) fail(err error) {
	p.first.Do(func() {
		p.err = err
		p.cancel(err)
	})
}

// done is called by workers.
func (p *partition) done(t task) {
	t.page.handled[t.i] = true
	if t.page.left.Add(-1) == 0 {
		signal(p.moved)
	}
}

// add hands a page over. What was read with it ends at the position end.
func (p *partition) add(page []Message, end int64) {
	if len(page) > 0 {
		handed := &handedPage{messages: page, before: p.end, handled: make([]bool, len(page))}
		handed.left.Store(int64(len(page)))
		p.pages = append(p.pages, handed)
		p.held += len(page)
		for i := range page {
			w := p.worker(page[i].Stream)
			w.mu.Lock()
			w.tasks = append(w.tasks, task{handed, i})
			w.mu.Unlock()
			signal(w.wake)
		}
	}
	p.end = end
}

// worker returns the one that a stream belongs to. The members of a group of n take
// the hash's remainder by n, so the streams of one member differ in the rest only.
func (p *partition) worker(stream StreamName) *worker {
	hash := Hash64(stream.CardinalID())
	return &p.workers[uint64(max(hash, -hash))/p.group%uint64(len(p.workers))]
}

// settle lets go of the first pages as far as they are done with. It returns the
// position up to which everything has been handled.
func (p *partition) settle() int64 {
	for len(p.pages) > 0 && p.pages[0].left.Load() == 0 {
		p.held -= len(p.pages[0].messages)
		p.pages[0] = nil
		p.pages = p.pages[1:]
	}
	if len(p.pages) == 0 {
		return p.end
	}
	return p.pages[0].before
}

// prefix is settle to the message, for when no worker is running.
func (p *partition) prefix() int64 {
	handled := p.settle()
	if len(p.pages) > 0 {
		page := p.pages[0]
		for i := 0; page.handled[i]; i++ { // not all of them, as it was not let go of
			handled = p.position(&page.messages[i])
		}
	}
	return handled
}

// room waits until there is room for a page. It calls progress meanwhile, which
// settles.
func (p *partition) room(ctx context.Context, progress func() error) error {
	if p == nil {
		return nil
	}
	for p.held > p.ahead {
		select {
		case <-p.moved:
			if err := progress(); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// moves tells when a call of progress may have something to tell.
func (p *partition) moves() <-chan struct{} {
	if p == nil {
		return nil
	}
	return p.moved
}

// signal puts something into a channel of one place.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
