package consumer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestMemberLosesFencedPartition checks that the handlers of a partition end, and that its messages are forgotten, if the
// fence has rejected to park one of them, because another process has the partition.
func TestMemberLosesFencedPartition(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		ms := letters(t, 4, 2)
		zero := partition{Category: "category"}
		// It has another cardinal ID, so that it is parked while the handler of the first message runs.
		extra := ms[0]
		extra.Stream, extra.GlobalPosition = anotherOf(ms[0].Stream, 2), 5
		c := hire(t, h, append(ms, extra), func(ctx context.Context, m mdb.Message) error {
			switch m.GlobalPosition {
			case ms[0].GlobalPosition:
				<-ctx.Done()
				return ctx.Err()
			case 5:
				return RetryAfter(errBroken, 2*time.Second)
			}
			return nil
		}, func(_ *memberConfig, ec *engineConfig) {
			ec.policy = func(f Failure) Action {
				if f.Attempt > 1 {
					return f.Park()
				}
				return f.Default()
			}
			ec.park = func(context.Context, *delivery, Failure, *ledger.Move) error {
				h.set(func() { // another process has claimed the partition meanwhile
					h.epochs++
					other := uuid.New()
					h.members[other] = &hallMember{seen: time.Now(), lease: time.Hour}
					h.rows[zero].member, h.rows[zero].epoch = other, h.epochs
				})
				return errFence
			}
		})
		pass(20 * time.Second)
		if got := c.endings(); len(got) != 1 || !errors.Is(got[0], ErrLeaseLost) {
			t.Errorf("got the causes %v, want one", got)
		}
		if s := c.engine.stats(); s.messages != 0 || s.running != 0 {
			t.Errorf("got %d messages and %d calls, want none", s.messages, s.running)
		}
	})
}

// TestMemberReadsUnansweredPark checks that a process reads its rows once, by a new epoch of the partition, when an attempt to park
// a message of it gets no answer, and that its other partitions go on.
func TestMemberReadsUnansweredPark(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		ms := letters(t, 4, 2)
		zero, one := partition{Category: "category"}, partition{Category: "category", Number: 1}
		parks := make(map[int64]int) // by epoch
		c := hire(t, h, ms, func(_ context.Context, m mdb.Message) error {
			if m.GlobalPosition == ms[0].GlobalPosition {
				return RetryAfter(errBroken, 2*time.Second)
			}
			return nil
		}, func(_ *memberConfig, ec *engineConfig) {
			ec.policy = func(f Failure) Action {
				if f.Attempt > 1 {
					return f.Park()
				}
				return f.Default()
			}
			ec.park = func(_ context.Context, d *delivery, _ Failure, _ *ledger.Move) error {
				var n int
				h.set(func() {
					parks[d.epoch]++
					n = len(parks)
				})
				if n == 1 {
					return io.ErrUnexpectedEOF
				}
				return nil
			}
		})
		pass(time.Second)
		h.count("balance")
		epochs := func() (ofZero, ofOne int64) {
			h.set(func() { ofZero, ofOne = h.rows[zero].epoch, h.rows[one].epoch })
			return ofZero, ofOne
		}
		first, other := epochs()
		pass(20 * time.Second)
		last, same := epochs()
		if n := h.count("balance"); n != 1 {
			t.Errorf("got %d balances, want 1", n)
		}
		if last == first || same != other || parks[first] != 1 || parks[last] != 1 {
			t.Errorf("got %v parked by epochs, which were %d and %d and are %d and %d", parks, first, other, last, same)
		}
		if got, want := h.positions(), []int64{4, 4}; !slices.Equal(got, want) {
			t.Errorf("got the checkpoints %v, want %v", got, want)
		}
		if s := c.engine.stats(); s.messages != 0 || s.parked != 1 || c.counts.rewound.Load() != 0 {
			t.Errorf("got %+v", s)
		}
	})
}

// anotherOf returns a stream of the partition of a stream, with another cardinal ID.
func anotherOf(stream mdb.StreamName, partitions int) mdb.StreamName {
	for i := 0; ; i++ {
		other := mdb.StreamName(fmt.Sprintf("category-other%d", i))
		if partitionOf(other, partitions) == partitionOf(stream, partitions) {
			return other
		}
	}
}

// TestMemberReleasesNoFenced checks that a partition is not released while the fence has stopped the one of another category with
// its number, of which a handler may be running: the server would free both.
func TestMemberReleasesNoFenced(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 0)
		id := uuid.New()
		first, second := partition{Category: "first"}, partition{Category: "second"}
		h.members[id] = &hallMember{seen: time.Now(), lease: time.Hour}
		e := newEngine(engineConfig{})
		m := newMember(memberConfig{
			join: ledger.JoinParams{Lease: time.Hour}, logger: slog.New(slog.DiscardHandler), do: h.do, engine: e,
			now: func() instant { return instant{0, time.Now()} },
		})
		m.self.Store(&ledger.Member{Consumer: 1, ID: id})
		m.evicted, m.ticked = false, true
		m.lease.renew(m.now())
		for _, p := range []partition{first, second} {
			h.rows[p] = &hallRow{member: id, epoch: 1}
			row := ledger.Row{Partition: p, Epoch: 1}
			m.held[p] = row
			e.claim(row, nil)
		}
		e.feed(second, 1, []mdb.Message{{Stream: "second-1", GlobalPosition: 1}}, source.At(1)) // which waits for a worker
		m.leaving[0] = true
		m.stopFeeding(func(p partition) bool { return p == first })
		m.collect()
		e.mu.Lock()
		e.fence(e.parts[second])
		e.unlock()
		m.collect()
		if _, ok := m.drained[first]; !ok || len(m.held) != 1 {
			t.Fatalf("got %v drained, of %v", m.drained, m.held)
		}
		m.release(t.Context())
		clear(m.before) // as if its rows were read, and it waits
		m.release(t.Context())
		if n := h.count("release"); n != 0 {
			t.Errorf("got %d releases, want none", n)
		}
		m.before[second] = ledger.Row{}
		e.drop([]partition{second}, errMoved) // as after a refused move
		m.release(t.Context())
		if n := h.count("release"); n != 0 {
			t.Errorf("got %d releases before the rows are read, want none", n)
		}
		clear(m.before)
		if m.release(t.Context()); h.count("release") != 1 {
			t.Error("nothing is released after the rows were read")
		}
	})
}
