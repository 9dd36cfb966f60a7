package consumer

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// logging lets a clerk write a log at level Info or above.
func logging(log io.Writer) clerkOption {
	return func(mc *memberConfig, _ *engineConfig) { mc.logger = slog.New(slog.NewTextHandler(log, nil)) }
}

// A count is how many lines of a log contain a text.
type count struct {
	text string
	n    atomic.Int64
}

func (c *count) Write(line []byte) (int, error) {
	if strings.Contains(string(line), c.text) {
		c.n.Add(1)
	}
	return len(line), nil
}

// resize changes the number of partitions, as operators do. A multiple leaves the partitions with their members.
func (h *hall) resize(n int) {
	h.set(func() {
		h.epochs++
		old := h.partitions
		rows := make(map[partition]*hallRow)
		for p, row := range h.rows {
			for number := p.Number; number < n; number += old {
				rows[partition{Category: p.Category, Number: number}] = &hallRow{position: row.position, member: row.member, epoch: h.epochs}
			}
		}
		if n%old != 0 {
			h.layout = h.epochs
			for _, row := range rows {
				row.member = uuid.Nil
			}
		}
		h.rows, h.partitions = rows, n
		h.ring()
	})
}

// seek moves the checkpoint of a partition, as operators do.
func (h *hall) seek(number int, position int64) {
	h.set(func() {
		h.epochs++
		row := h.rows[partition{Category: "category", Number: number}]
		row.position, row.epoch = position, h.epochs
		h.ring()
	})
}

// TestMemberPausedBefore checks that a process that starts during a pause, or when the pause begins after its first tick, calls no
// handler before it ends.
func TestMemberPausedBefore(t *testing.T) {
	for _, statement := range []string{"join", "balance"} {
		inSubBubble(t, statement, func(t *testing.T) {
			h := newHall(t, 2)
			h.before = func(s string) error {
				if s == statement {
					h.set(func() { h.paused = true })
				}
				return nil
			}
			c := hire(t, h, letters(t, 10, 2), nil)
			pass(time.Minute)
			if got := c.take(); len(got) != 0 || c.counts.losses.Load() != 0 || c.counts.joins.Load() != 1 {
				t.Errorf("got %v handled during the pause, or the lease was lost", got)
			}
			h.set(func() { h.before, h.paused = nil, false })
			pass(5 * time.Second)
			if got := c.take(); !slices.Equal(got, upTo(10)) {
				t.Errorf("got %v handled after it", got)
			}
		})
	}
}

// TestMemberPause checks that a pause calls no handler, lets those that are running finish, stores what is handled, and keeps the lease,
// and that the process then continues with what it has in memory, without reading it again.
func TestMemberPause(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		gate := make(chan struct{})
		c := hire(t, h, letters(t, 40, 2), func(context.Context, mdb.Message) error { <-gate; return nil })
		pass(5 * time.Second)
		for range 10 {
			gate <- struct{}{}
		}
		pass(time.Second)
		h.set(func() { h.paused = true })
		c.ring()
		pass(time.Second)
		begun := len(c.take())
		waiting := c.engine.stats().messages
		close(gate)
		pass(time.Minute)
		if got := c.take(); len(got) != 0 {
			t.Errorf("got %v handled during the pause", got)
		}
		if got := h.positions(); begun <= 10 || int(got[0]+got[1])/2 < begun-2 {
			t.Errorf("got the checkpoints %v, and %d calls had begun", got, begun)
		}
		if waiting < 20 || c.counts.losses.Load() != 0 {
			t.Errorf("%d messages were in memory, or the lease was lost", waiting)
		}
		in := c.engine.stats().messages
		c.shelf.count()
		c.shelf.mu.Lock()
		c.shelf.during = func(from int64) {
			if from < int64(begun+in-2) {
				t.Errorf("a page is read again from %d, and up to %d is in memory", from, begun+in)
			}
		}
		c.shelf.mu.Unlock()
		h.set(func() { h.paused = false })
		c.ring()
		pass(5 * time.Second)
		if got := c.take(); len(got) != 40-begun {
			t.Errorf("got %v handled after the pause, want %d", got, 40-begun)
		}
	})
}

