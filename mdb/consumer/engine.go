package consumer

import (
	"cmp"
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// errClaimedAgain ends the contexts of the handlers of a partition that was claimed again.
var errClaimedAgain = errors.New("the partition was claimed again")

// An engine calls a form's handlers for the messages of partitions. Its methods are safe
// for concurrent use.
type engine struct {
	config engineConfig // not changed

	workers sync.WaitGroup

	// mu guards everything below, and all parts, chunks, items and lanes. It is not held
	// while a function of the config runs, except form.lane.
	mu sync.Mutex

	parts     map[partition]*part
	lingering map[partition]int             // running calls of partitions that were forgotten
	left      map[partition][]ledger.Parked // what is parked of partitions that drained has returned

	ready laneQueue
	only  *lane // of all partitions, with inOrder
	spare *lane // the first of a list of lanes that may be used again

	spares [11]*chunk // lists of chunks that may be used again, by the binary logarithm of their capacities
	spared int        // the sum of their capacities

	wake *sync.Cond // what idle workers wait for
	idle int        // workers that wait, and were not woken
	held bool       // mayBegin has said no
	over bool       // no further call begins

	still   bool         // no handler may be called, see limit
	barrier int64        // no handler may be called for a message after it
	upto    atomic.Int64 // both as one position, for forms, which read it without mu
	err     error        // of the failure that has stopped the consumer

	ctx    context.Context //nolint:containedctx // of run, of which the contexts of partitions are derived
	cancel context.CancelCauseFunc

	total    gauge
	runnable gauge       // messages of lanes that are ready: what idle workers could do
	pressed  bool        // room has said no to all partitions
	full     int         // partitions that room has said no to
	parking  int         // keys that are being parked
	keys     int         // parked keys of the partitions
	strange  []partition // whose moves or parks were refused, or may be made later, to be returned by fenced
	outdated []partition // of which calls of an earlier claim have returned, to be returned by fenced
	notify   bool        // call changed after mu is released
	counters engineStats
}

func newEngine(c engineConfig) *engine {
	c.workers = cmp.Or(c.workers, 1)
	c.maxBytes = cmp.Or(c.maxBytes, 64<<20)
	c.form.most = max(c.form.most, 1)
	if c.queue == 0 {
		c.queue = 2000
		if c.form.most > 1 {
			c.queue = 16_000 // a call has messages of one partition, so those in memory make calls of a few hundred
		}
	}
	if c.form.moves {
		c.form.lane = nil
	}
	if c.errorText == nil {
		c.errorText = typeOf
	}
	if c.policy == nil {
		c.policy = Failure.Default
	}
	e := &engine{config: c, parts: make(map[partition]*part), lingering: make(map[partition]int), left: make(map[partition][]ledger.Parked)}
	e.wake = sync.NewCond(&e.mu)
	e.barrier = math.MaxInt64
	e.upto.Store(e.barrier)
	if c.inOrder {
		e.only = &lane{}
	}
	return e
}

// unlock releases mu, and calls changed if there is a reason.
func (e *engine) unlock() {
	notify := e.notify
	e.notify = false
	e.mu.Unlock()
	if notify && e.config.changed != nil {
		e.config.changed()
	}
}

// claim begins a partition at the row's position, with what is parked of it. It does
// nothing if the partition is there with the row's epoch, and has not been reported by
// fenced. Otherwise it is forgotten first.
//
// If calls of the forgotten one are still running, none begins until they have returned.
// As they may have changed what is stored, fenced reports the partition then.
func (e *engine) claim(row ledger.Row, parked []ledger.Parked) {
	e.mu.Lock()
	defer e.unlock()
	if p := e.parts[row.Partition]; p != nil {
		if p.epoch == row.Epoch && !p.fenced {
			return
		}
		e.forgetPart(p, errClaimedAgain)
	}
	p := &part{
		id: row.Partition, epoch: row.Epoch, stored: row.Position,
		done: place{row.Position, row.Anchor}, end: place{row.Position, row.Anchor},
		stale: e.lingering[row.Partition] > 0,
		gauge: &gauge{},
	}
	if e.only != nil {
		p.gauge = &e.total
	} else if e.config.form.lane != nil {
		p.lanes = make(map[string]*lane)
	}
	for _, r := range parked {
		if r.Partition == row.Partition {
			e.block(p, r.Key, r)
		}
	}
	e.parts[row.Partition] = p
	delete(e.left, row.Partition)
	e.reviewRoom()
}

// feed adds messages of the partition, in the order of their global positions. They are
// copied. end is how far the partition is read now, beyond messages of others too. Nothing
// is added if the partition is not there with the epoch, or was surrendered.
func (e *engine) feed(p partition, epoch int64, ms []mdb.Message, end source.Checkpoint) {
	e.mu.Lock()
	defer e.unlock()
	if part := e.parts[p]; part != nil && part.epoch == epoch && !part.surrendered {
		e.add(part, ms, placeOf(end))
	}
}

// progress returns how far the checkpoints can be moved: per partition, up to where
// everything is done with. The caller must settle each move by stored, refused or kept.
// Until then its partition is not offered again, and no transaction that moves its
// checkpoint begins. A partition in which one runs, or is about to, is left out.
func (e *engine) progress() []ledger.Move {
	e.mu.Lock()
	defer e.unlock()
	var moves []ledger.Move
	for _, p := range e.parts {
		if p.done.position > p.stored && !p.offered && !p.fenced && !p.stale && !e.movesSoon(p) {
			p.offered = true
			moves = append(moves, p.move())
		}
	}
	return moves
}

// movesSoon reports whether the form moves the partition's checkpoint now, or with the next
// call.
func (e *engine) movesSoon(p *part) bool {
	if !e.config.form.moves {
		return false
	}
	l := cmp.Or(e.only, p.only)
	return p.running > 0 || !e.over && len(p.chunks) > 0 && l.state != laneWaiting && !e.isStuck(p)
}

// stored settles moves that were made. Call it after each successful tick, also without
// moves, so that handlers are called again that mayBegin has stopped.
func (e *engine) stored(moves []ledger.Move) {
	e.settle(moves, func(p *part, m ledger.Move) { p.stored = m.To })
}

// kept settles moves that were surely not made, and may be offered again.
func (e *engine) kept(moves []ledger.Move) {
	e.settle(moves, func(*part, ledger.Move) {})
}

// refused settles moves that the fence has refused: their partitions are forgotten, and
// the contexts of their handlers end with the cause. The caller reads the rows, and claims
// those that are still its own.
func (e *engine) refused(moves []ledger.Move, cause error) {
	e.settle(moves, func(p *part, _ ledger.Move) { e.forgetPart(p, cause) })
}

func (e *engine) settle(moves []ledger.Move, how func(*part, ledger.Move)) {
	e.mu.Lock()
	defer e.unlock()
	for _, m := range moves {
		if p := e.parts[m.Partition]; p != nil && p.epoch == m.Epoch && p.offered {
			p.offered = false
			how(p, m)
			e.resume(p)
			e.checkDrained(p)
		}
	}
	if e.held {
		e.held = false
		e.wakeAll()
	}
}

// fenced returns partitions that have stopped, once each: those of which the fence has refused a
// form's move or a park, or which may be made later, because there was no answer, and those that are stale, for the reason that claim has. The caller reads
// their rows, and drops or claims them: a claim with the same epoch begins such a partition again.
func (e *engine) fenced() (refused, stale []partition) {
	e.mu.Lock()
	defer e.unlock()
	stopped := func(ids []partition) (found []partition) {
		for _, id := range ids {
			if p := e.parts[id]; p != nil && p.fenced {
				found = append(found, id)
			}
		}
		return found
	}
	refused, stale = stopped(e.strange), stopped(e.outdated)
	e.strange, e.outdated = nil, nil
	return refused, stale
}

// surrender stops partitions: messages that no handler has are forgotten. A message is
// still handled if a later one of the partition has been, or is being, so that the next
// owner repeats none.
func (e *engine) surrender(ps []partition) {
	e.mu.Lock()
	defer e.unlock()
	for _, id := range ps {
		if p := e.parts[id]; p != nil && !p.surrendered {
			p.surrendered = true
			e.dropReplays(p)
			e.trim(p)
			e.checkDrained(p)
		}
	}
}

// drained returns the surrendered partitions of which nothing is left to be handled, or nothing may be, with
// their last moves, and forgets them. To is From if nothing is to be moved.
func (e *engine) drained() []ledger.Move {
	e.mu.Lock()
	defer e.unlock()
	var moves []ledger.Move
	for _, p := range e.parts {
		if e.isDrained(p) {
			moves = append(moves, p.move())
			if p.blocked != nil {
				e.left[p.id] = p.parked()
			}
			e.forgetPart(p, nil)
		}
	}
	return moves
}

// drop forgets partitions. The contexts of their handlers end with the cause. What these
// handlers return is ignored.
func (e *engine) drop(ps []partition, cause error) {
	e.mu.Lock()
	defer e.unlock()
	for _, id := range ps {
		if p := e.parts[id]; p != nil {
			e.forgetPart(p, cause)
		}
	}
}

// forget drops all partitions. It does not wait.
func (e *engine) forget(cause error) {
	e.mu.Lock()
	defer e.unlock()
	for _, p := range e.parts {
		e.forgetPart(p, cause)
	}
}

// forgetPart forgets a partition. Lanes of it that are ready have no messages then.
func (e *engine) forgetPart(p *part, cause error) {
	delete(e.parts, p.id)
	p.gone = true
	if p.running > 0 {
		e.lingering[p.id] += p.running
	}
	if p.full {
		e.full--
	}
	e.keys -= len(p.blocked)
	e.dropReplays(p)
	e.removeItems(p, func(*item) bool { return true })
	for _, c := range p.chunks {
		for i := range c.items[c.first:] {
			e.uncount(&c.items[c.first+i])
		}
	}
	p.chunks = nil
	if p.cancel != nil {
		p.cancel(cause)
	}
	e.reviewRoom()
}

// stats are counts since the beginning, and what there is now.
func (e *engine) stats() engineStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.counters
	s.messages, s.bytes, s.parkedKeys = e.total.messages, e.total.bytes, e.keys
	s.full = e.config.maxParked > 0 && e.keys >= e.config.maxParked
	s.crowded = e.full
	for _, p := range e.parts {
		if len(p.chunks) == 0 {
			continue
		}
		c := p.chunks[0]
		if at := c.deliveries[c.first].message.Time; s.oldest.IsZero() || at.Before(s.oldest) {
			s.oldest = at
		}
	}
	return s
}
