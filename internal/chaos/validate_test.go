package chaos

import (
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// A validator compares a history with the store, and returns the violations of the
// promise that it is named after.
type validator struct {
	name  string
	check func(h *history, store []stored) []string
}

var validators = []validator{
	{"Durable", durable},
	{"NoGhost", noGhost},
	{"Once", storedOnce},
	{"Ordered", ordered},
	{"Reliable", reliable},
	{"Resumable", resumable},
	{"Bounded", bounded},
	{"Isolation", isolation},
	{"Leak", func(h *history, _ []stored) []string { return h.leaks }},
}

// validate returns the violations, by validator.
func validate(h *history, store []stored) map[string][]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	found := make(map[string][]string)
	for _, v := range validators {
		if violations := v.check(h, store); len(violations) > 0 {
			found[v.name] = violations
		}
	}
	return found
}

// durable: acknowledged messages are in the store, at the positions that were returned.
func durable(h *history, store []stored) (violations []string) {
	byID := make(map[uuid.UUID]*stored)
	for i := range store {
		byID[store[i].id] = &store[i]
	}
	for _, o := range h.ops {
		if o.outcome != acked {
			continue
		}
		if len(o.written) != len(o.ids) {
			violations = append(violations, fmt.Sprintf("%s: %d answers for %d messages", o.name, len(o.written), len(o.ids)))
			continue
		}
		for i, w := range o.written {
			m := byID[w.ID]
			switch {
			case m == nil:
				violations = append(violations, fmt.Sprintf("%s: message %d was acknowledged, but is not in the store", o.name, i))
			case m.stream != o.stream || m.position != w.Position || m.global != w.GlobalPosition || m.op != o.name || m.index != i ||
				o.expected != nil && w.Position != *o.expected+1+int64(i):
				violations = append(violations, fmt.Sprintf("%s: message %d is %+v, acknowledged was %+v", o.name, i, *m, w))
			}
		}
	}
	return violations
}

// noGhost: no message of a failed write is in the store, and no outcome stays unknown.
func noGhost(h *history, store []stored) (violations []string) {
	byName := make(map[string]*op)
	for _, o := range h.ops {
		byName[o.name] = o
		if o.outcome == pending {
			violations = append(violations, fmt.Sprintf("%s: the outcome is unknown", o.name))
		}
	}
	for i := range store {
		if o := byName[store[i].op]; o == nil || o.outcome == failed {
			violations = append(violations, fmt.Sprintf("%s/%d of %q is in the store, but its write failed or never happened", store[i].stream, store[i].position, store[i].op))
		}
	}
	return violations
}

// storedOnce: each message is in the store once, and no stream has a gap. Messages are
// identified by content, because a writer may have given one two IDs.
func storedOnce(_ *history, store []stored) (violations []string) {
	type content struct {
		op    string
		index int
	}
	seen := make(map[content]bool)
	next := make(map[string]int64)
	for i := range store {
		m := &store[i]
		c := content{m.op, m.index}
		if seen[c] {
			violations = append(violations, fmt.Sprintf("message %d of %s is in the store twice", m.index, m.op))
		}
		seen[c] = true
		if m.position != next[string(m.stream)] {
			violations = append(violations, fmt.Sprintf("%s/%d follows %d", m.stream, m.position, next[string(m.stream)]-1))
		}
		next[string(m.stream)] = m.position + 1
	}
	return violations
}

// ordered: within an incarnation positions increase.
func ordered(h *history, _ []stored) (violations []string) {
	for _, s := range h.subscribers {
		for n, inc := range s.incarnations {
			last := inc.from
			for _, d := range inc.deliveries {
				position := s.position(d.position, d.global)
				if position <= last {
					violations = append(violations, fmt.Sprintf("%s, incarnation %d: position %d after %d", s.Name, n, position, last))
				}
				last = position
			}
		}
	}
	return violations
}

// reliable: a subscription has received every message that it wants, and no other.
func reliable(h *history, store []stored) (violations []string) {
	for _, s := range h.subscribers {
		got := make(map[delivery]bool)
		for _, inc := range s.incarnations {
			for _, d := range inc.deliveries {
				got[d] = true
			}
		}
		wanted := 0
		for i := range store {
			m := &store[i]
			if !s.wants(m) {
				continue
			}
			wanted++
			if !got[m.delivery()] {
				violations = append(violations, fmt.Sprintf("%s: no %s/%d, global position %d", s.Name, m.stream, m.position, m.global))
			}
		}
		if len(violations) == 0 && len(got) != wanted {
			violations = append(violations, fmt.Sprintf("%s: %d messages, want %d", s.Name, len(got), wanted))
		}
	}
	return violations
}

// resumable: each incarnation starts with the next message after its start position.
func resumable(h *history, store []stored) (violations []string) {
	for _, s := range h.subscribers {
		for n, inc := range s.incarnations {
			if len(inc.deliveries) == 0 {
				continue
			}
			for i := range store {
				m := &store[i]
				if !s.wants(m) || s.position(m.position, m.global) <= inc.from {
					continue
				}
				if first := inc.deliveries[0]; first.id != m.id {
					violations = append(violations, fmt.Sprintf("%s, incarnation %d from %d: starts with %s/%d instead of %s/%d",
						s.Name, n, inc.from, first.stream, first.position, m.stream, m.position))
				}
				break
			}
		}
	}
	return violations
}

// bounded: messages are redelivered only after a crash, and at most a page of them.
func bounded(h *history, _ []stored) (violations []string) {
	for _, s := range h.subscribers {
		bound := 0
		if s.crashes {
			bound = s.Batch
		}
		for n, again := range s.redelivered() {
			if again > bound {
				violations = append(violations, fmt.Sprintf("%s, incarnation %d: %d messages redelivered, want at most %d", s.Name, n, again, bound))
			}
		}
	}
	return violations
}

// redelivered returns, for each incarnation, the number of messages that it or an
// earlier one had handled before.
func (s *subscriber) redelivered() []int {
	seen := make(map[uuid.UUID]bool)
	counts := make([]int, len(s.incarnations))
	for n, inc := range s.incarnations {
		for _, d := range inc.deliveries {
			if seen[d.id] {
				counts[n]++
			}
			seen[d.id] = true
		}
	}
	return counts
}

// isolation: no message is delivered to two members of a group.
func isolation(h *history, _ []stored) (violations []string) {
	type key struct {
		group string
		id    uuid.UUID
	}
	owners := make(map[key]*subscriber)
	for _, s := range h.subscribers {
		if s.group == "" {
			continue
		}
		for _, inc := range s.incarnations {
			for _, d := range inc.deliveries {
				k := key{s.group, d.id}
				if owner := owners[k]; owner != nil && owner != s {
					violations = append(violations, fmt.Sprintf("%s/%d was delivered to %s and %s", d.stream, d.position, owner.Name, s.Name))
				}
				owners[k] = s
			}
		}
	}
	slices.Sort(violations)
	return slices.Compact(violations)
}
