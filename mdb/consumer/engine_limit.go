package consumer

import (
	"errors"
	"math"
)

// errNotBegun is returned by forms that have called no handler, because the engine's limit does not allow it.
var errNotBegun = errors.New("no handler may be called now")

// limit lets no handler be called for a message after the barrier, unless it is nil, nor for any if paused. Calls that are
// running finish, but forms that call handlers one by one call no further one. What is in memory remains there. A limit
// that is as before changes nothing.
func (e *engine) limit(barrier *int64, paused bool) {
	e.mu.Lock()
	defer e.unlock()
	to := int64(math.MaxInt64)
	if barrier != nil {
		to = *barrier
	}
	if paused == e.still && to == e.barrier {
		return
	}
	e.still, e.barrier = paused, to
	if e.upto.Store(to); paused {
		e.upto.Store(-1)
	}
	for _, p := range e.parts {
		if paused || !e.mayReplay(p) {
			e.dropReplays(p)
		}
		e.advance(p)
		e.resume(p)
		e.checkDrained(p)
	}
	e.reviewRoom()
	e.wakeAll()
}

// mayBegin reports whether a handler may be called with a delivery now, or with those before and with it. It may be called without mu.
func (c *call) mayBegin(i int) bool {
	return c.upto == nil || c.deliveries[i].message.GlobalPosition <= c.upto.Load()
}

// isBefore reports whether a message is not after the barrier.
func (e *engine) isBefore(it *item) bool { return it.delivery().message.GlobalPosition <= e.barrier }

// mayReplay reports whether no message that can be replayed is after the barrier.
func (e *engine) mayReplay(p *part) bool { return p.done.position <= e.barrier }

// isStuck reports whether the next message of a partition may not be handled, so that done does not advance, unless it is
// being handled already.
func (e *engine) isStuck(p *part) bool {
	if len(p.chunks) == 0 {
		return false
	}
	c := p.chunks[0]
	return e.still || !e.isBefore(&c.items[c.first])
}

// bringForward moves the messages of a lane of all partitions that are not after the barrier before the others, and reports
// whether there are any. No message of the lane is being handled.
func (e *engine) bringForward(l *lane) bool {
	var before, after lane
	for it := l.head; it != nil; {
		to := &after
		if e.isBefore(it) {
			to = &before
		}
		next := it.next
		it.next = nil
		if to.head == nil {
			to.head = it
		} else {
			to.tail.next = it
		}
		to.tail = it
		it = next
	}
	if before.head == nil {
		l.head, l.tail = after.head, after.tail
		return false
	}
	l.head, l.tail, l.suspects = before.head, before.tail, 0
	if after.head != nil {
		before.tail.next = after.head
		l.tail = after.tail
	}
	return true
}

// used returns how much of a partition's limits is used. What waits for the end of the barrier must not keep others from
// being read up to it.
func (e *engine) used(p *part) gauge {
	g := *p.gauge
	if e.only == nil || e.barrier == math.MaxInt64 {
		return g
	}
	for _, p := range e.parts {
		for _, c := range p.chunks {
			for i := c.first; i < len(c.items); i++ {
				if it := &c.items[i]; it.state == itemQueued && !e.isBefore(it) {
					g.add(-1, -it.bytes-overhead)
				}
			}
		}
	}
	return g
}
