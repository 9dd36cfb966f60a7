package ledger

import "slices"

// A process is what the client does with the functions: it joins, ticks, balances, reads its
// rows, handles messages and moves checkpoints. It knows the database only by answers.
type process struct {
	reads, instance int
	skew            int64 // of its clock, which only a mutant looks at

	id        int // of the member; 0: it has to join
	previous  int // its last one
	ended     bool
	stopping  bool
	deadline  int64 // on its own clock: it begins no handler from here on
	changes   int64
	layout    int64
	busy      [rowCount]bool // a handler is running that was called by an earlier layout
	lingering [rowCount]bool // a handler may be running that was called before a doubt; none begins, and nothing is released, until it has returned
	timeline  int
	rebalance bool
	forgotten [rowCount]int64 // the epochs by which it knew rows of which it has forgotten what it knew
	claimed   bool            // it has to read what it has claimed
	before    *[rowCount]checkpointRow
	quota     int
	holds     [rowCount]hold
	stray     [rowCount]bool // a handler is running although the row is released
	replaced  bool           // a twin has its rows
	ticking   *request
}

// A hold is what a process knows of a row that it holds.
type hold struct {
	held, surrendered   bool
	claim               int // the ghost of the row
	epoch               int64
	stored, done, read  int64 // positions: the checkpoint, handled up to here, read up to here
	anchor, doneAnchor  int   // numbers of the messages at read and done, or unknown
	inHand              bool
	message             message // at position read
	running             bool    // a handler has it
	blocked             []int   // keys
	parking, committing *request
}

const unknown = -1

// A request is on its way to the server, or it is executed and its answer on its way back.
type request struct {
	id, instance int
	sent         int64
	steps        []step
	claims       []int
	numbers      []int // effects of the transaction that moves the checkpoint
	park         *parkedRow
	skew         int64
	executed     bool
	broken       bool // its connection is, and so it is not executed
	answer       ticked
	ok           bool
}

func (p *process) forget() {
	p.holds, p.stray, p.busy, p.lingering = [rowCount]hold{}, [rowCount]bool{}, [rowCount]bool{}, [rowCount]bool{}
	p.claimed, p.before, p.replaced, p.forgotten = false, nil, false, [rowCount]int64{}
}

// progress returns the moves that a tick may make: no transaction is running that makes one.
func (p *process) progress(w *world, all bool) *request {
	r := &request{id: p.id, instance: p.instance, sent: w.time, skew: p.skew}
	for i := range p.holds {
		h := &p.holds[i]
		if h.held && (all || h.done > h.stored && h.committing == nil && (!w.transactional || !h.running)) {
			r.add(i, h, h.done)
		}
	}
	return r
}

func (r *request) add(row int, h *hold, to int64) {
	r.steps = append(r.steps, step{row: row, epoch: h.epoch, from: h.stored, to: to})
	r.claims = append(r.claims, h.claim)
}

// act takes one step of the process.
func (w *world) pAct(p *process) {
	if p.ended {
		return
	}
	if p.id == 0 {
		w.pJoin(p)
		return
	}
	if p.isBusy() && w.operator.IntN(16) == 0 {
		p.busy[slices.Index(p.busy[:], true)] = false
		return
	}
	switch n := w.intn(16); {
	case n == 0 && w.faults && w.intn(4) == 0:
		w.pCrash(p)
	case n == 0 && w.faults && w.intn(4) == 0, n < 8 && p.stopping:
		p.stopping = true
		w.pLeave(p)
	case n < 4:
		w.pTick(p)
	case n < 8 && p.claimed:
		w.pRead(p)
	case n < 8 && p.rebalance:
		w.pBalance(p)
	case n < 9:
		w.pRelease(p, w.intn(partitions))
	default:
		row := w.intn(rowCount)
		for range rowCount {
			if row = (row + 1) % rowCount; p.holds[row].held {
				break
			}
		}
		for range 1 + w.intn(4) {
			w.pWork(p, row)
		}
	}
}

