package mdb

import (
	"context"
	"slices"
)

// enterGroups makes writes wait for the turn of their category, to be sent with others of the
// call and of the store. The others are returned as alone: they are the only one to their
// category, or their order in a stream matters, in which one that fails makes the next ones fail.
func (e *eachCall) enterGroups(pending []*eachWrite) (grouped, alone []*eachWrite) {
	g := e.store.groups
	if g == nil || e.store.gate.closed.Load() || e.store.proxied() {
		return nil, pending
	}
	members := make(map[Category][]*eachWrite)
	for i, w := range pending {
		only := (i == 0 || pending[i-1].stream != w.stream) && (i == len(pending)-1 || pending[i+1].stream != w.stream)
		if only && !g.rests.has(w.stream) {
			members[w.stream.Category()] = append(members[w.stream.Category()], w)
		}
	}
	for category, writes := range members {
		if len(writes) < g.least {
			continue
		}
		entering := make([]*member, len(writes))
		for i, w := range writes {
			w.member = newMember(w.proposedWrite)
			entering[i] = w.member
		}
		g.enterAll(category, entering)
	}
	for _, w := range pending {
		if w.member != nil {
			grouped = append(grouped, w)
		} else {
			alone = append(alone, w)
		}
	}
	return grouped, alone
}

// leaveGroups waits for the outcomes of writes in groups. Those that have an error for good are
// left out of what it returns.
func (e *eachCall) leaveGroups(ctx context.Context, grouped []*eachWrite) []*eachWrite {
	return slices.DeleteFunc(grouped, func(w *eachWrite) bool {
		n, ok := e.store.groups.news(ctx, w.member)
		w.joined(n, ok)
		switch {
		case !ok:
			e.fail(ctx, w.proposedWrite, w.index, w.abandoned(ctx))
			return true
		case n.kind != attempted:
			w.member, w.undone, w.outcome = nil, n.kind == undone, skipped
		case n.err != nil:
			w.member, w.outcome, w.err = nil, refused, n.err
		default:
			copy(w.written, w.member.written)
			w.outcome = done
		}
		return false
	})
}
