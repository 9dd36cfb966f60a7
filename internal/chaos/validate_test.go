package chaos

import (
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// A validator compares a history with the store, and returns what contradicts the
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

// durable: what was acknowledged is in the store, where the answer said.
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
				violations = append(violations, fmt.Sprintf("%s: message %d was acknowledged and is not there", o.name, i))
			case m.stream != o.stream || m.position != w.Position || m.global != w.GlobalPosition || m.op != o.name || m.index != i ||
				o.expected != nil && w.Position != *o.expected+1+int64(i):
				violations = append(violations, fmt.Sprintf("%s: message %d is %+v, acknowledged was %+v", o.name, i, *m, w))
			}
		}
	}
	return violations
}

// noGhost: what is in the store was acknowledged, in the end.
func noGhost(h *history, store []stored) (violations []string) {
	byName := make(map[string]*op)
	for _, o := range h.ops {
		byName[o.name] = o
		if o.outcome == pending {
			violations = append(violations, fmt.Sprintf("%s: nobody knows its outcome", o.name))
		}
	}
	for i := range store {
		if o := byName[store[i].op]; o == nil || o.outcome == refused {
			violations = append(violations, fmt.Sprintf("%s/%d of %q is there, and was not written", store[i].stream, store[i].position, store[i].op))
		}
	}
	return violations
}

// storedOnce: each message is there once, and no stream has a gap. A message is
// known by what it says: a writer may have given it two IDs.
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
			violations = append(violations, fmt.Sprintf("message %d of %s is there twice", m.index, m.op))
		}
		seen[c] = true
		if m.position != next[string(m.stream)] {
			violations = append(violations, fmt.Sprintf("%s/%d follows %d", m.stream, m.position, next[string(m.stream)]-1))
		}
		next[string(m.stream)] = m.position + 1
	}
	return violations
}

// ordered: within a life positions rise.
func ordered(h *history, _ []stored) (violations []string) {
	for _, s := range h.subscribers {
		for n, life := range s.incarnations {
			last := life.from
			for _, d := range life.deliveries {
				position := s.position(d.position, d.global)
				if position <= last {
					violations = append(violations, fmt.Sprintf("%s, life %d: position %d behind %d", s.Name, n, position, last))
				}
				last = position
			}
		}
	}
	return violations
}

// reliable: what a subscription wants it has received, and nothing else.
func reliable(h *history, store []stored) (violations []string) {
	for _, s := range h.subscribers {
		got := make(map[delivery]bool)
		for _, life := range s.incarnations {
			for _, d := range life.deliveries {
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
			if !got[delivery{m.id, m.stream, m.position, m.global}] {
				violations = append(violations, fmt.Sprintf("%s: no %s/%d, global position %d", s.Name, m.stream, m.position, m.global))
			}
		}
		if len(violations) == 0 && len(got) != wanted {
			violations = append(violations, fmt.Sprintf("%s: %d messages, want %d", s.Name, len(got), wanted))
		}
	}
	return violations
}

// resumable: each life begins with the next message behind where it was told to.
func resumable(h *history, store []stored) (violations []string) {
	for _, s := range h.subscribers {
		for n, life := range s.incarnations {
			if len(life.deliveries) == 0 {
				continue
			}
			for i := range store {
				m := &store[i]
				if !s.wants(m) || s.position(m.position, m.global) <= life.from {
					continue
				}
				if first := life.deliveries[0]; first.id != m.id {
					violations = append(violations, fmt.Sprintf("%s, life %d from %d: begins with %s/%d instead of %s/%d",
						s.Name, n, life.from, first.stream, first.position, m.stream, m.position))
				}
				break
			}
		}
	}
	return violations
}

// bounded: a message comes again only after a crash, and no more of them than a
// page has.
func bounded(h *history, _ []stored) (violations []string) {
	for _, s := range h.subscribers {
		bound := 0
		if s.crashes {
			bound = s.Batch
		}
		for n, again := range s.redelivered() {
			if again > bound {
				violations = append(violations, fmt.Sprintf("%s, life %d: %d messages again, want %d at most", s.Name, n, again, bound))
			}
		}
	}
	return violations
}

// redelivered counts, for each life, the messages that an earlier one had handled,
// or the same one before.
func (s *subscriber) redelivered() []int {
	seen := make(map[uuid.UUID]bool)
	counts := make([]int, len(s.incarnations))
	for n, life := range s.incarnations {
		for _, d := range life.deliveries {
			if seen[d.id] {
				counts[n]++
			}
			seen[d.id] = true
		}
	}
	return counts
}

// isolation: no message reaches two members of a group.
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
		for _, life := range s.incarnations {
			for _, d := range life.deliveries {
				k := key{s.group, d.id}
				if owner := owners[k]; owner != nil && owner != s {
					violations = append(violations, fmt.Sprintf("%s/%d reached %s and %s", d.stream, d.position, owner.Name, s.Name))
				}
				owners[k] = s
			}
		}
	}
	slices.Sort(violations)
	return slices.Compact(violations)
}