func (w *world) pJoin(p *process) {
	w.ids++
	id := w.ids
	if w.b.has(oldID) && p.previous != 0 {
		id = p.previous
	}
	changes, layout := w.doJoin(id, p.instance, p.reads)
	p.forget()
	p.id, p.changes, p.layout, p.timeline, p.quota = id, changes, layout, 0, 0
	p.rebalance = true
	p.deadline = w.time + lease*4/5
}

// doubt forgets all that the process knows of its rows.
func (w *world) pDoubt(p *process) {
	for i := range p.holds {
		h := &p.holds[i]
		if h.held {
			p.forgotten[i] = h.epoch
		}
		p.lingering[i] = p.lingering[i] || h.running
		w.drop(h)
	}
	p.claimed, p.rebalance, p.before = false, true, nil
}

func (w *world) pCrash(p *process) {
	w.late = append(w.late, p.requests()...)
	reads := min(p.reads+w.intn(2), categories) // a deploy may add a category
	*p = process{reads: reads, instance: p.instance, skew: p.skew}
}

// requests returns those that the server may still execute after nobody waits for them.
func (p *process) requests() (rs []*request) {
	if p.ticking != nil && !p.ticking.executed && !p.ticking.broken {
		rs = append(rs, p.ticking)
	}
	for _, h := range p.holds {
		for _, r := range []*request{h.committing, h.parking} {
			if r != nil && !r.executed && !r.broken {
				rs = append(rs, r)
			}
		}
	}
	return rs
}

func (w *world) pLeave(p *process) {
	for i := range p.holds {
		p.holds[i].surrendered = true
		if h := &p.holds[i]; h.held && !h.drained() {
			return // it goes on to drain
		}
	}
	if p.isBusy() {
		return
	}
	r := p.progress(w, true)
	w.doLeave(p.id, r)
	w.late = append(w.late, p.requests()...)
	*p = process{reads: p.reads, instance: p.instance, skew: p.skew}
}

func (h *hold) drained() bool { return !h.running && h.committing == nil && h.parking == nil }

// tick sends a tick, or lets the server execute the one that is sent, or takes its answer.
func (w *world) pTick(p *process) {
	switch r := p.ticking; {
	case r == nil:
		p.ticking = p.progress(w, false)
	case w.lost(r):
		p.ticking = nil
		w.pDoubt(p)
	case !r.executed:
		w.execute(r)
	default:
		p.ticking = nil
		w.pTicked(p, r)
	}
}

func (w *world) pTicked(p *process, r *request) {
	if r.id != p.id {
		return
	}
	if !r.answer.alive {
		w.pEvicted(p, r.answer.replaced)
		return
	}
	p.deadline = r.sent + lease*4/5
	if w.b.has(deadlineFromAnswer) {
		p.deadline = w.time + lease*4/5
	}
	if p.changes != r.answer.changes || r.answer.suspects {
		p.changes, p.rebalance = r.answer.changes, true
	}
	if p.timeline != r.answer.timeline && !w.b.has(noTimeline) {
		p.timeline, p.rebalance = r.answer.timeline, true
	}
	for i, s := range r.steps {
		h := &p.holds[s.row]
		switch {
		case !h.held || h.claim != r.claims[i]:
		case r.answer.moved[i]:
			h.stored = max(h.stored, s.to)
		case h.stored == s.from: // else a transaction of its own has moved it
			p.rebalance = true
		}
	}
	if p.layout != r.answer.layout {
		w.pResized(p, r.answer.layout)
	}
}

// resized forgets everything, and waits for the handlers that are running.
func (w *world) pResized(p *process, layout int64) {
	for i := range p.holds {
		p.busy[i] = p.busy[i] || p.holds[i].running || p.lingering[i]
		w.drop(&p.holds[i])
	}
	p.layout, p.before = layout, nil
	p.claimed, p.rebalance = false, true
	p.forgotten, p.lingering = [rowCount]int64{}, [rowCount]bool{}
}

