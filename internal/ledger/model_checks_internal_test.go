package ledger

import "slices"

// What the database does, step by step, with what must hold after each of them.

// did runs an act of a member and checks what it has changed.
func (w *world) did(act func()) {
	before, claims := w.rows, w.claims
	act()
	if w.diary != nil {
		for i := range w.rows {
			if w.rows[i] != before[i] {
				w.note("    row %d: %+v", i, w.rows[i])
			}
		}
	}
	for i := range w.rows {
		o, n := before[i], w.rows[i]
		switch {
		case n.position < o.position:
			w.failf("the checkpoint of row %d goes back from %d to %d", i, o.position, n.position)
		case n.epoch < o.epoch:
			w.failf("the epoch of row %d falls from %d to %d", i, o.epoch, n.epoch)
		}
		if n.claim != o.claim && n.claim != 0 {
			if n.claim > claims && n.epoch <= w.epochs[i] {
				w.failf("the epoch of row %d does not rise with a claim: %d, and %d was there before", i, n.epoch, w.epochs[i])
			}
			w.epochs[i] = max(w.epochs[i], n.epoch)
			if o.member != n.member && o.member != 0 && w.member(o.member) != nil {
				w.failf("member %d has taken row %d from member %d, which lives", n.member, i, o.member)
			}
		}
	}
	for p := range partitions {
		for c := 1; c < w.known; c++ {
			if a, b := w.rows[p], w.rows[rowOf(c, p)]; a.member != b.member && w.member(a.member) != nil && w.member(b.member) != nil {
				w.failf("partition %d has two owners, %d and %d", p, a.member, b.member)
			}
		}
	}
	w.check()
}

// check checks each message: its effect is there exactly if the checkpoint has passed it, or
// it is parked.
func (w *world) check() {
	for i, m := range w.log {
		row, position := m.row(), int64(i+1)
		if m.category >= w.known || position <= w.starts[row] {
			if w.effects[m.number] > 0 {
				w.failf("message %d has an effect, and the consumer begins after it", position)
			}
			continue
		}
		passed := position <= w.rows[row].position
		parked := slices.ContainsFunc(w.parked, func(p parkedRow) bool {
			return p.row == row && p.key == m.key && p.position <= position
		})
		switch n := w.effects[m.number]; {
		case !w.transactional && passed && !parked && !w.external[m.number]:
			w.failf("the checkpoint has passed message %d, which nobody has handled", position)
		case !w.transactional:
		case n > 1:
			w.failf("message %d has %d effects", position, n)
		case n == 1 && parked:
			w.failf("message %d has an effect, and is parked", position)
		case n == 1 && !passed:
			w.failf("message %d has an effect, and the checkpoint has not passed it", position)
		case n == 0 && passed && !parked:
			w.failf("the checkpoint has passed message %d, which has no effect", position)
		}
	}
}

// checkBegin checks that nobody else handles messages of the row, and that the key of the message is not parked, as a handler begins.
func (w *world) checkBegin(p *process, row int, h *hold) {
	for i := range w.processes {
		q := &w.processes[i]
		if q == p || q.id == 0 || p.replaced || q.replaced || w.overlap || w.time >= q.deadline {
			continue
		}
		if o := &q.holds[row]; o.held && (!o.surrendered || o.running) || q.stray[row] || q.busy[row] {
			w.failf("members %d and %d handle messages of row %d (the lease of %d ends at %.1f s)", p.id, q.id, row, q.id, float64(q.deadline)/float64(second)-100_000)
		}
	}
	if h.claim == w.rows[row].claim && w.failed == 0 {
		for _, parked := range w.parked {
			if parked.row == row && parked.key == h.message.key && parked.position <= h.read {
				w.failf("message %d is handled, and its key is parked", h.read)
			}
		}
	}
	if !w.transactional && h.claim == w.rows[row].claim && h.read <= w.rows[row].position && w.failed == 0 {
		w.failf("message %d is handled again, after the checkpoint has passed it", h.read)
	}
}

