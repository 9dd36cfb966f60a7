package consumer

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// errHandlerExits is the error of a handler that calls runtime.Goexit.
var errHandlerExits = errors.New("it ended the goroutine, as t.FailNow does")

// run calls handlers until ctx ends or a failure stops the consumer, which it returns as a
// *mdb.HandlerError, or else the cause of ctx. Handlers' contexts are derived from ctx, and
// end with the failure too. run returns after all handlers have returned; what they have
// done is in progress then. It may be called once.
func (e *engine) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	e.mu.Lock()
	e.ctx, e.cancel = ctx, cancel
	e.mu.Unlock()
	defer context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.finishAll()
	})()
	for range e.config.workers {
		e.workers.Go(func() { e.work(&worker{}) })
	}
	e.workers.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopTimers()
	if e.err != nil {
		return e.err
	}
	return context.Cause(ctx)
}

// finishAll lets no further call begin.
func (e *engine) finishAll() {
	e.over = true
	e.wakeAll()
}

// stopTimers ends the waits for retries and replays, of which none will be made.
func (e *engine) stopTimers() {
	for _, p := range e.parts {
		e.dropReplays(p)
		for l := range e.lanesOf(p) {
			if l.state == laneWaiting {
				e.endWait(l)
				e.set(l, laneHeld)
			}
		}
	}
}

// stop ends the consumer because of a failure.
func (e *engine) stop(err error) {
	if e.err == nil && !e.over {
		e.err = err
		e.cancel(err)
	}
	e.finishAll()
}

// A worker is a goroutine that calls handlers, and its current call.
type worker struct {
	lane  *lane
	part  *part
	ctx   context.Context //nolint:containedctx // of the call
	call  call
	item  *item // the first one of the call
	moved int   // messages that the form is done with

	pending *Failure // what is to be parked, instead of calling the handler
	replay  *replay  // what is to be replayed, instead
	replayTurn
	reserved bool       // the parked key counts already
	buffer   []delivery // of a call whose messages are of several chunks
	handling bool       // the handler is running
	busy     bool       // there is a call
}

// work calls handlers until the engine is over.
func (e *engine) work(w *worker) {
	defer func() {
		if w.busy { // a function that was called has ended the goroutine
			e.workers.Go(func() { e.work(w) })
		}
	}()
	if w.busy {
		e.exited(w)
	} else {
		e.mu.Lock()
	}
	for e.take(w) {
		e.mu.Unlock()
		switch {
		case w.replay != nil:
			e.takeTurn(w)
		case w.pending != nil:
			e.park(w)
		default:
			e.handle(w)
		}
		if e.notify {
			e.unlock()
			e.mu.Lock()
		}
	}
	e.unlock()
}

// take waits for a call, and returns false if there are no more. It is called with mu.
func (e *engine) take(w *worker) bool {
	for {
		for !e.over && (e.held || e.still || e.ready.head == nil) {
			if e.notify {
				e.unlock()
				e.mu.Lock()
				continue
			}
			e.idle++
			e.wake.Wait()
		}
		if e.over {
			return false
		}
		if l := e.ready.pop(); e.prepare(w, l) {
			return true
		}
	}
}

// prepare makes the next call of a lane, if it has one.
func (e *engine) prepare(w *worker, l *lane) bool {
	for !l.isEmpty() {
		if len(l.replays) > 0 && (l.turn || l.head == nil) {
			if r := l.replays[0]; !r.goesOn() {
				l.replays = l.replays[1:]
				continue
			} else if !e.mayReplay(r.part) { // ticks find it again
				e.dropReplays(r.part)
				continue
			}
			return e.beginReplay(w, l)
		}
		it := l.head
		p, d := it.chunk.part, it.delivery()
		if e.paused(p) {
			e.set(l, laneHeld)
			return false
		}
		if !e.isBefore(it) {
			if l == e.only && e.bringForward(l) {
				continue
			}
			e.set(l, laneHeld)
			return false
		}
		if p.blocked != nil && it.pending == nil {
			switch p.parkedOf(d) {
			case isParked:
				p.blocked[d.key].passed = d.message.GlobalPosition
				e.complete(l)
				continue
			case isFollower:
				it.pending = &Failure{Message: d.message, Partition: p.id.Number}
			case isFree:
			}
		}
		if f := it.pending; f != nil && f.Attempt == 0 && p.parkedOf(d) != isFollower { // its key was replayed
			it.pending = nil
			continue
		}
		if it.pending != nil && !e.reserve(w, it) {
			it.pending = nil
			e.postpone(l, patient.Delay(int(it.failed)))
			return false
		}
		e.begin(w, l)
		return true
	}
	e.release(l)
	return false
}

