package consumer

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

// errReplayExits is the error of a function that calls runtime.Goexit before a message of the turn is known.
var errReplayExits = errors.New("consumer: a callback has ended the goroutine that replays parked messages, as t.FailNow does")

// A replayTurn is a turn of a replay. Its worker uses it without mu.
type replayTurn struct {
	move   ledger.Move     // messages up to To may be replayed; From is the stored position
	offers bool            // the partition's checkpoint is being moved by this turn
	rows   []ledger.Parked // of the key, after what was handled
	open   bool            // the streams for which messages wait are replayed, not only messages that are parked alone
	steps  []step          // what is to be recorded
}

// takeTurn replays messages of a key. It returns with mu.
func (e *engine) takeTurn(w *worker) {
	r, p := w.replay, w.part
	var mv *ledger.Move
	if w.offers {
		mv = &w.move
	}
	rows, err := e.config.replays.beginTurn(w.ctx, ledger.Key{Partition: p.id, Key: r.key}, mv)
	if err == nil && len(rows) == 0 { // somebody has deleted them: their messages come again from the checkpoint on
		err = errFenced
	}
	if err != nil {
		e.mu.Lock()
		e.failTurn(w, err, mv != nil)
		return
	}
	if w.offers {
		e.mu.Lock()
		w.offers = false
		e.endOffer(p, w.move.To)
		e.mu.Unlock()
	}
	w.rows = rows
	most := e.config.form.most
	in := newMerge(w.due(r.after), w.move.To, max(most, turnMessages), e.config.replays.reading(w.move.Anchor))
	begun := time.Now()
	for n := 0; ; {
		one := most
		if r.single > 0 {
			one = 1
		}
		ds, err := in.next(w.ctx, one)
		if err != nil {
			e.mu.Lock()
			e.failTurn(w, err, false)
			return
		}
		if len(in.gone) > 0 {
			for i := range in.gone {
				w.take(&in.gone[i], true)
			}
			in.gone = nil
			if e.recordSteps(w, nil) != nil {
				return
			}
		}
		if len(ds) == 0 {
			e.finishReplay(w)
			return
		}
		for i := range ds {
			ds[i].partition, ds[i].epoch, ds[i].key = p.id, p.epoch, r.key
		}
		ds[0].attempt += r.repeats
		if e.config.mayBegin != nil && e.config.mayBegin() != nil {
			if e.recordSteps(w, nil) == nil {
				e.mu.Lock()
				e.held = true
				e.endTurn(w, true)
			}
			return
		}
		if w.ctx.Err() != nil { // as before other calls
			e.mu.Lock()
			e.endTurn(w, true)
			return
		}
		w.call = call{deliveries: ds, from: w.move, upto: &e.upto}
		if !w.call.mayBegin(len(ds) - 1) {
			if e.recordSteps(w, nil) == nil {
				e.mu.Lock()
				e.endTurn(w, true)
			}
			return
		}
		w.handling = true
		done, err := e.invoke(w)
		w.handling = false
		if err == nil && (done < 1 || done > len(ds)) {
			done, err = 0, fmt.Errorf("%d of %d messages are done with, without an error", done, len(ds))
		}
		if err != nil {
			e.failReplay(w, done, err)
			return
		}
		e.advanceReplay(w, done)
		w.call.deliveries = nil
		if n += done; e.config.form.moves || n >= turnMessages || time.Since(begun) >= turnTime || e.dropped(w) {
			break
		}
	}
	if err := e.recordSteps(w, nil); err != nil {
		return
	}
	e.mu.Lock()
	e.endTurn(w, true)
}

// due returns the rows that are replayed: those of streams for which messages wait, if one of them is due, and each message that
// is parked alone and due, unless it has failed in this replay.
func (t *replayTurn) due(after int64) []ledger.Parked {
	t.open = slices.ContainsFunc(t.rows, func(row ledger.Parked) bool { return isOpen(row) && row.IsDue })
	return slices.DeleteFunc(slices.Clone(t.rows), func(row ledger.Parked) bool {
		if isOpen(row) {
			return !t.open
		}
		return !row.IsDue || row.GlobalPosition <= after
	})
}

// dropped reports whether a replay is to end early.
func (e *engine) dropped(w *worker) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !w.replay.goesOn()
}

// endOffer ends a move that a turn has made or not made.
func (e *engine) endOffer(p *part, stored int64) {
	if p.gone {
		return
	}
	p.offered, p.stored = false, stored
	e.resume(p)
	e.checkDrained(p)
}

// advanceReplay notes that the first deliveries of the call are done with.
func (e *engine) advanceReplay(w *worker, done int) {
	if done == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.counters.handled += int64(done)
	e.counters.replayed += int64(done)
	r := w.replay
	r.streaks, r.repeats, r.exhausted = streaks{}, 0, false
	r.single = max(0, r.single-done)
	for i := range done {
		w.take(&w.call.deliveries[i], !e.config.form.moves)
	}
	if e.config.form.moves {
		w.note()
		if !w.part.gone {
			w.part.stored = w.move.To
		}
		w.move.From = w.move.To
	}
}

// note updates what is known of the key after the rows have changed on the server, also for whoever continues if this replay is dropped. It is
// called with mu.
func (w *worker) note() {
	if b := w.part.blocked[w.replay.key]; b != nil && !w.part.gone {
		b.rows = slices.Clone(w.rows)
	}
}

