package ledger

import (
	"cmp"
	"slices"
)

// The functions of consumers.sql, as steps of the model. TestModelIsServer compares the two.

// fromEnd is the start of a consumer that begins at the end of its categories.
const fromEnd = int64(-1)

func (d *database) join(b mutant, now int64, id, instance, reads int, start int64) (changes, layout int64) {
	replaced := 0
	if i := slices.IndexFunc(d.members, func(m memberRow) bool { return m.instance == instance && instance != 0 }); i >= 0 {
		replaced = d.members[i].id
		d.remove(replaced)
	}
	d.members = append(d.members, memberRow{id: id, instance: instance, categories: reads, joined: now, seen: now, layout: d.layout})
	if replaced != 0 {
		var inherited []int
		for p := range partitions {
			if d.rows[p].member == replaced {
				inherited = append(inherited, p)
			}
		}
		d.take(id, now, inherited)
	}
	for c := d.known; c < reads; c++ {
		position := start
		if start == fromEnd {
			position = d.end(c)
		}
		for p := range partitions {
			r := &d.rows[rowOf(c, p)]
			*r = checkpointRow{}
			if c > 0 && !b.has(robNewCategory) {
				*r = d.rows[p] // all rows of a partition have the same owner
			}
			r.position = position
			d.starts[rowOf(c, p)] = position
		}
	}
	d.known = max(d.known, reads)
	d.changes = max(d.changes, 1) + 1
	return d.changes, d.layout
}

// end returns the position of a category's last message.
func (d *database) end(category int) int64 {
	for i, m := range slices.Backward(d.log) {
		if m.category == category {
			return int64(i + 1)
		}
	}
	return 0
}

// take gives the partitions to the member, by one new epoch.
func (d *database) take(id int, now int64, taken []int) {
	epoch := d.nextEpoch(now)
	d.claims++
	for _, p := range taken {
		for c := range d.known {
			r := &d.rows[rowOf(c, p)]
			r.member, r.epoch, r.claim, r.timeline = id, epoch, d.claims, d.timeline
		}
	}
}

func (d *database) nextEpoch(now int64) int64 {
	epoch := now
	for _, r := range d.rows {
		epoch = max(epoch, r.epoch+1)
	}
	return epoch
}

// resize frees all partitions, as a change of their number by a barrier does, if all of a category have handled the same messages. Here the number
// remains, as if it was changed back. It returns whether it has done so.
func (d *database) resize(now int64) bool {
	lowest := make([]int64, d.known)
	for c := range lowest {
		lowest[c] = d.rows[rowOf(c, 0)].position
		highest := lowest[c]
		for p := range partitions {
			position := d.rows[rowOf(c, p)].position
			lowest[c], highest = min(lowest[c], position), max(highest, position)
		}
		for i := lowest[c]; i < highest; i++ {
			if i < d.head() && d.log[i].category == c {
				return false
			}
		}
	}
	d.layout = d.nextEpoch(now)
	for c := range d.known {
		for p := range partitions {
			d.rows[rowOf(c, p)] = checkpointRow{position: lowest[c], epoch: d.layout}
		}
	}
	d.changes++
	return true
}

type balanced struct {
	gone                          bool // MC002
	resized                       bool // MC003
	members, quota, held, claimed int
}

// balance removes members that are dead, gives new epochs to the rows that the member has forgotten, and gives what is free to the
// member, up to its share.
func (d *database) balance(b mutant, now int64, id int, layout int64, forgotten [rowCount]int64) balanced {
	me := d.member(id)
	if me == nil {
		return balanced{gone: true}
	}
	if layout != d.layout {
		return balanced{resized: true}
	}
	confirmed := me.layout != d.layout
	me.layout = d.layout
	for i := range d.members {
		m := &d.members[i]
		if m.seen > now+second || m.woke > m.seen+second && !b.has(wokeInFuture) {
			if m.seen = now; !b.has(judgeFromFuture) {
				m.woke = now
			}
		}
	}
	n := len(d.members)
	if judge := *me; judge.seen > now-lease/2 && judge.woke < now-lease || b.has(noWoke) {
		d.members = slices.DeleteFunc(d.members, func(m memberRow) bool { return m.id != id && m.seen < now-lease })
	}
	evicted := len(d.members) < n
	if forgotten != [rowCount]int64{} && !b.has(sameEpoch) {
		d.renewForgotten(now, id, forgotten)
	}
	d.renew(b, now, id)
	result := d.share(id)

	var free []int
	for p := range partitions {
		if d.free(b, p) {
			free = append(free, p)
		}
	}
	ready := !slices.ContainsFunc(d.members, func(m memberRow) bool { return m.layout != d.layout })
	if n := min(result.quota-result.held, len(free)); n > 0 && (ready || b.has(claimUnready)) {
		d.take(id, now, free[:n])
		result.claimed = n
	}
	if evicted || result.claimed > 0 || confirmed && ready && !b.has(confirmSilently) {
		d.changes++
	}
	return result
}

func (d *database) renewForgotten(now int64, id int, forgotten [rowCount]int64) {
	epoch := d.nextEpoch(now)
	d.claims++
	for i := range d.rows {
		if r := &d.rows[i]; forgotten[i] != 0 && r.member == id && r.epoch <= forgotten[i] {
			r.epoch, r.claim, r.timeline = epoch, d.claims, d.timeline
		}
	}
}

