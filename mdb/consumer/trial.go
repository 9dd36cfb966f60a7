package consumer

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/trial"
)

// The part of package consumertest that needs the engine.
func init() {
	trial.InMemory = inMemory
	trial.CatchUp = trialCatchUp
}

// mostCalls is how often a trial calls the handler in a row without getting further.
const mostCalls = 100

// trialWait is the longest wait between the attempts of a trial.
const trialWait = time.Millisecond

// A watcher reports what happens to messages that cannot be handled.
type watcher struct {
	report func(trial.Event, Failure)

	mu    sync.Mutex
	stuck map[int64]*Failure // by global position, of messages at which calls have failed
}

func newWatcher(report func(trial.Event, Failure)) *watcher {
	return &watcher{report: report, stuck: make(map[int64]*Failure)}
}

// adjust lets an engine report to the watcher.
func (w *watcher) adjust(c *engineConfig) {
	handle, decided, park := c.form.call, c.decided, c.park
	c.form.call = func(ctx context.Context, call call) (int, error) {
		done, err := handle(ctx, call)
		w.called(call.deliveries, done, err)
		return done, err
	}
	c.decided = func(f Failure, a Action) {
		w.report(trial.Failed, f)
		if a.what == toSkip {
			w.report(trial.Skipped, f)
		}
		if decided != nil {
			decided(f, a)
		}
	}
	c.park = func(ctx context.Context, d *delivery, f Failure, move *ledger.Move) error {
		err := park(ctx, d, f, move)
		if err == nil && f.Attempt > 0 {
			w.report(trial.Parked, f)
		}
		return err
	}
}

// called counts the calls that have failed without getting past a message.
func (w *watcher) called(ds []delivery, done int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil || done == len(ds) {
		return
	}
	d := &ds[done]
	f := w.stuck[d.message.GlobalPosition]
	if f == nil {
		f = &Failure{Message: d.message.Clone(), Partition: d.partition.Number}
		w.stuck[d.message.GlobalPosition] = f
	}
	f.Attempt++
	f.Err = err
}

// stuckAt returns the failure of a message that was handled too often, or nil.
func (w *watcher) stuckAt(position int64) *Failure {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f := w.stuck[position]; f != nil && f.Attempt >= mostCalls {
		return f
	}
	return nil
}

// trialCatchUp is CatchUp that reports, does not wait, and gives up.
func trialCatchUp(ctx context.Context, c *Consumer, report func(trial.Event, Failure)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := newWatcher(report)
	return c.runAdjusted(ctx, true, func(config *engineConfig) {
		config.maxWait = trialWait
		w.adjust(config)
		handle := config.form.call
		config.form.call = func(ctx context.Context, call call) (int, error) {
			done, err := handle(ctx, call)
			if done < len(call.deliveries) {
				if f := w.stuckAt(call.deliveries[done].message.GlobalPosition); f != nil {
					cancel(fmt.Errorf("the handler was called %d times in a row for the message at %s/%d, and the last error is: %w",
						f.Attempt, f.Message.Stream, f.Message.Position, f.Err))
				}
			}
			return done, err
		}
	})
}

// runHere calls handlers in this goroutine until nothing is left to do, instead of run. It does
// not wait between attempts. A lane whose first message is stuck is left.
func (e *engine) runHere(ctx context.Context, stuck func(position int64) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var w worker
	e.mu.Lock() // not by defer: a handler may end the goroutine, and does not have it
	e.ctx, e.cancel = ctx, cancel
	for !e.over {
		if e.ready.head == nil {
			if !e.endRetryWaits(stuck) {
				break
			}
			continue
		}
		if !e.prepare(&w, e.ready.pop()) {
			continue
		}
		e.mu.Unlock()
		if w.pending != nil {
			e.park(&w)
		} else {
			e.handle(&w)
		}
	}
	err := e.err
	e.mu.Unlock()
	return err
}

// endRetryWaits makes the lanes ready that wait for a retry, and reports whether there are any.
func (e *engine) endRetryWaits(stuck func(position int64) bool) bool {
	lanes := e.waitingLanes()
	lanes = slices.DeleteFunc(lanes, func(l *lane) bool { return stuck(l.first()) })
	for _, l := range lanes {
		e.endWait(l)
		e.enqueue(l)
	}
	return len(lanes) > 0
}

// waitingLanes returns the lanes that wait for a retry, in the order of their messages.
func (e *engine) waitingLanes() []*lane {
	var lanes []*lane
	for _, p := range e.parts {
		for l := range e.lanesOf(p) {
			if l.state == laneWaiting && !slices.Contains(lanes, l) {
				lanes = append(lanes, l)
			}
		}
	}
	slices.SortFunc(lanes, func(a, b *lane) int { return cmp.Compare(a.first(), b.first()) })
	return lanes
}

func (l *lane) first() int64 { return l.head.delivery().message.GlobalPosition }
