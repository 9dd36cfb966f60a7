package consumer

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// OnLive sets a function that is called with true when the consumer has caught up in this
// process: all messages of the process's partitions that existed then are handled, skipped or
// parked, and that is stored. It is called with false after two full pages in a row, which show
// that the consumer has not caught up, or does not keep up. The first call is made when the
// process has partitions and knows its state, so a process without partitions makes none. Later
// calls are made when the state changes. Use it for example to report when a projection can be
// read. It says nothing about the partitions of other processes.
//
// The functions of OnLive, [OnPartitions] and [OnRetry] are called by one goroutine of the
// consumer, one call at a time: first OnRetry, then OnPartitions, then OnLive, if there is
// something to report for several. While a call runs, a state replaces an earlier one that has
// not been passed on, so the last call always has the current state. A slow function does not
// delay messages or heartbeats, but Run waits for it when it ends. If a function panics, none of
// the three is called again, and Run ends as if its context had ended, with an error that wraps a
// [*mdb.PanicError].
func OnLive(f func(live bool)) Option {
	return Option{name: "OnLive", apply: func(c *config) {
		if f == nil {
			c.fault("OnLive", "nil", "a function")
		}
		c.observed.live = f
	}}
}

// OnPartitions sets a function that is called with the numbers of the partitions that belong to
// this process, in ascending order, when they have changed: when the process has taken some, has
// given some back, or has lost its lease. Messages of a new partition may be handled before the
// call. A partition is given back after the calls of its handlers have returned. The last call of
// a run has none. The function may keep the slice. See [OnLive] for how it is called.
func OnPartitions(f func(held []int)) Option {
	return Option{name: "OnPartitions", apply: func(c *config) {
		if f == nil {
			c.fault("OnPartitions", "nil", "a function")
		}
		c.observed.partitions = f
	}}
}

// OnRetry sets a function that is called when a read has failed and will be retried, or a
// statement by which the process joins the consumer, renews its lease or shares partitions.
// [mdb.Retry.Attempt] counts the failures in a row, separately for the reads of each category and
// for the other statements. If one of them fails again before the function was called for the
// last time, only the later failure is passed on. See [OnLive] for how it is called. Errors of the
// handler are those of [OnFailure].
func OnRetry(f func(mdb.Retry)) Option {
	return Option{name: "OnRetry", apply: func(c *config) {
		if f == nil {
			c.fault("OnRetry", "nil", "a function")
		}
		c.observed.retry = f
	}}
}

// observed are the functions of OnLive, OnPartitions and OnRetry. Each may be nil.
type observed struct {
	live       func(bool)
	partitions func([]int)
	retry      func(mdb.Retry)
}

// An observer calls them, in a goroutine of its own. Its methods are safe for concurrent use, do
// not block, and do nothing if it is nil.
type observer struct {
	call       observed
	categories int
	explain    func(error) error // of the member's statements
	woken      chan struct{}     // contains a value if there may be something to call
	closed     chan struct{}
	done       chan struct{} // is closed when nothing is called any more

	// mu guards the following fields.
	mu     sync.Mutex
	ends   map[string]int64 // where the categories end of which everything is read
	live   bool
	held   []int // the last known partitions
	passed *bool // the last value passed to OnLive; nil: none

	// What is to be passed on, if it is not nil.
	nextLive    *bool
	nextHeld    []int
	nextRetries map[string]mdb.Retry // by the category that is read, or "" for the member
}

// newObserver returns an observer that has begun, or nil if there is nothing to call. failed is
// called if a function panics.
func newObserver(c observed, categories int, explain func(error) error, failed func(error)) *observer {
	if c.live == nil && c.partitions == nil && c.retry == nil {
		return nil
	}
	o := &observer{
		call: c, categories: categories, explain: explain,
		woken: make(chan struct{}, 1), closed: make(chan struct{}), done: make(chan struct{}),
		ends: make(map[string]int64),
	}
	go o.run(failed)
	return o
}

// close passes on what is left, and that no partitions are left. It returns when all calls have.
func (o *observer) close() {
	if o == nil {
		return
	}
	o.mu.Lock()
	o.hold(nil)
	o.mu.Unlock()
	close(o.closed)
	<-o.done
}

func (o *observer) run(failed func(error)) {
	err := errHandlerEnds
	defer close(o.done)
	defer func() {
		if err != nil {
			failed(err)
		}
	}()
	for last := false; ; {
		if err = o.pass(); err != nil || last {
			return
		}
		err = errHandlerEnds
		select {
		case <-o.woken:
		case <-o.closed:
			last = true
		}
	}
}

// pass calls the functions with what is to be passed on.
func (o *observer) pass() error {
	o.mu.Lock()
	retries, held, live := o.nextRetries, o.nextHeld, o.nextLive
	o.nextRetries, o.nextHeld, o.nextLive = nil, nil, nil
	if live != nil && o.passed != nil && *live == *o.passed {
		live = nil
	}
	if live != nil {
		o.passed = live
	}
	o.mu.Unlock()
	for _, source := range slices.Sorted(maps.Keys(retries)) {
		if err := callObserved("OnRetry", func() { o.call.retry(retries[source]) }); err != nil {
			return err
		}
	}
	if held != nil {
		if err := callObserved("OnPartitions", func() { o.call.partitions(held) }); err != nil {
			return err
		}
	}
	if live != nil {
		return callObserved("OnLive", func() { o.call.live(*live) })
	}
	return nil
}

func callObserved(option string, f func()) error {
	if err := guard(func() error { f(); return nil }); err != nil {
		return fmt.Errorf("consumer: the function of %s failed: %w", option, err)
	}
	return nil
}

func (o *observer) signal() {
	select {
	case o.woken <- struct{}{}:
	default:
	}
}

// retried records a failure that is retried. Source is the category that is read, or empty.
func (o *observer) retried(source string, attempt int, err error) {
	if o == nil || o.call.retry == nil {
		return
	}
	if source == "" {
		err = o.explain(err)
	}
	o.mu.Lock()
	if o.nextRetries == nil {
		o.nextRetries = make(map[string]mdb.Retry)
	}
	o.nextRetries[source] = mdb.Retry{Attempt: attempt, Err: err}
	o.mu.Unlock()
	o.signal()
}

// read records whether everything of a category is read for the process's partitions, and up to
// which position, see readerConfig.live.
func (o *observer) read(category string, live bool, upto int64) {
	if o == nil || o.call.live == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if live {
		o.ends[category] = upto
		return // the member looks whether it is handled, too
	}
	delete(o.ends, category)
	o.setLive(false)
}

func (o *observer) setLive(live bool) {
	o.live, o.nextLive = live, &live
	o.signal()
}

// stepped records what the member has after a step. known is false if it is about to read some of that again. stored are the
// checkpoints that the server has confirmed.
func (o *observer) stepped(held map[partition]ledger.Row, known bool, stored func() map[partition]int64) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.call.partitions != nil {
		numbers := make([]int, 0, len(held))
		for p := range held {
			numbers = append(numbers, p.Number)
		}
		slices.Sort(numbers)
		o.hold(slices.Compact(numbers))
	}
	if o.call.live == nil || o.live || !known || len(o.ends) < o.categories || len(held) == 0 {
		return
	}
	at := stored()
	for p := range held {
		if at[p] < o.ends[p.Category] {
			return
		}
	}
	o.setLive(true)
}

func (o *observer) hold(numbers []int) {
	if o.call.partitions != nil && !slices.Equal(numbers, o.held) {
		o.held, o.nextHeld = numbers, append([]int{}, numbers...)
		o.signal()
	}
}