// TestMemberStopsDuringPause checks that a process stops immediately during a pause, also if a message waits for a retry.
func TestMemberStopsDuringPause(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		c := hire(t, h, letters(t, 10, 4), func(_ context.Context, m mdb.Message) error {
			if m.GlobalPosition == 3 {
				return RetryAfter(Transient(errBroken), time.Second)
			}
			return nil
		})
		pass(5 * time.Second)
		h.set(func() { h.paused = true })
		pass(5 * time.Second)
		c.take()
		begun := time.Now()
		c.cancel(errClosing)
		if err := c.wait(); !errors.Is(err, errClosing) {
			t.Errorf("got %v", err)
		}
		if d := time.Since(begun); d > time.Second {
			t.Errorf("it has stopped after %v", d)
		}
		if got := c.take(); len(got) != 0 || h.size() != 0 {
			t.Errorf("got %v handled, and %d members", got, h.size())
		}
		if got := h.positions(); !slices.Equal(got, []int64{1, 10}) {
			t.Errorf("got the checkpoints %v", got)
		}
	})
}

// TestMemberBarrier checks that no handler is called for a message after a barrier, also at first, that all
// checkpoints reach it, also that of a partition without messages, and that the process continues when it is removed.
func TestMemberBarrier(t *testing.T) {
	for _, when := range []string{"before", "afterwards"} {
		inSubBubble(t, when, func(t *testing.T) {
			h := newHall(t, 3)
			barrier := int64(17)
			set := func() { h.set(func() { h.barrier = &barrier }) }
			if when == "before" {
				set()
			}
			gate := make(chan struct{})
			ms := letters(t, 40, 3)
			for i := range ms { // none of the last partition
				if partitionOf(ms[i].Stream, 3) == 2 {
					ms[i].Stream = ms[0].Stream
				}
			}
			c := hire(t, h, ms, func(context.Context, mdb.Message) error { <-gate; return nil })
			pass(5 * time.Second)
			set()
			pass(5 * time.Second)
			close(gate)
			pass(5 * time.Second)
			if got := c.take(); !slices.Equal(got, upTo(barrier)) {
				t.Errorf("got %v handled", got)
			}
			want := []int64{17, 17, 17}
			if when == "afterwards" {
				want[2] = 40 // that of the partition without messages was there before
			}
			if got := h.positions(); !slices.Equal(got, want) {
				t.Errorf("got the checkpoints %v", got)
			}
			h.set(func() { h.barrier = nil })
			pass(5 * time.Second)
			if got := c.take(); !slices.Equal(got, upTo(40)[17:]) {
				t.Errorf("got %v handled afterwards", got)
			}
		})
	}
}

// TestMemberSought checks that a process continues where an operator has moved a checkpoint, in either direction: the handlers of
// the partition end, what is parked is read again, and it counts neither as a loss nor as a rewound checkpoint. Other
// partitions go on.
func TestMemberSought(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		var log strings.Builder
		var slow atomic.Bool
		slow.Store(true)
		ms := letters(t, 40, 2)
		own := func(m mdb.Message) bool { return partitionOf(m.Stream, 2) == 0 }
		var first []int64 // of the partition
		for _, m := range ms {
			if own(m) {
				first = append(first, m.GlobalPosition)
			}
		}
		c := hire(t, h, ms, func(ctx context.Context, m mdb.Message) error {
			if own(m) && m.GlobalPosition == first[10] && slow.Swap(false) {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}, logging(&log))
		pass(5 * time.Second)
		if got := c.take(); len(got) != 20+11 {
			t.Fatalf("got %v handled before", got)
		}
		h.seek(0, first[4])
		pass(5 * time.Second)
		if got := c.take(); !slices.Equal(got, first[5:]) {
			t.Errorf("got %v handled after a seek to %d", got, first[4])
		}
		if got := c.endings(); len(got) != 1 || !errors.Is(got[0], errMoved) {
			t.Errorf("got the causes %v", got)
		}
		h.set(func() {
			h.parked = append(h.parked, ledger.Parked{Partition: partition{Category: "category"}, Key: ms[0].Stream.CardinalID(), Stream: string(ms[0].Stream)})
			if !own(ms[0]) {
				h.parked[0].Key, h.parked[0].Stream = ms[1].Stream.CardinalID(), string(ms[1].Stream)
			}
		})
		h.seek(0, 0)
		pass(5 * time.Second)
		if got := c.take(); len(got) != 0 {
			t.Errorf("got %v handled, although they are parked", got)
		}
		h.set(func() { h.parked = nil })
		h.seek(0, first[17])
		pass(5 * time.Second)
		if got := c.take(); !slices.Equal(got, first[18:]) {
			t.Errorf("got %v handled after a seek to %d", got, first[17])
		}
		h.seek(0, 0)
		h.seek(0, 40)
		pass(5 * time.Second)
		c.take() // what the first one has let it handle
		write(2, 2, c)
		pass(5 * time.Second)
		if got := c.take(); len(got) != 2 {
			t.Errorf("got %v handled after a seek to the end, want two", got)
		}
		n := &c.counts
		if n.rewound.Load() != 0 || n.losses.Load() != 0 || n.claims.Load() != 2 || n.joins.Load() != 1 || strings.Contains(log.String(), "WARN") {
			t.Errorf("got %d rewound, %d losses, %d claims\n%s", n.rewound.Load(), n.losses.Load(), n.claims.Load(), log.String())
		}
		if got := strings.Count(log.String(), "somebody has moved checkpoints"); got != 4 {
			t.Errorf("got %d seeks in the log\n%s", got, log.String())
		}
	})
}