// checkMoves checks that only the claim that holds a row has moved it.
func (w *world) checkMoves(before [rowCount]checkpointRow, r *request, moved []bool) {
	for i, ok := range moved {
		if s := r.steps[i]; ok && before[s.row].claim != r.claims[i] {
			w.failf("row %d is moved by a claim that is over", s.row)
		}
	}
}

func (w *world) doJoin(id, instance, reads int) (changes, layout int64) {
	if w.time-w.stepped < lease {
		w.overlap = true
	}
	for i := range w.processes {
		if q := &w.processes[i]; q.id != 0 && q.instance == instance && instance != 0 {
			q.replaced = true
		}
	}
	w.did(func() { changes, layout = w.join(w.b, w.now(), id, instance, reads, w.start) })
	if w.mirror != nil {
		w.mirror.join(w, id, instance, reads, changes)
	}
	w.note("join %d (instance %d) reads %d", id, instance, reads)
	return changes, layout
}

func (w *world) doResize() {
	if w.known == 0 || !w.resize(w.now()) {
		return
	}
	w.resizes++
	w.note("resize to layout %d", w.layout)
	if w.mirror != nil {
		w.mirror.resize(w)
	}
	w.check()
}

func (w *world) doBalance(id int, layout int64, forgotten [rowCount]int64) (b balanced) {
	w.did(func() { b = w.balance(w.b, w.now(), id, layout, forgotten) })
	if w.mirror != nil {
		w.mirror.balance(w, id, layout, forgotten, b)
	}
	w.note("balance %d: %+v", id, b)
	return b
}

func (w *world) doTick(r *request) {
	now := w.now()
	if w.b.has(clientClock) {
		now = w.time + w.offset + r.skew
	}
	before := w.rows
	w.did(func() { r.answer = w.tick(w.b, now, r.id, r.instance, r.steps) })
	if w.mirror != nil {
		w.mirror.tick(w, r)
	}
	w.note("tick %d %+v: %+v", r.id, r.steps, r.answer)
	w.checkMoves(before, r, r.answer.moved)
}

func (w *world) doCommit(r *request) {
	before := w.rows
	w.did(func() {
		if r.ok = w.move(w.b, r.id, r.steps[0]); r.ok {
			for _, number := range r.numbers {
				w.effects[number]++
			}
		}
	})
	if w.mirror != nil {
		w.mirror.move(w, r)
	}
	w.note("commit %d %+v: %v", r.id, r.steps, r.ok)
	w.checkMoves(before, r, []bool{r.ok})
}

func (w *world) doRelease(r *request) (released []bool) {
	before := w.rows
	w.did(func() { released = w.release(w.b, r.id, r.steps) })
	if w.mirror != nil {
		w.mirror.release(w, r, released)
	}
	w.note("release %d %+v: %v", r.id, r.steps, released)
	w.checkMoves(before, r, released)
	return released
}

func (w *world) doLeave(id int, r *request) {
	w.did(func() { w.leave(w.b, id, r.steps) })
	if w.mirror != nil {
		w.mirror.leave(w, id, r)
	}
	w.note("leave %d %+v", id, r.steps)
}

func (w *world) doPark(r *request) {
	w.did(func() {
		// Where effects are in the database, the transaction that parks a message also moves the
		// checkpoint past it. Else a commit whose answer was lost may be executed afterwards.
		moves := w.transactional && !w.b.has(parkWithoutMove)
		if moves && !w.fence(w.b, r.id, r.steps[0]) {
			return
		}
		if r.ok = w.park(w.b, r.id, r.steps[0].epoch, *r.park); r.ok && moves {
			w.move(w.b, r.id, r.steps[0])
		}
	})
	if w.mirror != nil {
		w.mirror.park(w, r)
	}
	w.note("park %d %+v: %v", r.id, *r.park, r.ok)
	if r.ok && w.rows[r.park.row].claim != r.claims[0] {
		w.failf("a key of row %d is parked by a claim that is over", r.park.row)
	}
}
