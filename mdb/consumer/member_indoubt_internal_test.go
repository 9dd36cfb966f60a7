package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
)

// TestMemberMovesNothingInDoubt checks that no statement moves a checkpoint by a new connection before the rows and what is parked
// were read: here all rows are as before, and a stream that the process has parked is not parked any more.
func TestMemberMovesNothingInDoubt(t *testing.T) {
	const partitions = 4
	for name, leave := range map[string]bool{"a tick": false, "the end": true} {
		inSubBubble(t, name, func(t *testing.T) {
			h := newHall(t, partitions)
			c := hire(t, h, letters(t, 40, partitions), func(_ context.Context, m mdb.Message) error {
				if m.GlobalPosition == 41 {
					return Permanent(errBroken)
				}
				return nil
			})
			pass(5*time.Second + 10*time.Millisecond)
			c.take()
			write(4, partitions, c)
			pass(10 * time.Millisecond)
			if got := c.take(); !slices.Equal(got, []int64{41, 42, 43, 44}) || len(h.parked) != 1 {
				t.Fatalf("got %d handled before, and %v parked, want all", got, h.parked)
			}
			h.set(func() { h.session, h.parked = h.session+1, nil })
			if leave {
				c.cancel(errClosing)
				if err := c.wait(); !errors.Is(err, errClosing) {
					t.Error(err)
				}
				if got := h.positions(); !slices.Equal(got, []int64{40, 44, 44, 44}) || h.size() != 0 {
					t.Errorf("got the checkpoints %v, want that of the parked stream as it was", got)
				}
				return
			}
			pass(5 * time.Second)
			if got := c.take(); !slices.Equal(got, []int64{41, 42, 43, 44}) {
				t.Errorf("got %d handled again, want all", got)
			}
			if got := h.positions(); got[0] != 44 {
				t.Errorf("got the checkpoints %v", got)
			}
		})
	}
}

// TestMemberLooksWhileStopping checks what becomes of a doubt while a handler of a process that stops is running: where the
// row and what is parked are as the process knows them, the handler goes on, the messages that wait for it are handled, and everything is
// stored; where they are not, the handler's context ends, and nothing is stored. So it is for all if the server has another timeline.
func TestMemberLooksWhileStopping(t *testing.T) {
	const partitions = 2
	slow := partition{Category: "category", Number: partitionOf(letters(t, 1, partitions)[0].Stream, partitions)}
	for name, test := range map[string]struct {
		doubt func(h *hall, c *clerk)
		kept  bool
	}{
		"as it was":      {func(*hall, *clerk) {}, true},
		"the row":        {func(h *hall, _ *clerk) { h.rows[slow].position = 19 }, false},
		"the epoch":      {func(h *hall, _ *clerk) { h.rows[slow].epoch++ }, false},
		"what is parked": {func(h *hall, _ *clerk) { h.parked = nil }, false},
		"the timeline":   {func(h *hall, _ *clerk) { h.timeline = "00000002" }, false},
		"a reader":       {func(_ *hall, c *clerk) { c.forked() }, false},
	} {
		inSubBubble(t, name, func(t *testing.T) {
			h := newHall(t, partitions)
			release := make(chan struct{})
			c := hire(t, h, letters(t, 20, partitions), func(ctx context.Context, m mdb.Message) error {
				switch m.GlobalPosition {
				case 21:
					return Permanent(errBroken)
				case 24:
					select {
					case <-release:
					case <-ctx.Done():
					}
				}
				return ctx.Err()
			})
			pass(5*time.Second + 10*time.Millisecond)
			c.take()
			streams := streamsOf(partitions)
			var more []mdb.StreamName // of the same partition
			for i := 0; len(more) < 2; i++ {
				if stream := mdb.StreamName(fmt.Sprintf("category-more%d", i)); partitionOf(stream, partitions) == slow.Number {
					more = append(more, stream)
				}
			}
			c.shelf.mu.Lock()
			for i, stream := range []mdb.StreamName{streams[0], streams[1], streams[1], more[0], more[0], more[1], streams[1]} {
				c.shelf.messages = append(c.shelf.messages, mdb.Message{ID: uuid.New(), Stream: stream, Time: time.Now(), GlobalPosition: 21 + int64(i)})
			}
			c.shelf.next = 28
			c.shelf.mu.Unlock()
			c.shelf.rung <- struct{}{}
			pass(10 * time.Millisecond)
			c.cancel(errClosing)
			pass(10 * time.Millisecond)
			h.set(func() {
				h.session++
				test.doubt(h, c)
			})
			pass(5 * time.Second)
			ended := c.endings()
			if got := c.take(); !slices.Equal(got, []int64{21, 22, 23, 24, 26, 27}) {
				t.Fatalf("got %d handled", got)
			}
			close(release)
			pass(time.Second)
			select {
			case err := <-c.ended:
				c.ended <- err
			default:
				t.Fatal("it waits")
			}
			if got := c.take(); slices.Contains(got, 25) != test.kept {
				t.Errorf("got %d handled while stopping", got)
			}
			h.set(func() {
				at := h.rows[slow].position
				if test.kept && (at < 26 || len(ended) != 0) || !test.kept && (at > 21 || len(ended) != 1 || !errors.Is(ended[0], errReread)) {
					t.Errorf("got the checkpoint %d, and contexts that ended with %v", at, ended)
				}
				want := int64(27)
				if name == "the timeline" || name == "a reader" {
					want = 20
				}
				if got := h.rows[partition{Category: "category", Number: 1 - slow.Number}].position; got != want {
					t.Errorf("got the checkpoint %d of the other partition, want %d", got, want)
				}
			})
		})
	}
}