// TestMemberPartitions checks that a process whose consumer gets another number of partitions continues with it, although it has begun with
// another one, that it calls no handler before those have returned that it called before, and that it can join again.
func TestMemberPartitions(t *testing.T) {
	for _, to := range []int{4, 6, 3, 1} {
		inSubBubble(t, "", func(t *testing.T) {
			h := newHall(t, 2)
			ms := letters(t, 60, 12)
			var held atomic.Bool
			held.Store(true)
			gate := make(chan struct{})
			started := func(mc *memberConfig, _ *engineConfig) { mc.join.Partitions = 2 }
			c := hire(t, h, ms, func(context.Context, mdb.Message) error {
				if held.Load() {
					<-gate
				}
				return nil
			}, started)
			pass(5 * time.Second)
			begun := c.take()
			if len(begun) != 4 {
				t.Fatalf("got %v begun", begun)
			}
			h.resize(to)
			pass(5 * time.Second)
			held.Store(false)
			for range begun { // they ignore that their contexts have ended
				if got := c.take(); len(got) != 0 {
					t.Errorf("got %v begun while handlers run", got)
				}
				gate <- struct{}{}
				pass(time.Second)
			}
			pass(5 * time.Second)
			if got := c.take(); !slices.Equal(got, upTo(60)) {
				t.Errorf("got %v handled after the change to %d", got, to)
			}
			write(24, 12, c)
			pass(5 * time.Second)
			if got := c.take(); len(got) != 24 {
				t.Errorf("got %v handled then", got)
			}
			if got := h.positions(); len(got) != to || got[0] != 84 {
				t.Errorf("got the checkpoints %v", got)
			}
			if n := &c.counts; n.joins.Load() != 1 || n.losses.Load() != 0 || n.rewound.Load() != 0 || n.partitions.Load() != int64(to) {
				t.Errorf("got %d joins, %d losses, %d rewound, %d partitions", n.joins.Load(), n.losses.Load(), n.rewound.Load(), n.partitions.Load())
			}
			h.set(func() { clear(h.members) })
			pass(5 * time.Second)
			write(12, 12, c)
			pass(5 * time.Second)
			if got := c.take(); len(got) != 12 || c.counts.joins.Load() != 2 {
				t.Errorf("got %v handled, and %d joins", got, c.counts.joins.Load())
			}
			h.set(func() { clear(h.members) })
			h.resize(5)
			pass(5 * time.Second)
			write(12, 12, c)
			pass(5 * time.Second)
			if got := c.take(); len(got) != 12 || len(h.positions()) != 5 {
				t.Errorf("got %v handled after a change while it was no member", got)
			}
		})
	}
}

// TestMemberFixed checks that a consumer with InOrder ends if it gets more partitions.
func TestMemberFixed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 1)
		c := hire(t, h, letters(t, 10, 1), nil, func(mc *memberConfig, ec *engineConfig) {
			mc.join.Partitions, mc.fixed, ec.inOrder = 1, true, true
		})
		pass(5 * time.Second)
		c.take()
		h.resize(2)
		var setup *mdb.SetupError
		if err := c.wait(); !errors.As(err, &setup) || !strings.Contains(err.Error(), "2 partitions") {
			t.Errorf("got %v", err)
		}
		if got := c.take(); len(got) != 0 || h.size() != 0 {
			t.Errorf("got %v handled, and %d members", got, h.size())
		}
	})
}