func (p *process) isBusy() bool { return slices.Contains(p.busy[:], true) }

func (w *world) pEvicted(p *process, replaced bool) {
	w.late = append(w.late, p.requests()...)
	p.previous = p.id
	p.id, p.ticking = 0, nil
	p.forget()
	p.ended = replaced && !w.b.has(twinsRejoin)
}

func (w *world) pBalance(p *process) {
	if w.b.has(readBeforeClaim) && p.before == nil {
		rows := w.rows
		p.before = &rows
		return
	}
	if p.isBusy() && !w.b.has(confirmBusy) {
		return
	}
	b := w.doBalance(p.id, p.layout, p.forgotten)
	switch {
	case b.gone:
		w.pEvicted(p, false)
		return
	case b.resized: // the next tick says more
		return
	}
	p.rebalance, p.claimed, p.quota, p.forgotten = false, true, b.quota, [rowCount]int64{}
}

// read reads the member's rows and parked keys. A row with another epoch than before is a
// new claim, of which the process knows nothing. Of the others it keeps what it knows,
// except that it adopts the position: a move of its own may have been executed although its
// answer was lost.
func (w *world) pRead(p *process) {
	p.claimed = false
	for i, r := range w.rows {
		h := &p.holds[i]
		if r.member != p.id || i >= w.known*partitions {
			w.drop(h)
			continue
		}
		position := r.position
		if p.before != nil {
			position = p.before[i].position
		}
		if h.held && h.epoch == r.epoch {
			h.stored = position
			if position <= h.done {
				continue
			}
		}
		w.drop(h)
		*h = hold{held: true, claim: r.claim, epoch: r.epoch, stored: position, done: position, read: position, anchor: unknown, doneAnchor: unknown}
		for _, parked := range w.parked {
			if parked.row == i {
				h.blocked = append(h.blocked, parked.key)
			}
		}
	}
	p.before = nil
	surplus := p.partitions() - p.quota
	for part := range partitions {
		for c := range categories {
			p.holds[rowOf(c, part)].surrendered = surplus > 0
		}
		if p.has(part) {
			surplus--
		}
	}
}

func (p *process) has(partition int) bool {
	for c := range categories {
		if p.holds[rowOf(c, partition)].held {
			return true
		}
	}
	return false
}

func (p *process) partitions() (n int) {
	for part := range partitions {
		if p.has(part) {
			n++
		}
	}
	return n
}

// drop forgets a row. What is on its way to the server may still be executed.
func (w *world) drop(h *hold) {
	for _, r := range []*request{h.committing, h.parking} {
		if r != nil && !r.executed && !r.broken {
			w.late = append(w.late, r)
		}
	}
	*h = hold{}
}

// release gives up a partition that it has to give up, once nothing of it is in a handler.
func (w *world) pRelease(p *process, part int) {
	r := &request{id: p.id}
	for c := range categories {
		h := &p.holds[rowOf(c, part)]
		switch {
		case !h.held:
		case !h.surrendered, !h.drained() && !w.b.has(releaseUndrained), p.ticking != nil:
			return
		default:
			r.add(rowOf(c, part), h, h.done)
		}
	}
	if len(r.steps) == 0 {
		return
	}
	for i, ok := range w.doRelease(r) {
		row := r.steps[i].row
		switch {
		case ok:
			p.stray[row], p.lingering[row] = p.holds[row].running, false
			w.drop(&p.holds[row])
		default:
			p.rebalance = true
		}
	}
}

