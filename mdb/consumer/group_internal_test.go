package consumer

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
)

// A bureau is several processes that run a consumer while its members change. mu guards the fields after it.
type bureau struct {
	*testing.T

	hall   *hall
	clerks []*clerk // that are to receive messages

	mu      sync.Mutex
	handled map[int64]int // how often, by global position
	late    map[int]bool  // partitions with a message that had to wait
}

const bureauPartitions = 16

func newBureau(t *testing.T) *bureau {
	t.Helper()
	return &bureau{T: t, hall: newHall(t, bureauPartitions), handled: make(map[int64]int), late: make(map[int]bool)}
}

// hire starts another process.
func (b *bureau) hire(opts ...clerkOption) *clerk {
	b.Helper()
	var before []mdb.Message
	if len(b.clerks) > 0 {
		shelf := b.clerks[0].shelf
		shelf.mu.Lock()
		before = shelf.messages
		shelf.mu.Unlock()
	}
	c := hire(b.T, b.hall, before, func(_ context.Context, m mdb.Message) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.handled[m.GlobalPosition]++
		if time.Since(m.Time) > 0 {
			b.late[partitionOf(m.Stream, bureauPartitions)] = true
		}
		return nil
	}, opts...)
	b.clerks = append(b.clerks, c)
	return c
}

// dismiss ends a process.
func (b *bureau) dismiss(c *clerk) {
	b.Helper()
	b.clerks = slices.DeleteFunc(b.clerks, func(other *clerk) bool { return other == c })
	c.cancel(errClosing)
	c.wait()
}

// has returns the numbers of a process's partitions, in ascending order.
func (b *bureau) has(c *clerk) (numbers []int) {
	b.hall.mu.Lock()
	defer b.hall.mu.Unlock()
	for p, row := range b.hall.rows {
		if row.member == c.self.Load().ID {
			numbers = append(numbers, p.Number)
		}
	}
	slices.Sort(numbers)
	return numbers
}

// changes calls f, writes to all partitions while the processes share them, and checks that so many have moved, each of them
// once, and that no message of the other ones had to wait. If two processes give some away at the same time, and cannot have equal
// shares, one more may move.
func (b *bureau) changes(what string, moved int, f func()) {
	b.Helper()
	most := moved
	if bureauPartitions%moved != 0 {
		most++
	}
	b.hall.set(func() { b.hall.claimed = nil })
	f()
	b.work()
	b.hall.mu.Lock()
	defer b.hall.mu.Unlock()
	var claimed []int
	for _, p := range b.hall.claimed {
		claimed = append(claimed, p.Number)
	}
	slices.Sort(claimed)
	if n := len(claimed); n < moved || n > most || len(slices.Compact(slices.Clone(claimed))) != n {
		b.Errorf("%s: the partitions %v have moved, want %d of them, once", what, claimed, moved)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for number := range b.late {
		if !slices.Contains(claimed, number) {
			b.Errorf("%s: messages of partition %d had to wait, although it has not moved", what, number)
		}
	}
	clear(b.late)
}

// work writes to all partitions for longer than a lease and the heartbeats after it.
func (b *bureau) work() {
	for range 200 {
		write(bureauPartitions, bureauPartitions, b.clerks...)
		pass(100 * time.Millisecond)
	}
}

// all checks how often each message was handled, at least once and at most so often.
func (b *bureau) all(what string, most int) {
	b.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for position := range b.clerks[0].shelf.end() {
		if n := b.handled[position+1]; n < 1 || n > most {
			b.Errorf("%s: message %d was handled %d times", what, position+1, n)
		}
		b.handled[position+1] = 1
	}
}

// TestGroupMovesLeast checks that a process which joins, leaves, freezes, crashes or returns moves only as many partitions as
// it must, each of them once, and that messages of the others do not wait meanwhile.
func TestGroupMovesLeast(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBureau(t)
		var first, second, third, fourth *clerk
		var frozen atomic.Bool
		b.changes("a first process", 16, func() { first = b.hire() })
		b.changes("a second process", 8, func() { second = b.hire() })
		b.changes("a third process", 5, func() { third = b.hire(cutting(&frozen)) })
		b.changes("a fourth process", 4, func() { fourth = b.hire() })
		b.changes("one that leaves", 4, func() { b.dismiss(second) })
		b.all("processes that join and leave", 1)
		b.changes("one that joins instead", 4, func() { second = b.hire() })
		b.all("a process that joins", 1)

		b.changes("one that freezes", 4, func() { frozen.Store(true) })
		if got := third.counts.losses.Load(); got != 1 {
			t.Errorf("the frozen process has lost %d leases", got)
		}
		b.changes("one that returns", 4, func() { frozen.Store(false) })
		b.all("a process that freezes", 2)
		b.changes("one that crashes", 4, func() {
			frozen.Store(true)
			b.clerks = slices.DeleteFunc(b.clerks, func(c *clerk) bool { return c == third })
		})
		b.all("a process that crashes", 2)
		for _, c := range []*clerk{first, second, fourth} {
			if c.counts.losses.Load() != 0 || c.counts.joins.Load() != 1 {
				t.Errorf("another process has lost its lease")
			}
		}
	})
}

// TestGroupReturns checks that a process which ends and is started again gets the partitions that it had, that with an instance
// nobody else has them meanwhile after a crash, and that all others keep theirs.
func TestGroupReturns(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const size = 4
		b := newBureau(t)
		var cut atomic.Bool
		instance := func(mc *memberConfig, _ *engineConfig) { mc.join.Instance = "pod-3" }
		clerks := make([]*clerk, size)
		for i := range size - 1 {
			clerks[i] = b.hire()
			pass(20 * time.Second)
		}
		clerks[size-1] = b.hire(instance, cutting(&cut))
		pass(20 * time.Second)
		want := make([][]int, size)
		for i, c := range clerks {
			want[i] = b.has(c)
		}
		same := func(what string) {
			t.Helper()
			for i, c := range clerks {
				if got := b.has(c); !slices.Equal(got, want[i]) {
					t.Errorf("%s: process %d has the partitions %v, want %v as before", what, i, got, want[i])
				}
			}
		}
		b.changes("one that crashes and is started again", bureauPartitions/size, func() {
			cut.Store(true)
			b.clerks = b.clerks[:size-1]
			clerks[size-1] = b.hire(instance)
		})
		same("after a crash")
		b.all("after a crash", 2)

		older := clerks[size-1]
		b.changes("a second one with the instance", bureauPartitions/size, func() {
			b.clerks = b.clerks[:size-1]
			clerks[size-1] = b.hire(instance)
		})
		if err := older.wait(); !errors.Is(err, ErrReplaced) {
			t.Errorf("the older process ended with %v", err)
		}
		same("with two of the same instance")
		b.all("with two of the same instance", 2)

		for i := range clerks {
			b.changes("one that ends", bureauPartitions/size, func() { b.dismiss(clerks[i]) })
			b.changes("one that is started again", bureauPartitions/size, func() { clerks[i] = b.hire() })
			same("after a restart")
		}
		b.all("after restarts", 1)
	})
}