// TestMemberRenamed checks that a process continues if its consumer is renamed, and joins again by the new name, also if it was renamed
// while the process was not a member.
func TestMemberRenamed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		var cut atomic.Bool
		c := hire(t, h, letters(t, 10, 2), nil, cutting(&cut))
		pass(5 * time.Second)
		h.set(func() { h.name = "renamed" })
		pass(5 * time.Second)
		if got := *c.name.Load(); got != "renamed" {
			t.Errorf("got the name %q", got)
		}
		evict := func() { h.set(func() { clear(h.members) }) }
		evict()
		pass(5 * time.Second)
		cut.Store(true)
		pass(20 * time.Second)
		evict()
		h.set(func() { h.name = "renamed again" })
		cut.Store(false)
		pass(10 * time.Second)
		write(2, 2, c)
		pass(5 * time.Second)
		if got := c.take(); len(got) != 12 || c.counts.joins.Load() != 3 {
			t.Errorf("got %v handled, and %d joins", got, c.counts.joins.Load())
		}
		h.set(func() {
			clear(h.members)
			h.before = func(statement string) error {
				if statement == "join" { // after it has looked the name up
					h.set(func() { h.before, h.name = nil, "renamed meanwhile" })
				}
				return nil
			}
		})
		pass(5 * time.Second)
		if got := *c.name.Load(); got != "renamed meanwhile" || c.counts.joins.Load() != 4 {
			t.Errorf("got the name %q, and %d joins", got, c.counts.joins.Load())
		}
	})
}

// TestMemberConsumerDeleted checks that Run ends if the consumer was deleted, and does not create it again, also if the process finds that later, but
// that it does if the history of the server is another one.
func TestMemberConsumerDeleted(t *testing.T) {
	for name, test := range map[string]struct {
		handler time.Duration
		absent  bool // the server cannot be reached meanwhile
		evicted bool // before, and it cannot join again meanwhile
		joining bool // it is about to join again
		history bool
	}{
		"evicted": {evicted: true},
		"idle":    {},
		"busy":    {handler: time.Hour},
		"absent":  {absent: true},
		"joining": {joining: true},
		"history": {history: true},
	} {
		inSubBubble(t, name, func(t *testing.T) {
			h := newHall(t, 2)
			var cut atomic.Bool
			c := hire(t, h, letters(t, 10, 2), func(ctx context.Context, m mdb.Message) error {
				select {
				case <-ctx.Done():
				case <-time.After(test.handler):
				}
				return ctx.Err()
			}, cutting(&cut))
			pass(5 * time.Second)
			cut.Store(test.absent)
			if test.evicted {
				h.set(func() {
					clear(h.members)
					h.before = func(statement string) error {
						if statement == "join" {
							return errNoAnswer
						}
						return nil
					}
				})
				pass(20 * time.Second)
			}
			if test.joining {
				h.set(func() {
					clear(h.members)
					h.before = func(statement string) error {
						if statement == "join" { // after it has found the consumer
							h.set(func() { h.before, h.name = nil, "" })
						}
						return nil
					}
				})
				pass(20 * time.Second)
			}
			h.set(func() {
				h.before = nil
				clear(h.members)
				clear(h.rows)
				if h.name = ""; test.history {
					h.name, h.timeline = "consumer", "00000002"
				}
				delete(h.calls, "join")
			})
			pass(20 * time.Second)
			cut.Store(false)
			if test.history {
				pass(20 * time.Second)
				if h.count("join") != 1 || len(h.positions()) != 2 {
					t.Error("it has not created the consumer again")
				}
				return
			}
			if err := c.wait(); !errors.Is(err, ErrDeleted) {
				t.Errorf("got %v", err)
			}
			if n := h.count("join"); n != 0 || h.size() != 0 {
				t.Errorf("got %d joins, and %d members", n, h.size())
			}
			for _, cause := range c.endings() {
				if !errors.Is(cause, ErrDeleted) && !test.absent {
					t.Errorf("a handler's context has ended with %v", cause)
				}
			}
			if len(c.endings()) == 0 && test.handler > 0 {
				t.Error("no handler's context has ended")
			}
		})
	}
}

