package consumer

// A gauge counts messages in memory.
type gauge struct {
	messages int
	bytes    int64
}

func (g *gauge) add(messages int, bytes int64) {
	g.messages += messages
	g.bytes += bytes
}

// uncountPayload releases the payload of a message that is done with, although earlier
// ones are not.
func (e *engine) uncountPayload(it *item) {
	p, m := it.chunk.part, &it.delivery().message
	m.Stream, m.Type, m.Data, m.Metadata = "", "", nil, nil
	it.delivery().key = ""
	before := e.total.bytes
	e.total.add(0, -it.bytes)
	if p.gauge != &e.total {
		p.gauge.add(0, -it.bytes)
	}
	it.bytes = 0
	e.crossed(before)
}

// uncount counts a message that is no longer in memory.
func (e *engine) uncount(it *item) {
	before := e.total.bytes
	e.total.add(-1, -it.bytes-overhead)
	if g := it.chunk.part.gauge; g != &e.total {
		g.add(-1, -it.bytes-overhead)
	}
	e.crossed(before)
}

// crossed looks at all partitions when the memory falls below a quarter of the limit.
func (e *engine) crossed(before int64) {
	if quarter := e.config.maxBytes / 4; before >= quarter && e.total.bytes < quarter {
		e.reviewRoom()
	}
}

// room reports whether the partition has room for another page. If not, changed is called
// when it has. Once the engine has said no, it says no until then.
//
// If the workers have enough to do, no partition has room, so that one reading serves all
// of them. Messages that wait for a retry, or for another one of their key, or are done with
// before others, do not count for that: they only fill their partition.
func (e *engine) room(p partition) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	part := e.parts[p]
	if part == nil || part.surrendered {
		return false
	}
	if !part.full && !e.hasRoom(part, 1) {
		part.full = true
		e.full++
	}
	if !e.pressed && e.only == nil && e.hasEnough(1) {
		e.pressed = true
	}
	return !part.full && !e.pressed
}

// hasEnough reports whether the workers have enough to do. It uses a part of the limits.
func (e *engine) hasEnough(part int) bool {
	most := max(e.config.queue, aheadOfWorker*e.config.workers)
	return e.runnable.messages >= most/part || e.runnable.bytes >= e.config.maxBytes/2/int64(part)
}

// aheadOfWorker is the number of messages for each worker that may be in memory before the
// next page is read, if that is more than the limit.
const aheadOfWorker = 16

func (e *engine) removeRunnable(g gauge) {
	e.runnable.add(-g.messages, -g.bytes)
	if e.pressed && !e.hasEnough(2) {
		e.pressed = false
		e.notify = true
	}
}

// hasRoom reports whether a partition uses less than a part of its limits. One half of the
// memory is shared equally, so that partitions that stand still leave some to each of the
// others. The other half is for those that need more.
func (e *engine) hasRoom(p *part, part int) bool {
	used := e.used(p)
	if used.messages >= max(e.config.queue/part, 1) {
		return false
	}
	half := e.config.maxBytes / 2 / int64(part)
	if p.gauge == &e.total {
		return used.bytes < 2*half
	}
	return p.gauge.bytes < half/int64(max(len(e.parts), 1)) || e.total.bytes < half
}

// checkRoom calls changed if a partition that was full has room again.
func (e *engine) checkRoom(p *part) {
	if !p.full || !e.hasRoom(p, 2) {
		return
	}
	p.full = false
	e.full--
	e.notify = true
}

// reviewRoom does so for all partitions, because what is shared has changed.
func (e *engine) reviewRoom() {
	for _, p := range e.parts {
		e.checkRoom(p)
	}
}