// renew claims again what the member has claimed before a failover, because what it knows of
// these rows may be lost.
func (d *database) renew(b mutant, now int64, id int) {
	if b.has(noTimeline) || b.has(timelineInAnswer) {
		return
	}
	var old []int
	for p := range partitions {
		for c := range d.known {
			if r := d.rows[rowOf(c, p)]; r.member == id && r.timeline != d.timeline {
				old = append(old, p)
				break
			}
		}
	}
	if old != nil {
		d.take(id, now, old)
	}
}

// share returns how many partitions the member holds, and how many it should hold. Who lacks
// a category that another member reads gets none.
func (d *database) share(id int) balanced {
	type share struct {
		memberRow
		held int
		able bool
	}
	needed := 0
	for _, m := range d.members {
		needed = max(needed, m.categories)
	}
	var all []share
	for _, m := range d.members {
		// The categories are those from the first one, so some member reads all of them.
		all = append(all, share{m, d.held(m.id), m.categories == needed})
	}
	slices.SortFunc(all, func(a, b share) int {
		return cmp.Or(cmp.Compare(b.held, a.held), cmp.Compare(a.joined, b.joined), cmp.Compare(a.id, b.id))
	})
	result := balanced{members: len(all)}
	rank, sharing := 0, 0
	for _, s := range all {
		if s.id == id {
			rank = sharing
			result.held = s.held
			result.quota = -1
		}
		if s.able {
			sharing++
		} else if s.id == id {
			result.quota = 0
		}
	}
	if result.quota < 0 {
		result.quota = partitions / sharing
		if rank < partitions%sharing {
			result.quota++
		}
	}
	return result
}

// held returns the number of partitions of which the member has a row.
func (d *database) held(id int) (n int) {
	for p := range partitions {
		for c := range d.known {
			if d.rows[rowOf(c, p)].member == id {
				n++
				break
			}
		}
	}
	return n
}

// free reports whether no row of the partition has a member that lives.
func (d *database) free(b mutant, partition int) bool {
	var alive, dead bool
	for c := range d.known {
		if d.member(d.rows[rowOf(c, partition)].member) != nil {
			alive = true
		} else {
			dead = true
		}
	}
	return !alive || dead && b.has(robNewCategory)
}

// A step is a move of a checkpoint, as tick, release, leave and move receive it.
type step struct {
	row             int
	epoch, from, to int64
}

// fence reports whether the member may move the row by the step.
func (d *database) fence(b mutant, id int, s step) bool {
	r := d.rows[s.row]
	return (r.timeline == d.timeline || b.has(noTimeline) || b.has(timelineInAnswer)) &&
		(r.member == id || b.has(noMember)) &&
		(r.epoch == s.epoch || b.has(noEpoch)) &&
		(r.position == s.from || b.has(noPosition)) && s.to >= s.from
}

func (d *database) move(b mutant, id int, s step) bool {
	ok := d.fence(b, id, s)
	if ok {
		d.rows[s.row].position = s.to
	}
	return ok
}

type ticked struct {
	alive, replaced, suspects bool
	changes, layout           int64
	timeline                  int
	moved                     []bool // for each of the steps; no step is skipped, as nobody holds a row
}

func (d *database) tick(b mutant, now int64, id, instance int, steps []step) ticked {
	me := d.member(id)
	result := ticked{alive: me != nil}
	if me == nil {
		result.replaced = instance != 0 && slices.ContainsFunc(d.members, func(m memberRow) bool { return m.instance == instance })
		return result
	}
	switch {
	case me.seen > now+second:
		if !b.has(setBackUnsaid) {
			me.woke = me.seen
		}
	case now-me.seen > lease/2:
		me.woke = now
	}
	me.seen = now
	for _, s := range steps {
		result.moved = append(result.moved, d.move(b, id, s))
	}
	result.timeline, result.changes, result.layout = d.timeline, d.changes, d.layout
	result.suspects = slices.ContainsFunc(d.members, func(m memberRow) bool { return m.seen < now-lease || m.seen > now+second && !b.has(seenInFuture) })
	return result
}

// release moves checkpoints and gives up their partitions, each as a whole or not at all. It
// returns which moves it has made.
func (d *database) release(b mutant, id int, steps []step) []bool {
	released := make([]bool, len(steps))
	some := false
	for p := range partitions {
		refused, wanted := false, false
		for _, s := range steps {
			if s.row%partitions == p {
				wanted = true
				refused = refused || !d.fence(b, id, s)
			}
		}
		if !wanted || refused {
			continue
		}
		for i, s := range steps {
			if s.row%partitions == p {
				released[i], some = d.move(b, id, s), true
			}
		}
		d.abandon(id, p)
	}
	if some {
		d.changes++
	}
	return released
}

func (d *database) leave(b mutant, id int, steps []step) {
	alive := d.member(id) != nil
	d.remove(id)
	for _, s := range steps {
		d.move(b, id, s)
	}
	some := false
	for p := range partitions {
		some = d.abandon(id, p) || some
	}
	if alive || some {
		d.changes++
	}
}

// abandon makes the partition free.
func (d *database) abandon(id, partition int) (some bool) {
	for c := range d.known {
		if r := &d.rows[rowOf(c, partition)]; r.member == id {
			r.member, r.claim, some = 0, 0, true
		}
	}
	return some
}

func (d *database) park(b mutant, id int, epoch int64, p parkedRow) bool {
	r := d.rows[p.row]
	if r.timeline != d.timeline && !b.has(noTimeline) && !b.has(timelineInAnswer) {
		return false
	}
	if (r.member != id || r.epoch != epoch) && !b.has(parkUnfenced) {
		return false
	}
	if !slices.Contains(d.parked, p) {
		d.parked = append(d.parked, p)
	}
	return true
}
