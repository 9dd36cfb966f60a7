package consumer

import (
	"errors"
	"time"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

// schedule says how long a parked stream waits before each replay. After the last one it waits until
// somebody asks for it.
var schedule = [...]time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 8 * time.Hour, 24 * time.Hour}

// failReplay decides what happens after a failed call of a replay, of which the first deliveries are done with. It returns with mu.
func (e *engine) failReplay(w *worker, done int, err error) {
	e.advanceReplay(w, done)
	w.call.deliveries = w.call.deliveries[done:]
	r, p, left := w.replay, w.part, len(w.call.deliveries)
	if w.ctx.Err() != nil {
		e.mu.Lock()
		e.endTurn(w, true)
		return
	}
	if errors.Is(err, errNotBegun) {
		if e.recordSteps(w, nil) == nil {
			e.mu.Lock()
			e.endTurn(w, true)
		}
		return
	}
	if e.config.form.moves && ledger.IsFenced(err) {
		e.mu.Lock()
		e.fence(p)
		e.endTurn(w, true)
		return
	}
	if d, repeat := r.repeat(err); repeat {
		r.repeats++
		if e.recordSteps(w, nil) == nil {
			e.mu.Lock()
			e.postponeReplay(w, d)
		}
		return
	}
	index, known := culprit(err, done, left)
	if !known || index > done { // those before it are handled first, and it alone
		if e.recordSteps(w, nil) != nil {
			return
		}
		e.mu.Lock()
		if r.single = left; known {
			r.single = index - done + 1
		}
		_, after := said(err)
		e.postponeReplay(w, after)
		return
	}
	d := &w.call.deliveries[0]
	var row ledger.Parked
	for i := range w.rows {
		if w.rows[i].Stream == string(d.message.Stream) && w.rows[i].Position == d.replayed.from {
			row = w.rows[i]
		}
	}
	f := Failure{Message: d.message, Partition: p.id.Number, Attempt: row.Attempts + 1, Replayed: true, Err: err}
	a, err := e.decide(f)
	switch a.what {
	case toSkip:
		w.take(d, true)
		if e.recordSteps(w, nil) != nil {
			return
		}
		e.mu.Lock()
		e.counters.failed++
		e.counters.skipped++
		r.repeats, r.single = 0, max(0, r.single-1)
		e.endTurn(w, true)
	case toStop:
		if e.recordSteps(w, nil) != nil {
			return
		}
		e.mu.Lock()
		e.counters.failed++
		e.stop(handlerError(f.Message, err))
		e.endTurn(w, true)
	default:
		failed := ledger.Postponed{Stream: row.Stream, Position: row.Position, Attempts: row.Attempts + 1, Error: e.config.errorText(f.Err)}
		if row.Attempts > 0 {
			failed.Replays = row.Replays + 1
		}
		if failed.Wait = a.after; a.after == 0 && failed.Replays < len(schedule) {
			failed.Wait = schedule[failed.Replays]
		}
		if e.recordSteps(w, &failed) != nil {
			return
		}
		e.mu.Lock()
		e.counters.failed++
		if row.Upto != nil { // others do not depend on it
			r.streaks, r.repeats, r.single, r.after = streaks{}, 0, max(0, r.single-1), row.GlobalPosition
			e.endTurn(w, true)
			return
		}
		if w.replay.goesOn() {
			p.blocked[r.key].replay = nil
		}
		e.endTurn(w, false)
	}
}

// postponeReplay ends a turn whose replay goes on after a time. It is called with mu.
func (e *engine) postponeReplay(w *worker, d time.Duration) {
	if d == 0 || !w.replay.goesOn() {
		e.endTurn(w, true)
		return
	}
	e.counters.retried++
	e.scheduleLater(w.replay, d)
	e.endTurn(w, false)
}
