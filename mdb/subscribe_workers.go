package mdb

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
)

const (
	maxWorkers = 1000
	// aheadOfWorker is the number of messages for each worker that may be pending when
	// the next page is read, if a page is smaller.
	aheadOfWorker = 16
)

// WithWorkers makes n workers, 1 to 1,000, handle the messages of one subscription
// concurrently. The hash of a stream's cardinal ID selects its worker, as it selects the
// member of a consumer group, see [Hash64]; all streams without an ID have the same
// worker. Each worker handles its messages in order, so the order is kept within a stream
// and within a cardinal ID, but not beyond. One worker is the same as no such option.
//
// Store the checkpoint that [OnProgress] receives, and nothing else. Do not store the position
// of the message in the handler, not even in the transaction of its result: workers are at
// different positions, so a position stored by one of them says nothing about messages
// that others have not handled, and a call that resumes there loses these. Handlers must
// expect that messages are delivered again, as described below. Package
// [github.com/messagedb-go/messagedb/mdb/consumer] stores positions itself, and has forms of
// handlers whose effects happen exactly once, also with several workers.
//
// The handler must be safe for concurrent use. The other callbacks are still called one
// at a time, from the caller's goroutine, but while workers handle messages:
//
//   - [OnProgress] receives a checkpoint when everything up to it is handled, regardless of
//     what is handled beyond it.
//   - [OnLive] receives true when everything that existed when the subscription caught up
//     is handled, and false as soon as the subscription knows that it has not caught up.
//
// The subscription reads the next page while workers handle earlier ones. Messages are
// pending from the first page on that is not completely handled. At most two pages are
// pending, see [WithBatchSize] and [WithBatchBytes], or one page and 16 messages for each worker if
// those are more messages and not more bytes. Pending messages are in memory, and are delivered
// again if a caller resumes from OnProgress. If one slow worker keeps a page pending, reading pauses at this limit.
//
// The first error of a handler ends the subscription. No further handler is called, the
// contexts of running handlers end with the error as their cause, and the subscription
// returns when these handlers have. Messages that they still handle count as handled.
func WithWorkers(n int) GlobalSubscribeOption {
	return workersOption(n)
}

type workersOption int

func (o workersOption) allSubscribe(c *subscribeConfig) { o.categorySubscribe(c) }

func (o workersOption) categorySubscribe(c *subscribeConfig) {
	if o < 1 || o > maxWorkers {
		c.faults.add("workers", strconv.Itoa(int(o)), "1 to "+strconv.Itoa(maxWorkers))
	}
	c.workers = int(o)
}

// A workerSet distributes a subscription's messages among workers. Fields without a
// comment about other goroutines belong to the loop's goroutine. Methods are called from
// it unless they say otherwise. A nil set has no workers.
type workerSet struct {
	workers []worker                               // set before the workers start
	group   uint64                                 // the size of the consumer group that the subscription is a member of, or 1
	ahead   int                                    // with more pending messages, no page is read
	most    int64                                  // likewise, in bytes
	through func(checkpoint, []Message) checkpoint // the source's; workers do not call it

	pages   []*pendingPage // in the order of their reads
	pending int            // messages in pages
	bytes   int64          // of these messages
	end     checkpoint     // everything up to it was given to workers

	// moved receives a value, from a worker, when a page is completely handled.
	moved chan struct{}

	running sync.WaitGroup
	cancel  context.CancelCauseFunc // ends the workers' context
	// first guards err, the first error. Any goroutine may set it; read it only when no
	// worker is running.
	first sync.Once
	err   error
}

// A worker is a goroutine with its queue of messages.
type worker struct {
	// mu guards tasks, to which the loop appends and from which the worker takes. It is
	// not held while a handler runs.
	mu    sync.Mutex
	tasks []task

	// wake receives a value, from the loop, after it appended tasks.
	wake chan struct{}
}

// A task is a message to be handled.
type task struct {
	page *pendingPage
	i    int // the message's index in the page
}

// A pendingPage is a page whose messages were given to workers.
type pendingPage struct {
	messages []Message  // not changed
	bytes    int64      // of the messages
	before   checkpoint // everything up to it was given to workers earlier

	// handled has an element for each message, which only the message's worker sets. The
	// loop reads it when no worker is running.
	handled []bool
	// left counts the messages that are not handled. A worker decrements it after it set
	// the element of handled.
	left atomic.Int64
}

