package consumer

import (
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// TestMemberReplacedBefore checks that a process which learns only on a new primary that another one of its instance has joined after it ends, and
// does not replace the newer one. If the failover has lost that the newer one has joined, this one replaces the older one again.
func TestMemberReplacedBefore(t *testing.T) {
	for name, lost := range map[string]bool{"kept": false, "lost": true} {
		inSubBubble(t, name, func(t *testing.T) {
			h := newHall(t, 4)
			instance := func(mc *memberConfig, _ *engineConfig) { mc.join.Instance = "pod-0" }
			ms := letters(t, 4, 4)
			var cut atomic.Bool
			older := hire(t, h, ms, nil, instance, cutting(&cut))
			pass(5 * time.Second)
			cut.Store(true)
			members, rows := maps.Clone(h.members), make(map[partition]hallRow)
			for p, row := range h.rows {
				rows[p] = *row
			}
			newer := hire(t, h, ms, nil, instance)
			pass(500 * time.Millisecond)
			h.set(func() {
				h.timeline = "00000002"
				if !lost {
					return
				}
				h.members = members
				for p, row := range rows {
					h.rows[p] = &row
				}
			})
			joins := int64(1)
			if lost {
				joins = 2
				pass(5 * time.Second)
			}
			cut.Store(false)
			pass(30 * time.Second)
			ended(t, older, ErrReplaced)
			if n := newer.counts.joins.Load(); n != joins || !slices.Equal(h.owned(), []int{4}) {
				t.Errorf("got %d joins of the newer process, and %v partitions, want %d and all", n, h.owned(), joins)
			}
			newer.take()
			write(4, 4, newer)
			pass(5 * time.Second)
			if got := newer.take(); !slices.Equal(got, []int64{5, 6, 7, 8}) {
				t.Errorf("got %v handled by the newer process afterwards", got)
			}
		})
	}
}