// TestObserverDuringReread checks that while a partition waits because the fence has rejected its moves, OnPartitions is not called as if it
// were lost, nor OnLive as if nothing of it were left.
func TestObserverDuringReread(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var d diary
		h := newHall(t, 2)
		reject := true
		c := hire(t, h, letters(t, 4, 2), nil, observing(t, &d), func(_ *memberConfig, ec *engineConfig) {
			ec.form.moves = true
			ec.form.call = func(_ context.Context, call call) (int, error) {
				mv := call.from
				h.mu.Lock()
				defer h.mu.Unlock()
				if mv.Number == 0 && reject {
					return 0, errFenced
				}
				h.move(h.rows[mv.Partition].member, mv)
				return len(call.deliveries), nil
			}
		})
		pass(2 * time.Minute)
		d.check(t, "partitions [0 1]")
		if n := c.counts.partitions.Load(); n != 2 {
			t.Errorf("got %d partitions", n)
		}
		h.set(func() { reject = false })
		pass(2 * time.Minute)
		d.check(t, "live true")
	})
}

// TestMemberAsksForHistory checks that a process which looks at its rows because the fence has rejected a move asks for the timeline
// before: a checkpoint that a failover has lost is not taken for one that an operator has moved.
func TestMemberAsksForHistory(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 1)
		first := partition{Category: "category"}
		var fails atomic.Bool
		c := hire(t, h, letters(t, 20, 1), nil, func(_ *memberConfig, ec *engineConfig) {
			ec.form.moves, ec.form.most = true, 5
			ec.form.call = func(_ context.Context, call call) (int, error) {
				h.mu.Lock()
				defer h.mu.Unlock()
				if fails.Swap(false) {
					h.epochs++
					h.rows[first].position, h.rows[first].epoch, h.timeline = 10, h.epochs, "00000002"
					return 0, errFenced
				}
				h.move(h.rows[first].member, call.from)
				return len(call.deliveries), nil
			}
		})
		pass(5 * time.Second)
		fails.Store(true)
		write(1, 1, c)
		pass(5 * time.Second)
		if n := c.counts.rewound.Load(); n != 1 || h.positions()[0] != 21 {
			t.Errorf("got %d checkpoints that have gone back, and %v", n, h.positions())
		}
	})
}

// TestMemberDeletedBeforeFirstTick checks that Run ends if the consumer is deleted after the process has joined and before its first balance and tick,
// and that it joins again if the history of the server is another one then.
func TestMemberDeletedBeforeFirstTick(t *testing.T) {
	for _, timeline := range []string{"00000001", "00000002"} {
		inSubBubble(t, timeline, func(t *testing.T) {
			h := newHall(t, 2)
			h.before = func(statement string) error {
				if statement == "balance" { // the first one
					h.set(func() {
						h.before = nil
						clear(h.members)
						if h.timeline = timeline; timeline == "00000001" {
							h.name = ""
						}
					})
				}
				return nil
			}
			c := hire(t, h, letters(t, 10, 2), nil)
			pass(time.Minute)
			if timeline == "00000002" {
				if got := c.take(); len(got) != 10 || c.counts.joins.Load() != 2 {
					t.Errorf("got %v handled, and %d joins", got, c.counts.joins.Load())
				}
				return
			}
			if err := c.wait(); !errors.Is(err, ErrDeleted) || c.counts.joins.Load() != 1 {
				t.Errorf("got %v, and %d joins", err, c.counts.joins.Load())
			}
		})
	}
}

// TestMemberReminds checks that a process logs once that it waits for handlers after a change of the number of partitions, and that it takes
// nothing before they return.
func TestMemberReminds(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		log := count{text: "handlers of a consumer do not return"}
		h := newHall(t, 2)
		gate := make(chan struct{})
		c := hire(t, h, letters(t, 2, 2), func(context.Context, mdb.Message) error { <-gate; return nil }, logging(&log))
		pass(5 * time.Second)
		h.resize(3)
		c.ring()
		pass(handlersEnd - time.Second)
		if n := log.n.Load(); n != 0 {
			t.Errorf("%d reminders before it is time", n)
		}
		pass(time.Minute)
		if n := log.n.Load(); n != 1 || len(h.owned()) != 1 {
			t.Errorf("%d reminders, want one, and owners of partitions: %v", n, h.owned())
		}
		close(gate)
		pass(5 * time.Second)
		if n := log.n.Load(); n != 1 || c.counts.partitions.Load() != 3 {
			t.Errorf("%d reminders, and %d partitions afterwards", n, c.counts.partitions.Load())
		}
	})
}
