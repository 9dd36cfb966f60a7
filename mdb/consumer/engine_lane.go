package consumer

import (
	"iter"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
)

// A lane contains messages that are handled in order, by one call at a time. The engine's
// mu guards it.
type lane struct {
	key        string
	part       *part // nil if the lane is of all partitions
	head, tail *item
	next       *lane // of the queue, or of spare lanes
	state      laneState
	load       gauge       // of its messages
	timer      *time.Timer // while it waits

	streaks
	suspects int // that many messages from the first on were in a call that failed

	replays []*replay // of parked keys, in turns with the messages
	turn    bool      // a replay is next
}

// isEmpty reports whether nothing is to be done in a lane.
func (l *lane) isEmpty() bool { return l.head == nil && len(l.replays) == 0 }

type laneState uint8

const (
	laneIdle    laneState = iota // it has no messages, or a worker looks at it
	laneReady                    // it is in the queue
	laneRunning                  // a worker has it
	laneWaiting                  // for its timer
	laneHeld                     // until what is next may begin
)

// A laneQueue is a queue of lanes.
type laneQueue struct{ head, tail *lane }

func (q *laneQueue) push(l *lane) {
	if l.next = nil; q.head == nil {
		q.head = l
	} else {
		q.tail.next = l
	}
	q.tail = l
}

func (q *laneQueue) pop() *lane {
	l := q.head
	q.head, l.next = l.next, nil
	return l
}

// laneOf returns the lane of a delivery.
func (e *engine) laneOf(p *part, d *delivery) *lane {
	switch {
	case e.only != nil:
		return e.only
	case p.lanes == nil:
		if p.only == nil {
			p.only = &lane{part: p}
		}
		return p.only
	}
	key := e.config.form.lane(d)
	l := p.lanes[key]
	if l == nil {
		if l = e.spare; l != nil {
			e.spare, l.next = l.next, nil
		} else {
			l = new(lane)
		}
		l.part, l.key = p, key
		p.lanes[key] = l
	}
	return l
}

// lanesOf returns the lanes that contain messages of the partition.
func (e *engine) lanesOf(p *part) iter.Seq[*lane] {
	return func(yield func(*lane) bool) {
		if e.only != nil {
			yield(e.only)
			return
		}
		if p.only != nil && !yield(p.only) {
			return
		}
		for _, l := range p.lanes {
			if !yield(l) {
				return
			}
		}
	}
}

// set changes the state of a lane.
func (e *engine) set(l *lane, s laneState) {
	was, is := l.state == laneReady, s == laneReady
	if l.state = s; is && !was {
		e.runnable.add(l.load.messages, l.load.bytes)
	} else if was && !is {
		e.removeRunnable(l.load)
	}
}

// push adds a message to a lane.
func (e *engine) push(l *lane, it *item) {
	l.load.add(1, it.bytes)
	if l.state == laneReady {
		e.runnable.add(1, it.bytes)
	}
	if l.head == nil {
		l.head = it
	} else {
		l.tail.next = it
	}
	l.tail = it
	switch l.state {
	case laneIdle:
		e.enqueue(l)
	case laneWaiting:
		keep(it)
	case laneHeld:
		if l == e.only && e.isBefore(it) { // those before it may wait for the end of the barrier
			e.enqueue(l)
		}
	case laneReady, laneRunning:
	}
}

// keep copies a message that waits, because it would keep the memory of its page.
func keep(it *item) {
	if !it.kept {
		d := it.delivery()
		d.message = d.message.Clone()
		d.key = d.message.Stream.CardinalID()
		it.kept = true
	}
}

// enqueue makes a lane ready.
func (e *engine) enqueue(l *lane) {
	e.set(l, laneReady)
	e.ready.push(l)
	e.wakeOne()
}

// release frees a lane that has no messages.
func (e *engine) release(l *lane) {
	e.set(l, laneIdle)
	l.suspects, l.streaks, l.turn = 0, streaks{}, false
	if l.part == nil || l == l.part.only {
		return
	}
	if l.part.lanes[l.key] == l {
		delete(l.part.lanes, l.key)
	}
	l.part, l.key = nil, ""
	l.next, e.spare = e.spare, l
}

// postpone lets a lane wait before its next call.
func (e *engine) postpone(l *lane, d time.Duration) {
	e.set(l, laneWaiting)
	e.counters.waiting++
	for it := l.head; it != nil; it = it.next {
		keep(it)
	}
	if l.head != nil { // those before it are done with
		for i := range l.head.chunk.first {
			l.head.chunk.deliveries[i].message = mdb.Message{}
		}
	}
	if e.config.maxWait > 0 {
		d = min(d, e.config.maxWait)
	}
	var timer *time.Timer
	timer = time.AfterFunc(d, func() {
		e.mu.Lock()
		defer e.unlock()
		if l.timer == timer {
			e.endWait(l)
			e.enqueue(l)
		}
	})
	l.timer = timer
}

func (e *engine) endWait(l *lane) {
	l.timer.Stop()
	l.timer = nil
	e.counters.waiting--
}

// removeItems removes queued messages of the partition from their lanes.
func (e *engine) removeItems(p *part, remove func(*item) bool) {
	for l := range e.lanesOf(p) {
		first := l.head
		var last *item
		for it := l.head; it != nil; it = it.next {
			if it.chunk.part != p || it.state == itemRunning || !remove(it) {
				last = it
				continue
			}
			e.unload(l, it)
			if last == nil {
				l.head = it.next
			} else {
				last.next = it.next
			}
		}
		l.tail = last
		if l.head != first {
			l.suspects = 0
			switch l.state {
			case laneWaiting:
				e.endWait(l)
				e.proceed(l)
			case laneHeld:
				e.proceed(l)
			case laneIdle, laneReady, laneRunning: // a worker looks at it
			}
		}
	}
}

// proceed makes a lane ready, or frees it if it has no messages.
func (e *engine) proceed(l *lane) {
	if !l.isEmpty() {
		e.enqueue(l)
	} else {
		e.release(l)
	}
}

// unload counts a message that a lane no longer contains.
func (e *engine) unload(l *lane, it *item) {
	l.load.add(-1, -it.bytes)
	if l.state == laneReady {
		e.removeRunnable(gauge{1, it.bytes})
	}
}

func (e *engine) wakeOne() {
	if e.idle > 0 {
		e.idle--
		e.wake.Signal()
	}
}

func (e *engine) wakeAll() {
	e.idle = 0
	e.wake.Broadcast()
}