// take lets the row of a delivery move on.
func (t *replayTurn) take(d *delivery, record bool) {
	stream, next := string(d.message.Stream), d.message.Position+1
	for i := range t.rows {
		if row := &t.rows[i]; row.Stream == stream && row.Position == d.replayed.from {
			row.Position, row.Attempts, row.Replays = next, 0, 0
			if d.replayed.ends {
				t.rows = slices.Delete(t.rows, i, i+1)
			}
			break
		}
	}
	if !record {
		return
	}
	for i := range t.steps {
		if s := &t.steps[i]; s.stream == stream && s.next == d.replayed.from && !s.ends {
			s.next, s.ends = next, d.replayed.ends
			return
		}
	}
	t.steps = append(t.steps, step{stream, d.replayed.from, next, d.replayed.ends})
}

// recordSteps records what the turn has done, and what has failed unless it is nil. After an error the turn
// is over, and it returns with mu.
func (e *engine) recordSteps(w *worker, failed *ledger.Postponed) error {
	if len(w.steps) == 0 && failed == nil {
		return nil
	}
	var mv *ledger.Move
	if e.config.form.moves && len(w.steps) > 0 {
		mv = &w.move
	}
	err := e.config.replays.record(w.ctx, mv, w.part.id, w.part.epoch, w.steps, failed)
	if err != nil {
		e.mu.Lock()
		e.failTurn(w, err, mv != nil)
		return err
	}
	w.steps = nil
	e.mu.Lock()
	defer e.mu.Unlock()
	w.note()
	if mv != nil {
		if !w.part.gone {
			w.part.stored = w.move.To
		}
		w.move.From = w.move.To
	}
	return nil
}

// failTurn ends a turn of which a statement has failed, which may have moved the checkpoint. It is called with mu.
func (e *engine) failTurn(w *worker, err error, moved bool) {
	p, r := w.part, w.replay
	if w.offers {
		w.offers = false
		e.endOffer(p, p.stored)
	}
	switch {
	case w.ctx.Err() != nil:
	case ledger.IsFenced(err), moved && !isAnswer(err):
		e.fence(p)
	case w.replay.goesOn():
		r.outages++
		e.scheduleLater(r, patient.Delay(r.outages))
		e.endTurn(w, false)
		return
	}
	e.endTurn(w, true)
}

// exitedTurn stops the consumer after a function other than a handler, such as a tracer of pgx, has called runtime.Goexit during a turn. It is
// called with mu.
func (e *engine) exitedTurn(w *worker) {
	if ds := w.call.deliveries; len(ds) > 0 {
		e.stop(handlerError(ds[0].message, errHandlerExits))
	} else {
		e.stop(errReplayExits)
	}
	e.failTurn(w, errReplayExits, true)
}

// endTurn ends a turn. A key of which nothing is left is no longer parked. If the replay goes on, its next turn is queued if again is
// true. It is called with mu.
func (e *engine) endTurn(w *worker, again bool) {
	l, p, r := w.lane, w.part, w.replay
	if b := p.blocked[r.key]; b != nil && !p.gone && len(b.rows) == 0 {
		e.unblock(p, r.key)
	}
	if again && w.replay.goesOn() && !p.surrendered {
		l.replays = append(l.replays, r)
	} else if b := p.blocked[r.key]; again && b != nil && b.replay == r {
		b.replay = nil
	}
	p.running--
	e.counters.running--
	w.busy, w.replay, w.replayTurn, w.call.deliveries = false, nil, replayTurn{}, nil
	switch {
	case p.gone:
		e.leave(p, l, 0)
	case p.surrendered:
		e.checkDrained(p)
	}
	e.next(l)
}

// finishReplay ends a turn that has found nothing more. If everything that was passed over is handled, the key is
// no longer parked. It returns with mu.
func (e *engine) finishReplay(w *worker) {
	if err := e.recordSteps(w, nil); err != nil {
		return
	}
	e.mu.Lock()
	p, r := w.part, w.replay
	if !w.replay.goesOn() {
		e.endTurn(w, true)
		return
	}
	w.note()
	b := p.blocked[r.key]
	// A message that was parked and that the checkpoint has not reached, for example after a seek, comes live later. Without its row it would be handled then.
	isAhead := func(row ledger.Parked) bool { return isOpen(row) && row.GlobalPosition > w.move.To }
	switch open := w.open && slices.ContainsFunc(b.rows, isOpen); {
	case open && (w.move.To < b.passed || p.offered):
		r.exhausted = true
		w.lane.turn = true
		w.lane.replays = slices.Insert(w.lane.replays, 0, r)
		e.endTurn(w, false)
		return
	case !open || slices.ContainsFunc(b.rows, isAhead):
		b.replay = nil // the rest is due later, or when the checkpoint has reached it
		e.endTurn(w, false)
		return
	}
	// The checkpoint has reached b.passed already: the turn has begun with a move to it, or calls of the form have made
	// one. Otherwise the rest of what was passed over would come again, live. So this move only saves one of a tick.
	mv := p.move()
	p.offered, w.offers = true, true
	e.mu.Unlock()
	err := e.config.replays.unpark(w.ctx, mv, r.key)
	e.mu.Lock()
	if err != nil {
		e.failTurn(w, err, true)
		return
	}
	w.offers = false
	e.endOffer(p, mv.To)
	if !p.gone {
		b.rows, b.replay = slices.DeleteFunc(b.rows, isOpen), nil
	}
	e.endTurn(w, false)
}

// unblock forgets a key that is no longer parked.
func (e *engine) unblock(p *part, key string) {
	delete(p.blocked, key)
	e.keys--
	if len(p.blocked) == 0 {
		p.blocked = nil
	}
}

// isOpen reports whether messages wait for a row.
func isOpen(row ledger.Parked) bool { return row.Upto == nil }