// TestMemberReleasesNothingInDoubt checks the same for partitions that are released.
func TestMemberReleasesNothingInDoubt(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		ms := letters(t, 20, 2)
		a := hire(t, h, ms, nil)
		pass(5*time.Second + 10*time.Millisecond)
		a.take()
		write(2, 2, a)
		pass(10 * time.Millisecond)
		moved, reread, balances := 0, -1, 0
		h.set(func() {
			h.after = func(statement string) error {
				if statement != "balance" {
					return nil
				}
				h.set(func() {
					switch balances++; balances {
					case 2: // the first is that of the other process
						moved = len(h.moves)
						h.session++
					case 3:
						h.after, reread = nil, len(h.moves)
					}
				})
				return nil
			}
		})
		hire(t, h, ms, nil)
		for done := false; !done; {
			pass(time.Millisecond)
			h.set(func() { done = reread >= 0 })
		}
		h.set(func() {
			if len(h.moves[moved:reread]) > 0 {
				t.Errorf("got the moves %v before the rows were read", h.moves[moved:reread])
			}
		})
	})
}

// TestMemberCallsNothingInDoubt checks that no handler is called between a doubt and the look at the rows, which the
// server delays here, and that handlers are called again then.
func TestMemberCallsNothingInDoubt(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 4)
		c := hire(t, h, letters(t, 40, 4), nil, func(mc *memberConfig, _ *engineConfig) { mc.join.Lease = time.Minute })
		pass(5*time.Second + 10*time.Millisecond)
		c.take()
		h.set(func() {
			h.after = func(string) error {
				h.set(func() { h.down = errNoAnswer })
				return errNoAnswer
			}
		})
		pass(3 * time.Second)
		write(4, 4, c)
		pass(10 * time.Second)
		if got := c.take(); len(got) != 0 {
			t.Errorf("got %d handled, want none", got)
		}
		h.set(func() { h.down, h.after = nil, nil })
		pass(2 * time.Second)
		if got := c.take(); !slices.Equal(got, []int64{41, 42, 43, 44}) {
			t.Errorf("got %d handled then, want all", got)
		}
	})
}

// TestMemberAstray checks what happens while the fence rejects everything although the rows stay as they are, as if the
// ticks and the pool led to different servers: the member waits longer and longer, gets new connections, and continues
// when these lead to one server.
func TestMemberAstray(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		calls, times := 0, 0
		one := false // server
		c := hire(t, h, letters(t, 20, 2), nil, func(mc *memberConfig, ec *engineConfig) {
			ec.form.moves = true
			ec.form.call = func(_ context.Context, call call) (int, error) {
				mv := call.from
				done := false
				h.set(func() {
					if calls++; one || calls > 1000 {
						h.move(h.rows[mv.Partition].member, mv)
						done = true
					}
				})
				if done {
					return len(call.deliveries), nil
				}
				return 0, errFenced
			}
			mc.reconnect = func(ticks bool) {
				h.set(func() {
					if times++; ticks {
						h.session++
					}
				})
			}
		})
		pass(10 * time.Minute)
		h.set(func() {
			if calls > 150 || times < 10 {
				t.Errorf("got %d calls and %d new connections", calls, times)
			}
			one = true
		})
		pass(time.Minute)
		if got := h.positions(); got[0] < 19 {
			t.Errorf("got the checkpoints %v, want the end", got)
		}
		if n := c.counts.losses.Load(); n != 0 {
			t.Errorf("the lease was lost %d times", n)
		}
	})
}

