package consumer

import (
	"context"
	"math/bits"
	"time"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// A part is a partition of which messages are handled. The engine's mu guards it.
type part struct {
	id    partition
	epoch int64

	stored int64 // the checkpoint's position
	done   place // everything up to here is done with
	end    place // messages are known up to here

	chunks []*chunk // the messages after done, in the order of feed
	lanes  map[string]*lane
	only   *lane // instead of lanes, if the partition is one lane
	gauge  *gauge

	blocked map[string]*blocked // the parked streams, by key
	waits   []*lane             // those of replays that wait until done has moved

	running     int  // calls
	offered     bool // a move was offered, and is not settled
	fenced      bool // no call begins, see engine.fenced
	stale       bool // it was claimed while calls of an earlier claim were running
	surrendered bool
	gone        bool // it was forgotten
	full        bool // room has said no

	ctx    context.Context //nolint:containedctx // of the partition's handlers; nil before the first
	cancel context.CancelCauseFunc
}

// A place is a position, and the anchor of the last message up to it that is known.
type place struct {
	position int64
	anchor   ledger.Anchor
}

func placeOf(c source.Checkpoint) place {
	p := place{position: c.Position}
	if anchors := c.Anchors(); len(anchors) > 0 {
		since2000 := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
		p.anchor = ledger.Anchor{ID: anchors[0].ID, Time: time.UnixMicro(since2000 + anchors[0].Time).UTC()}
	}
	return p
}

// A chunk contains the messages of one feed of a partition.
type chunk struct {
	part       *part
	deliveries []delivery
	items      []item // of the deliveries with the same index
	first      int    // the first one that is not done with
	next       *chunk // of those whose memory may be used again
}

// spareItems is how much memory is kept for the next chunks, in messages.
const spareItems = 4000

// chunkOf returns a chunk for n messages.
func (e *engine) chunkOf(p *part, n int) *chunk {
	class := bits.Len(uint(n - 1))
	if class < len(e.spares) {
		if c := e.spares[class]; c != nil {
			e.spares[class], c.next = c.next, nil
			e.spared -= cap(c.items)
			c.part, c.first = p, 0
			c.items, c.deliveries = c.items[:n], c.deliveries[:n]
			return c
		}
	}
	return &chunk{part: p, deliveries: make([]delivery, n, 1<<class), items: make([]item, n, 1<<class)}
}

// recycle keeps the memory of a chunk whose messages are done with.
func (e *engine) recycle(c *chunk) {
	class := bits.Len(uint(cap(c.items) - 1))
	if class >= len(e.spares) || e.spared+cap(c.items) > spareItems {
		return
	}
	clear(c.deliveries[:cap(c.deliveries)])
	clear(c.items[:cap(c.items)])
	c.part = nil
	c.next, e.spares[class] = e.spares[class], c
	e.spared += cap(c.items)
}

// An item is the state of a delivery.
type item struct {
	chunk   *chunk
	next    *item    // of the lane
	pending *Failure // what is to be parked, instead of calling the handler
	bytes   int64    // of the message
	index   int32
	failed  int32 // attempts that count
	state   itemState
	alone   bool // it is handled by a call of its own
	kept    bool // its memory is its own
}

type itemState uint8

const (
	itemQueued itemState = iota
	itemRunning
	itemDone
)

// overhead is about the memory of a message apart from its payload.
const overhead = 320

func (it *item) delivery() *delivery { return &it.chunk.deliveries[it.index] }

func (p *part) move() ledger.Move {
	return ledger.Move{Partition: p.id, Epoch: p.epoch, From: p.stored, To: max(p.stored, p.done.position), Anchor: p.done.anchor}
}

// paused reports whether no call may begin.
func (e *engine) paused(p *part) bool {
	return p.fenced || p.stale || p.offered && e.config.form.moves
}

// resume lets calls begin again if the partition is no longer paused.
func (e *engine) resume(p *part) {
	if p.gone || e.paused(p) {
		return
	}
	for l := range e.lanesOf(p) {
		if l.state == laneHeld {
			e.enqueue(l)
		}
	}
}

// fence stops a partition until the member has looked at its row, because a move or a park was refused, or may be made later.
func (e *engine) fence(p *part) { e.halt(p, &e.strange) }

// halt stops a partition until the member has looked at its row. list is the one that says why.
func (e *engine) halt(p *part, list *[]partition) {
	if !p.fenced && !p.gone {
		p.fenced = true
		*list = append(*list, p.id)
		e.notify = true
	}
}

// add adds messages to a partition.
func (e *engine) add(p *part, ms []mdb.Message, end place) {
	p.end = end
	if len(ms) == 0 {
		e.advance(p)
		return
	}
	c := e.chunkOf(p, len(ms))
	p.chunks = append(p.chunks, c)
	for i := range ms {
		m := &ms[i]
		d, it := &c.deliveries[i], &c.items[i]
		d.message = *m
		d.partition, d.epoch, d.attempt = p.id, p.epoch, 1
		d.key = m.Stream.CardinalID()
		it.chunk, it.index = c, int32(i)
		it.bytes = int64(len(m.Stream) + len(m.Type) + len(m.Data) + len(m.Metadata))
		e.total.add(1, it.bytes+overhead)
		if p.gauge != &e.total {
			p.gauge.add(1, it.bytes+overhead)
		}
		e.push(e.laneOf(p, d), it)
	}
}

// complete marks the first message of a lane as done with.
func (e *engine) complete(l *lane) {
	it := l.head
	if l.head = it.next; l.head == nil {
		l.tail = nil
	}
	it.next, it.state = nil, itemDone
	e.unload(l, it)
	switch c := it.chunk; {
	case c.part.gone:
	case c == c.part.chunks[0] && int(it.index) == c.first:
		e.advance(c.part)
	default:
		e.uncountPayload(it)
	}
}

// advance moves done over the messages that are done with, and forgets them.
func (e *engine) advance(p *part) {
	for len(p.chunks) > 0 {
		c := p.chunks[0]
		from := c.first
		for c.first < len(c.items) && c.items[c.first].state == itemDone {
			e.uncount(&c.items[c.first])
			c.first++
		}
		if c.first > from {
			m := &c.deliveries[c.first-1].message
			p.done = place{m.GlobalPosition, ledger.Anchor{ID: m.ID, Time: m.Time}}
		}
		if c.first < len(c.items) {
			break
		}
		p.chunks[0] = nil
		p.chunks = p.chunks[1:]
		e.recycle(c)
	}
	switch {
	case len(p.chunks) == 0 && p.end.position > p.done.position:
		p.done = p.end
	case e.barrier > p.done.position && e.isStuck(p) && !e.still:
		p.done.position = e.barrier
	}
	if len(p.waits) > 0 {
		e.endWaits(p)
	}
	if p.full {
		e.checkRoom(p)
	} else if e.only != nil && e.full > 0 {
		e.reviewRoom()
	}
	if p.surrendered {
		e.checkDrained(p)
	}
}

// trim forgets the messages of a surrendered partition after the last one that a handler
// has or is done with.
func (e *engine) trim(p *part) {
	keep, kept := len(p.chunks), 0
	for ; keep > 0; keep-- {
		c := p.chunks[keep-1]
		for kept = len(c.items); kept > c.first && c.items[kept-1].state == itemQueued; kept-- {
			e.uncount(&c.items[kept-1])
		}
		if kept > c.first {
			break
		}
	}
	if keep == len(p.chunks) && (keep == 0 || kept == len(p.chunks[keep-1].items)) {
		return
	}
	p.end = place{}
	e.removeItems(p, func(it *item) bool {
		for i, c := range p.chunks {
			if c == it.chunk {
				return i >= keep || i == keep-1 && int(it.index) >= kept
			}
		}
		return false
	})
	clear(p.chunks[keep:])
	p.chunks = p.chunks[:keep]
	if keep > 0 {
		c := p.chunks[keep-1]
		c.items, c.deliveries = c.items[:kept], c.deliveries[:kept]
	}
}

func (e *engine) isDrained(p *part) bool {
	return p.surrendered && (len(p.chunks) == 0 || e.isStuck(p)) && p.running == 0 && !p.offered && !p.fenced && !p.stale
}

func (e *engine) checkDrained(p *part) {
	if !p.gone && e.isDrained(p) {
		e.notify = true
	}
}