// begin gives a worker the first messages of a lane.
func (e *engine) begin(w *worker, l *lane) {
	first := l.head
	c := first.chunk
	p := c.part
	first.state = itemRunning
	last, n := first, 1
	if most := e.mostOf(l); most > 1 && first.pending == nil && !first.alone {
		contiguous := true
		for it := first.next; it != nil && n < most && it.chunk.part == p && it.isPlain() && e.isBefore(it); it = it.next {
			contiguous = contiguous && it.chunk == c && it.index == last.index+1
			it.state = itemRunning
			last = it
			n++
		}
		if !contiguous {
			w.buffer = w.buffer[:0]
			for it := first; ; it = it.next {
				w.buffer = append(w.buffer, *it.delivery())
				if it == last {
					break
				}
			}
			w.call.deliveries = w.buffer
		} else {
			w.call.deliveries = c.deliveries[first.index : int(first.index)+n : int(first.index)+n]
		}
	} else {
		w.call.deliveries = c.deliveries[first.index : first.index+1 : first.index+1]
	}
	if e.config.form.moves {
		m := &last.delivery().message
		w.call.from = ledger.Move{
			Partition: p.id, Epoch: p.epoch, From: p.stored, To: m.GlobalPosition,
			Anchor: ledger.Anchor{ID: m.ID, Time: m.Time},
		}
	}
	if p.ctx == nil {
		p.ctx, p.cancel = context.WithCancelCause(e.ctx)
	}
	l.turn = true
	e.set(l, laneRunning)
	p.running++
	e.counters.running++
	w.call.upto = &e.upto
	w.lane, w.part, w.ctx, w.item, w.pending, w.busy = l, p, p.ctx, first, first.pending, true
}

// mostOf returns the number of messages of the lane's next call, at most.
func (e *engine) mostOf(l *lane) int {
	if l.suspects > 0 {
		return min(e.config.form.most, max(1, l.suspects/2))
	}
	return e.config.form.most
}

// isPlain reports whether a message may be handled by the same call as those before it.
func (it *item) isPlain() bool {
	p := it.chunk.part
	return !it.alone && it.pending == nil && (p.blocked == nil || p.parkedOf(it.delivery()) == isFree)
}

// handle calls the handler, and returns with mu.
func (e *engine) handle(w *worker) {
	if e.config.mayBegin != nil && e.config.mayBegin() != nil {
		e.mu.Lock()
		e.held = true
		e.finish(w, 0)
		return
	}
	if w.ctx.Err() != nil || !w.call.mayBegin(len(w.call.deliveries)-1) { // looked at afterwards: before mayBegin agrees again, partitions are forgotten
		e.mu.Lock()
		e.finish(w, 0)
		return
	}
	w.handling = true
	done, err := e.invoke(w)
	w.handling = false
	if n := len(w.call.deliveries); err == nil && 0 < done && done <= n {
		e.mu.Lock()
		w.moved = done
		e.counters.handled += int64(done)
		e.finish(w, done)
		return
	} else if err == nil {
		err = fmt.Errorf("%d of %d messages are done with, without an error", done, n)
		done = 0
	}
	e.fail(w, done, err)
}

func (e *engine) invoke(w *worker) (done int, err error) {
	defer func() {
		if v := recover(); v != nil {
			done, err = 0, &mdb.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return e.config.form.call(w.ctx, w.call)
}

// finish ends a call of which the first messages are done with. The others are queued
// again. It is called with mu.
func (e *engine) finish(w *worker, done int) {
	e.next(e.end(w, done))
}

// next lets a lane continue.
func (e *engine) next(l *lane) {
	if l.isEmpty() {
		e.release(l)
		return
	}
	e.set(l, laneReady)
	if e.ready.push(l); e.ready.head != l { // else this worker takes it
		e.wakeOne()
	}
}

// finishLater is like finish, but the lane waits before its next call.
func (e *engine) finishLater(w *worker, done int, d time.Duration) {
	l := e.end(w, done)
	if l.head == nil {
		e.proceed(l)
		return
	}
	e.counters.retried++
	e.postpone(l, d)
}

// end ends a call. The lane is in no queue then.
func (e *engine) end(w *worker, done int) *lane {
	l, p := w.lane, w.part
	if w.moved > 0 && e.config.form.moves {
		p.stored = w.call.deliveries[w.moved-1].message.GlobalPosition
	}
	if done > 0 {
		l.suspects = max(0, l.suspects-done)
		l.streaks = streaks{}
	}
	n := len(w.call.deliveries)
	for range done {
		e.complete(l)
	}
	for i, it := done, l.head; i < n && it != nil; i, it = i+1, it.next {
		it.state = itemQueued
	}
	clear(w.buffer)
	if w.reserved {
		e.parking--
	}
	p.running--
	e.counters.running--
	w.busy, w.reserved, w.pending, w.moved = false, false, nil, 0
	switch {
	case p.gone:
		e.leave(p, l, n-done)
	case p.surrendered:
		if done < n {
			e.trim(p)
		}
		e.checkDrained(p)
	}
	return l
}

// leave forgets the messages of a call of a partition that is gone.
func (e *engine) leave(p *part, l *lane, left int) {
	for range left {
		e.complete(l)
	}
	if e.lingering[p.id]--; e.lingering[p.id] > 0 {
		return
	}
	delete(e.lingering, p.id)
	if len(e.lingering) == 0 {
		e.notify = true
	}
	if p := e.parts[p.id]; p != nil && p.stale {
		p.stale = false
		e.halt(p, &e.outdated) // the server has refused nothing
	}
}