// TestMemberSlowInDoubts checks that doubts which end a slow handler again and again, so that its checkpoint does not
// move, are no rejections by the fence: the process opens no new connections, and does not wait, and the handler that is called again
// finishes.
func TestMemberSlowInDoubts(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 1)
		var begun, connections, finished atomic.Int32
		c := hire(t, h, letters(t, 1, 1), func(ctx context.Context, _ mdb.Message) error {
			begun.Add(1)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(20 * time.Second):
				finished.Add(1)
				return nil
			}
		}, func(mc *memberConfig, _ *engineConfig) {
			mc.reconnect = func(ticks bool) {
				connections.Add(1)
				if ticks {
					h.set(func() { h.session++ })
				}
			}
		})
		pass(5 * time.Second)
		const doubts = 6
		for range doubts {
			h.set(func() { h.session++ })
			pass(5 * time.Second)
		}
		if n := begun.Load(); n != doubts+1 {
			t.Errorf("got %d calls, want one immediately after each doubt", n)
		}
		pass(20 * time.Second)
		if connections.Load() != 0 || finished.Load() != 1 || begun.Load() != doubts+1 {
			t.Errorf("got %d new connections, and %d calls of %d finished", connections.Load(), finished.Load(), begun.Load())
		}
		if got := h.positions(); !slices.Equal(got, []int64{1}) || len(c.endings()) != doubts {
			t.Errorf("got the checkpoint %v", got)
		}
	})
}

// TestMemberAstrayAlone checks that a partition whose moves the fence rejects although its row stays as it is waits alone:
// another one continues immediately after a rejection, and its balances do not end the wait of the first.
func TestMemberAstrayAlone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		calls := make(map[int]int)
		reject := false
		c := hire(t, h, letters(t, 2, 2), nil, func(_ *memberConfig, ec *engineConfig) {
			ec.form.moves = true
			ec.form.call = func(_ context.Context, call call) (int, error) {
				mv := call.from
				h.mu.Lock()
				defer h.mu.Unlock()
				calls[mv.Number]++
				if mv.Number == 0 || reject {
					reject = false
					return 0, errFenced
				}
				h.move(h.rows[mv.Partition].member, mv)
				return len(call.deliveries), nil
			}
		})
		pass(2 * time.Minute) // the delay is half a minute, about
		h.set(func() { clear(calls) })
		for range 60 {
			h.set(func() { reject = true })
			write(2, 2, c)
			pass(time.Second)
			h.set(func() {
				if got := h.rows[partition{Category: "category", Number: 1}].position; got != c.shelf.next-1 && got != c.shelf.next-2 {
					t.Errorf("got the checkpoint %d of %d", got, c.shelf.next-1)
				}
			})
		}
		h.set(func() {
			if calls[0] == 0 || calls[0] > 5 || calls[1] != 120 {
				t.Errorf("got %d calls in a minute of the partition that waits, and %d of the other one", calls[0], calls[1])
			}
		})
	})
}

// TestMemberCountsClaimedAgain checks that a checkpoint counts that has gone back, also if the process finds it with
// another epoch after a failover.
func TestMemberCountsClaimedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		c := hire(t, h, letters(t, 20, 2), nil)
		pass(5 * time.Second)
		c.take()
		h.set(func() {
			row := h.rows[partition{Category: "category"}]
			h.epochs++
			row.position, row.epoch = 10, h.epochs
			h.timeline = "00000002"
		})
		pass(5 * time.Second)
		if n := c.counts.rewound.Load(); n != 1 {
			t.Errorf("got %d, want 1", n)
		}
		if got, want := c.take(), c.shelf.between(0, 2, 10, 20); !slices.Equal(got, want) {
			t.Errorf("got %d handled again, want %d", got, want)
		}
	})
}