// work takes a step of the handling of one row.
func (w *world) pWork(p *process, row int) {
	if !p.holds[row].held {
		return
	}
	switch h := &p.holds[row]; {
	case p.rebalance, p.claimed:
	case h.parking != nil:
		w.pParked(p, row, h)
	case h.committing != nil:
		w.pCommitted(p, row, h)
	case h.running:
		if w.operator != nil && w.faults && w.operator.IntN(8) > 0 {
			return // handlers are slow, so that some run when the layout changes
		}
		w.pHandled(p, row, h)
	case h.inHand:
		w.pBegin(p, row, h)
	case !h.surrendered:
		w.pFetch(p, row, h)
	}
}

// fetch reads the next message of the row's partition, or the end of the category.
func (w *world) pFetch(p *process, row int, h *hold) {
	if row/partitions >= p.reads {
		return
	}
	if h.anchor != unknown && (h.read > w.head() || w.log[h.read-1].number != h.anchor) {
		p.rebalance = true // history is another one
		return
	}
	for h.read < w.head() {
		m := w.log[h.read]
		h.read++
		h.anchor = m.number
		if m.row() == row {
			if slices.Contains(h.blocked, m.key) { // it counts as done
				break
			}
			h.inHand, h.message = true, m
			return
		}
	}
	h.done, h.doneAnchor = h.read, h.anchor
}

func (w *world) pBegin(p *process, row int, h *hold) {
	if w.time >= p.deadline || h.surrendered {
		if h.surrendered { // it forgets what no handler has
			h.inHand, h.read, h.anchor = false, h.done, h.doneAnchor
		}
		return
	}
	p.lingering[row] = false
	w.checkBegin(p, row, h)
	h.running = true
}

// handled ends a handler: it succeeds, or its message has to be parked.
func (w *world) pHandled(p *process, row int, h *hold) {
	if w.faults && w.intn(8) == 0 && w.parkedRows < 3 {
		h.parking = &request{id: p.id, park: &parkedRow{row, h.message.key, h.read}}
		h.parking.add(row, h, h.read)
		if w.b.has(passBeforeParked) {
			h.done, h.doneAnchor = h.read, h.anchor
		}
		return
	}
	if !w.transactional {
		w.external[h.message.number] = true
		h.finish()
		return
	}
	r := &request{id: p.id, numbers: []int{h.message.number}}
	r.add(row, h, h.read)
	h.committing = r
}

func (h *hold) finish() {
	h.running, h.inHand, h.parking, h.committing = false, false, nil, nil
	h.done, h.doneAnchor = h.read, h.anchor
}

// committed lets the server commit the transaction, or takes its answer. If the answer is
// lost, the transaction is redone, while the first attempt may still be executed.
func (w *world) pCommitted(p *process, row int, h *hold) {
	switch r := h.committing; {
	case w.lost(r):
		if h.committing = r.again(); w.faults && w.intn(4) == 0 { // the handler gives up
			p.stopping = w.intn(2) == 0
			w.pDoubt(p)
		}
	case !r.executed:
		w.execute(r)
	case r.ok:
		h.stored = h.read
		h.finish()
	default: // a tick or its own first attempt has moved the row, or it holds the row no longer
		h.committing, h.running, p.rebalance = nil, false, true
	}
}

func (w *world) pParked(p *process, row int, h *hold) {
	switch r := h.parking; {
	case w.lost(r):
		h.parking = r.again()
	case !r.executed:
		w.execute(r)
	case r.ok:
		if w.transactional {
			h.stored = h.read
		}
		h.blocked = append(h.blocked, h.message.key)
		h.finish()
	default:
		h.parking, h.running, p.rebalance = nil, false, true
	}
}

// lost reports whether the connection breaks. Then the server may still execute the request
// if it has not.
func (w *world) lost(r *request) bool {
	switch {
	case r.broken:
		return true
	case !w.faults || w.intn(6) > 0:
		return false
	case !r.executed:
		w.late = append(w.late, r)
	}
	return true
}

// again returns the same request, as it is sent once more.
func (r *request) again() *request {
	c := *r
	c.executed, c.broken, c.ok = false, false, false
	return &c
}
