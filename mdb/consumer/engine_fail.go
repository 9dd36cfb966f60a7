package consumer

import (
	"errors"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// fail decides what happens to the messages of a call that are not done with. It returns
// with mu.
func (e *engine) fail(w *worker, done int, err error) {
	e.mu.Lock()
	l, left := w.lane, len(w.call.deliveries)-done
	w.moved = done
	e.counters.handled += int64(done)
	switch {
	case w.ctx.Err() != nil, // whatever it is, it may be because of that
		errors.Is(err, errNotBegun):
		e.finish(w, done)
		return
	case e.config.form.moves && ledger.IsFenced(err):
		e.fence(w.part)
		e.finish(w, done)
		return
	}
	item := w.item
	for range done {
		item = item.next
	}
	for i, it := 0, item; i < left; i, it = i+1, it.next {
		it.delivery().attempt++
	}
	if done > 0 {
		l.streaks = streaks{}
	}
	if d, repeat := l.repeat(err); repeat {
		e.finishLater(w, done, d)
		return
	}
	index, known := culprit(err, done, left)
	if !known {
		e.end(w, done)
		l.suspects = left
		if _, after := said(err); after > 0 && l.head != nil {
			e.postpone(l, after)
		} else {
			e.proceed(l)
		}
		return
	}
	l.suspects = 0
	for range index - done {
		item = item.next
	}
	item.alone = true
	if index > done { // those before it are handled first
		e.finish(w, done)
		return
	}
	item.failed++
	e.counters.failed++
	f := Failure{Message: item.delivery().message, Partition: w.part.id.Number, Attempt: int(item.failed), Err: ofMessage(err)}
	e.mu.Unlock()
	a, err := e.decide(f)
	e.mu.Lock()
	if w.ctx.Err() != nil {
		e.finish(w, done)
		return
	}
	switch a.what {
	case toSkip:
		e.counters.skipped++
		e.finish(w, done+1)
	case toPark:
		item.pending = &f
		e.finish(w, done)
	case toStop:
		e.stop(handlerError(f.Message, err))
		e.finish(w, done)
	default:
		d := a.after
		if d == 0 {
			d = patient.Delay(int(item.failed))
		}
		e.finishLater(w, done, d)
	}
}

func handlerError(m mdb.Message, err error) error {
	return source.NewHandlerError.(func(mdb.Message, error) *mdb.HandlerError)(m, err) //nolint:forcetypeassert // what mdb sets
}

// decide asks the policy. err is the error with which the consumer stops, if it does.
func (e *engine) decide(f Failure) (a Action, err error) {
	err = guard(func() error {
		if a = e.config.policy(f); a.what == byDefault {
			a = f.Default()
		}
		if e.config.decided != nil {
			e.config.decided(f, a)
		}
		return nil
	})
	if err != nil {
		return f.Stop(), err
	}
	return a, f.Err
}

// guard returns the panic of a function as an error.
func guard(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &mdb.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return f()
}

// culprit returns the index of the message in the call that an error is of, if it is known.
func culprit(err error, done, left int) (index int, known bool) {
	var b *BatchError
	if errors.As(err, &b) && b.Index >= done && b.Index < done+left {
		return b.Index, true
	}
	what, _ := said(err)
	return done, left == 1 || what == toStop
}

// ofMessage returns the error of the message that a *BatchError names.
func ofMessage(err error) error {
	if b, ok := err.(*BatchError); ok && b.Err != nil { //nolint:errorlint // what wraps it says more than it
		return b.Err
	}
	return err
}

// exited deals with a function that has called runtime.Goexit. It returns with mu.
func (e *engine) exited(w *worker) {
	switch {
	case w.handling && w.replay != nil:
		w.handling = false
		e.failReplay(w, 0, errHandlerExits)
		return
	case w.handling:
		w.handling = false
		e.fail(w, 0, errHandlerExits)
		return
	}
	e.mu.Lock()
	if w.replay != nil {
		e.exitedTurn(w)
		return
	}
	e.stop(handlerError(w.item.delivery().message, errHandlerExits))
	e.finish(w, 0)
}

// reserve reports whether a message may be parked.
func (e *engine) reserve(w *worker, it *item) bool {
	f, b := it.pending, it.chunk.part.blocked[it.delivery().key]
	f.keyParked = b != nil
	f.alone = e.config.parkAlone > 0 && (b == nil || len(b.rows) < e.config.parkAlone && !slices.ContainsFunc(b.rows, isOpen))
	if f.Attempt == 0 || f.keyParked {
		return true
	}
	if e.keys+e.parking >= e.config.maxParked {
		return false
	}
	e.parking++
	w.reserved = true
	return true
}

// park parks a message, and returns with mu.
func (e *engine) park(w *worker) {
	f, d := w.pending, &w.call.deliveries[0]
	var move *ledger.Move
	if e.config.form.moves {
		move = &w.call.from
	}
	err := guard(func() error { return e.config.park(w.ctx, d, *f, move) })
	e.mu.Lock()
	p, l := w.part, w.lane
	switch {
	case p.gone:
		e.finish(w, 0)
	case err == nil:
		row := ledger.Parked{Stream: string(d.message.Stream), Position: d.message.Position}
		if f.alone {
			upto := row.Position
			row.Upto = &upto
		}
		e.block(p, d.key, row)
		p.blocked[d.key].passed = d.message.GlobalPosition
		if f.Attempt > 0 {
			e.counters.parked++
		}
		w.moved = 1
		e.finish(w, 1)
	case w.ctx.Err() != nil:
		e.finish(w, 0)
	case ledger.IsFenced(err):
		e.fence(p)
		e.finish(w, 0)
	case errors.Is(err, errParkedFull) && f.Attempt > 0:
		w.item.pending = nil
		e.finishLater(w, 0, patient.Delay(f.Attempt))
	case mayBeDone(err): // the row is read again by a new epoch, so that it is done now or never
		e.fence(p)
		e.finish(w, 0)
	default:
		l.outages++
		e.finishLater(w, 0, patient.Delay(l.outages))
	}
}

// mayBeDone reports whether what has failed may have been committed, or will be.
func mayBeDone(err error) bool {
	return !isAnswer(err) && !pgconn.SafeToRetry(err) && !errors.As(err, new(*pgconn.ConnectError))
}

// block records that a stream of a partition is parked.
func (e *engine) block(p *part, key string, row ledger.Parked) {
	if p.blocked == nil {
		p.blocked = make(map[string]*blocked)
	}
	b := p.blocked[key]
	if b == nil {
		b = &blocked{}
		p.blocked[strings.Clone(key)] = b
		e.keys++
	}
	row.Stream = strings.Clone(row.Stream)
	if isOpen(row) { // what was parked alone waits with the others now
		b.rows = slices.DeleteFunc(b.rows, func(r ledger.Parked) bool { return r.Stream == row.Stream && r.Position >= row.Position })
	}
	b.rows = append(b.rows, row)
}

type parkedness int

const (
	isFree     parkedness = iota
	isParked              // a row says that it is not to be handled
	isFollower            // its key is parked, and its stream is not yet
)

// parkedOf says whether a message is to be handled. A row says that everything of its
// stream before its position is done with, and everything from it on waits.
func (p *part) parkedOf(d *delivery) parkedness {
	is := isFree
	b := p.blocked[d.key]
	if b == nil {
		return is
	}
	for _, row := range b.rows {
		switch {
		case row.Stream == string(d.message.Stream):
			if row.Upto == nil || row.Position <= d.message.Position && d.message.Position <= *row.Upto {
				return isParked
			}
		case row.Upto == nil:
			is = isFollower
		}
	}
	return is
}