// TestMemberBeginsAgain checks that a process whose consumer began at the end and is lost by a failover begins where it
// has first seen it, in each category, and not at the end, also if it has never had a partition. If the store has gone back
// to before that, it begins at the end that the store has then.
func TestMemberBeginsAgain(t *testing.T) {
	inSubBubble(t, "to before it", func(t *testing.T) {
		h := newHall(t, 2)
		h.rows, h.last = make(map[partition]*hallRow), 10
		c := hire(t, h, letters(t, 20, 2), nil)
		pass(5 * time.Second)
		if got := c.take(); len(got) != 10 {
			t.Fatalf("got %v handled before, want those after the end", got)
		}
		back := func(end int64) {
			h.set(func() {
				clear(h.rows)
				clear(h.members)
				h.last, h.timeline = end, h.timeline+"2"
				c.shelf.mu.Lock()
				c.shelf.messages, c.shelf.next = c.shelf.messages[:end], end+1
				c.shelf.mu.Unlock()
			})
			pass(5 * time.Second)
		}
		back(4)
		if got := h.positions(); !slices.Equal(got, []int64{4, 4}) {
			t.Errorf("got the checkpoints %v, want the end", got)
		}
		write(8, 2, c)
		pass(5 * time.Second)
		if got := c.take(); !slices.Equal(got, []int64{5, 6, 7, 8, 9, 10, 11, 12}) {
			t.Errorf("got %v handled, want those that were written afterwards", got)
		}
		back(11) // now the process has first seen it at 4
		if got := c.take(); !slices.Equal(got, []int64{5, 6, 7, 8, 9, 10, 11}) {
			t.Errorf("got %v handled again", got)
		}
	})
	inSubBubble(t, "without a partition", func(t *testing.T) {
		h := newHall(t, 1)
		h.rows, h.last = make(map[partition]*hallRow), 10
		ms := letters(t, 20, 1)
		var cut atomic.Bool
		a := hire(t, h, ms, nil, cutting(&cut))
		pass(time.Second)
		b := hire(t, h, ms, nil)
		pass(5 * time.Second)
		if x, y := a.take(), b.take(); len(x) != 10 || len(y) != 0 {
			t.Fatalf("got %v and %v handled before, want all by one process", x, y)
		}
		cut.Store(true)
		h.set(func() {
			clear(h.rows)
			clear(h.members)
			h.last, h.timeline = 20, "00000002"
		})
		pass(5 * time.Second)
		if got := b.take(); len(got) != 10 {
			t.Errorf("got %v handled again, want those after the first end", got)
		}
		cut.Store(false)
	})
	inSubBubble(t, "where it was", func(t *testing.T) {
		h := newHall(t, 2)
		h.rows, h.last = make(map[partition]*hallRow), 10
		for n := range h.partitions {
			h.rows[partition{Category: "another", Number: n}] = &hallRow{position: 7}
		}
		c := hire(t, h, letters(t, 20, 2), nil, func(mc *memberConfig, _ *engineConfig) {
			mc.join.Categories = []string{"another", "category"}
			readers, empty := mc.readers, newShelf(t)
			mc.readers = func(partitions int) map[string]reading {
				rs := readers(partitions)
				rs["another"] = newReader(readerConfig{category: "another", partitions: partitions, batch: 10, open: empty.open, sink: &drain{}})
				return rs
			}
		})
		pass(5 * time.Second)
		want := []int64{11, 13, 15, 17, 19} // it has one partition of each category
		if got := c.take(); !slices.Equal(got, want) {
			t.Fatalf("got %d handled before, want those after the end", got)
		}
		h.set(func() {
			clear(h.rows)
			clear(h.members)
			h.last, h.timeline = 20, "00000002"
		})
		pass(5 * time.Second)
		if got := c.take(); !slices.Equal(got, want) {
			t.Errorf("got %d handled again, want those after the first end", got)
		}
		if got := h.positions(); !slices.Equal(got[:3], []int64{7, 7, 10}) || h.size() != 1 {
			t.Errorf("got the checkpoints %v and %d members", got, h.size())
		}
	})
}

// TestMemberJoinsOnce checks that a process whose first or later join was executed although there was no answer repeats it as the same
// member: nobody waits for a lease of one that does not exist.
func TestMemberJoinsOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		unanswered := 2
		h.after = func(statement string) error {
			if statement == "join" && unanswered > 0 {
				unanswered--
				return context.DeadlineExceeded
			}
			return nil
		}
		c := hire(t, h, letters(t, 10, 2), nil)
		for joins := int64(1); joins <= 2; joins++ {
			pass(5 * time.Second)
			if h.size() != 1 || unanswered != 0 || c.counts.joins.Load() != joins || c.counts.partitions.Load() != 2 {
				t.Errorf("got %d members after %d joins with an answer, want one that has both partitions", h.size(), c.counts.joins.Load())
			}
			h.set(func() { clear(h.members) })
			unanswered = 2
			c.ring()
		}
	})
}