// runWorkers runs the loop with workers, and returns after all of them have returned.
func (s *subscription) runWorkers(ctx context.Context) error {
	work, cancel := context.WithCancelCause(ctx)
	set := &workerSet{
		workers: make([]worker, s.workers),
		group:   1,
		ahead:   max(int(s.read.batchSize), s.workers*aheadOfWorker),
		most:    s.read.batchBytes,
		through: s.through,
		end:     s.handled,
		moved:   make(chan struct{}, 1),
		cancel:  cancel,
	}
	if s.read.size != nil {
		set.group = uint64(*s.read.size)
	}
	s.workerSet = set
	// A callback may call runtime.Goexit.
	defer set.running.Wait()
	defer cancel(nil)
	for i := range set.workers {
		w := &set.workers[i]
		w.wake = make(chan struct{}, 1)
		set.running.Go(func() { s.work(work, w) })
	}
	err := s.loop(ctx, work)
	if ctx.Err() == nil {
		set.fail(err)
	}
	set.running.Wait()
	s.handled = set.exactlyHandled()
	if set.err != nil {
		return set.err
	}
	return err
}

// work is a worker's goroutine: it handles the worker's messages until ctx ends, and then
// returns when the handler that is running does.
func (s *subscription) work(ctx context.Context, w *worker) {
	var m *Message
	defer func() {
		if m != nil {
			s.workerSet.fail(newHandlerError(*m, errHandlerExits))
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
			if err := s.invoke(ctx, m, func() error { return s.handler(ctx, *m) }); err != nil {
				m = nil
				s.workerSet.fail(err)
				return
			}
			m = nil
			s.workerSet.done(t)
			tasks[i] = task{} // lets a completely handled page be freed
		}
	}
}

// errHandlerExits is the error of a handler that calls runtime.Goexit, which ends its
// worker.
var errHandlerExits = errors.New("it ended the goroutine, as t.FailNow does")

// fail ends the workers' context because of err, if it is the first error. Workers call it
// too.
func (s *workerSet) fail(err error) {
	s.first.Do(func() {
		s.err = err
		s.cancel(err)
	})
}

// done is called by a worker that has handled the message.
func (s *workerSet) done(t task) {
	t.page.handled[t.i] = true
	if t.page.left.Add(-1) == 0 {
		signal(s.moved)
	}
}

// add gives a page to the workers. The read covered everything up to end.
func (s *workerSet) add(page []Message, end checkpoint) {
	if len(page) > 0 {
		pending := &pendingPage{messages: page, before: s.end, handled: make([]bool, len(page))}
		pending.left.Store(int64(len(page)))
		for i := range page {
			pending.bytes += page[i].size()
			w := s.worker(page[i].Stream)
			w.mu.Lock()
			w.tasks = append(w.tasks, task{pending, i})
			w.mu.Unlock()
			signal(w.wake)
		}
		s.pages = append(s.pages, pending)
		s.pending += len(page)
		s.bytes += pending.bytes
	}
	s.end = end
}

// worker returns the worker of a stream. All streams of a member of a group of n have the
// same remainder of the hash by n, so the worker is selected by the quotient.
func (s *workerSet) worker(stream StreamName) *worker {
	hash := Hash64(stream.CardinalID())
	return &s.workers[uint64(max(hash, -hash))/s.group%uint64(len(s.workers))]
}

// release drops the leading pages that are completely handled. It returns the checkpoint up
// to which everything is handled.
func (s *workerSet) release() checkpoint {
	for len(s.pages) > 0 && s.pages[0].left.Load() == 0 {
		s.pending -= len(s.pages[0].messages)
		s.bytes -= s.pages[0].bytes
		s.pages[0] = nil
		s.pages = s.pages[1:]
	}
	if len(s.pages) == 0 {
		return s.end
	}
	return s.pages[0].before
}

// exactlyHandled is like release, but the checkpoint may be within a page. Call it when no
// worker is running.
func (s *workerSet) exactlyHandled() checkpoint {
	handled := s.release()
	if len(s.pages) > 0 {
		page := s.pages[0]
		n := slices.Index(page.handled, false) // not -1, because release would have dropped the page
		handled = s.through(handled, page.messages[:n])
	}
	return handled
}

// waitForCapacity waits until another page may be read.
func (s *workerSet) waitForCapacity(ctx context.Context, progress func() error) error {
	if s == nil {
		return nil
	}
	return s.waitForPending(ctx, s.ahead, s.most, progress)
}

// waitForAll waits until everything is handled that was given to workers.
func (s *workerSet) waitForAll(ctx context.Context, progress func() error) error {
	return s.waitForPending(ctx, 0, 0, progress)
}

// waitForPending waits until at most the given number of messages, of at most the given size,
// is pending. It calls progress, which releases pages.
func (s *workerSet) waitForPending(ctx context.Context, messages int, bytes int64, progress func() error) error {
	for s != nil && (s.pending > messages || s.bytes > bytes) {
		select {
		case <-s.moved:
			if err := progress(); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// moves returns a channel that receives a value when progress may have advanced.
func (s *workerSet) moves() <-chan struct{} {
	if s == nil {
		return nil
	}
	return s.moved
}

// signal sends to a channel with a buffer of one, unless it is full.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
