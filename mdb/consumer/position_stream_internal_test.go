package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestPositionStreamFlushes checks when a position is stored: after five seconds, after a thousand messages, and at the end, and
// not if nothing has changed.
func TestPositionStreamFlushes(t *testing.T) {
	for _, partitions := range []int{1, 4} {
		inSubBubble(t, fmt.Sprint(partitions), func(t *testing.T) {
			p := newTape()
			c := engage(t, p, partitions, letters(t, 20, 8), nil)
			pass(4 * time.Second)
			if got := c.take(); !slices.Equal(got, upTo(20)) || p.recorded() != "[0]" {
				t.Errorf("got %v handled and %v stored before the time", got, p.recorded())
			}
			pass(2 * time.Second)
			if got := p.recorded(); got != "[0 20]" {
				t.Errorf("got %v stored after the interval, want [0 20]", got)
			}
			looks := 0
			p.set(func() { looks, p.looks = p.looks, 0 })
			pass(time.Minute)
			p.set(func() { looks = p.looks })
			if got := p.recorded(); got != "[0 20]" || looks != 30 {
				t.Errorf("got %v stored, and %d looks in an idle minute, want [0 20] and 30", got, looks)
			}
			write(1, 8, c)
			pass(2 * time.Second)
			if got := p.recorded(); got != "[0 20 21]" { // the interval has passed
				t.Errorf("got %v stored", got)
			}
			write(1000, 8, c)
			pass(1500 * time.Millisecond)
			if got := p.recorded(); got != "[0 20 21 1021]" {
				t.Errorf("got %v stored after a thousand messages", got)
			}
			write(3, 8, c)
			pass(time.Second)
			c.cancel(errClosing)
			if err := c.wait(); !errors.Is(err, errClosing) || p.recorded() != "[0 20 21 1021 1024]" {
				t.Errorf("got %v, and %v stored at the end", err, p.recorded())
			}
			if m := &c.counts; m.rewound.Load() != 0 || m.joins.Load() != 1 || m.losses.Load() != 0 {
				t.Errorf("got %d rewound, %d joins", m.rewound.Load(), m.joins.Load())
			}
		})
	}
}

// TestPositionStreamPrefix checks that the position is before the first message that is not handled, whatever is handled after it, with
// several workers and partitions, also when the process ends before its handler has returned, and that the next process continues there.
func TestPositionStreamPrefix(t *testing.T) {
	for _, partitions := range []int{1, 4} {
		inSubBubble(t, fmt.Sprint(partitions), func(t *testing.T) {
			p := newTape()
			ms := letters(t, 40, 8)
			c := engage(t, p, partitions, ms, func(ctx context.Context, m mdb.Message) error {
				if m.GlobalPosition == 7 {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			}, func(mc *memberConfig, _ *engineConfig) { mc.drain = time.Second })
			before := c.shelf.between(partitionOf(ms[6].Stream, partitions), partitions, 0, 6) // those of its partition
			at := before[len(before)-1]
			pass(20 * time.Second)
			// The other messages of its stream wait.
			if got := c.take(); len(got) != 36 || p.recorded() != fmt.Sprintf("[0 %d]", at) {
				t.Errorf("got %d handled, and %v stored, want %d", len(got), p.recorded(), at)
			}
			c.cancel(errClosing)
			c.wait()
			if got := p.recorded(); got != fmt.Sprintf("[0 %d]", at) {
				t.Errorf("got %v stored at the end, want %d", got, at)
			}
			next := engage(t, p, partitions, ms, nil)
			pass(10 * time.Second)
			if got := next.take(); !slices.Equal(got, upTo(40)[at:]) || p.recorded() != fmt.Sprintf("[0 %d %d 40]", at, at) {
				t.Errorf("got %v handled by the next process, and %v stored", got, p.recorded())
			}
		})
	}
}

// TestPositionStreamOrder checks that with several workers the messages of a key are handled in order, one after the other.
func TestPositionStreamOrder(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newTape()
		var mu sync.Mutex
		last, running, most := make(map[string]int64), 0, 0
		c := engage(t, p, 1, letters(t, 400, 8), func(_ context.Context, m mdb.Message) error {
			key := m.Stream.CardinalID()
			mu.Lock()
			if last[key] >= m.GlobalPosition {
				t.Errorf("%d of %s after %d", m.GlobalPosition, key, last[key])
			}
			last[key] = m.GlobalPosition
			running++
			most = max(most, running)
			mu.Unlock()
			<-time.After(time.Duration(m.GlobalPosition%7) * time.Millisecond)
			mu.Lock()
			running--
			if last[key] != m.GlobalPosition {
				t.Errorf("two messages of %s at the same time", key)
			}
			mu.Unlock()
			return nil
		})
		pass(time.Minute)
		if got := c.take(); len(got) != 400 || most != 4 || p.recorded() != "[0 400]" {
			t.Errorf("got %d handled, by %d at a time, and %v stored", len(got), most, p.recorded())
		}
	})
}

// TestPositionStreamTakeover checks that a process which starts takes over immediately, and that the one which ran before ends with an
// error of its own, stores nothing more, and ends the contexts of its handlers.
func TestPositionStreamTakeover(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newTape()
		ms := letters(t, 10, 4)
		a := engage(t, p, 1, ms, func(ctx context.Context, m mdb.Message) error {
			if m.GlobalPosition < 10 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		})
		pass(time.Second)
		b := engage(t, p, 1, ms, nil)
		pass(3 * time.Second)
		select {
		case err := <-a.ended:
			a.ended <- err
			if !errors.Is(err, ErrReplaced) {
				t.Errorf("got %v, want ErrReplaced", err)
			}
		default:
			t.Fatal("the first process runs")
		}
		if got := a.endings(); len(got) != 1 || !errors.Is(got[0], ErrReplaced) {
			t.Errorf("got the causes %v", got)
		}
		if got := b.take(); !slices.Equal(got, upTo(10)) || p.recorded() != "[0 0]" {
			t.Errorf("got %v handled by the second, and %v stored", got, p.recorded())
		}
		pass(5 * time.Second)
		if got := p.recorded(); got != "[0 0 10]" {
			t.Errorf("got %v stored", got)
		}
	})
}

// TestPositionStreamReplacedAtEnd checks that a process which learns only when it leaves that another one has taken over stores nothing.
func TestPositionStreamReplacedAtEnd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newTape()
		a := engage(t, p, 1, letters(t, 10, 4), nil)
		pass(500 * time.Millisecond)
		p.set(func() { p.records = append(p.records, positionRecord{version: 1, id: "another", position: 0}) })
		a.cancel(errClosing)
		a.wait()
		if got := a.take(); len(got) != 10 || p.recorded() != "[0 0]" {
			t.Errorf("got %d handled, and %v stored", len(got), p.recorded())
		}
	})
}

// TestPositionStreamUnanswered checks that a process recognizes what it has written without an answer, when it starts and later: it
// does not take it for the write of another process, and continues after it.
func TestPositionStreamUnanswered(t *testing.T) {
	for name, want := range map[string]string{"start": "[0 10]", "later": "[0 10]"} {
		inSubBubble(t, name, func(t *testing.T) {
			p := newTape()
			lose := func(statement string) error {
				if statement != "store" {
					return nil
				}
				p.after = nil
				return context.DeadlineExceeded
			}
			if name == "start" {
				p.after = lose
			}
			c := engage(t, p, 1, letters(t, 10, 4), nil)
			pass(2 * time.Second)
			if name == "later" {
				p.set(func() { p.after = lose })
			}
			pass(10 * time.Second)
			if got := c.take(); !slices.Equal(got, upTo(10)) || p.recorded() != want {
				t.Errorf("got %v handled, and %v stored, want %v", got, p.recorded(), want)
			}
		})
	}
}

// TestPositionStreamRewinds checks that a process goes on from what the stream says when that has gone back, also if nothing else shows
// it, and whether or not the process's own messages are left.
func TestPositionStreamRewinds(t *testing.T) {
	for _, tt := range []struct {
		name string
		left int // messages of the stream
		how  func(p *tape)
		want string
	}{
		{"failover", 2, func(p *tape) { p.timeline, p.session = "00000002/5", 2 }, "[0 10 30]"},
		{"failover behind a pooler", 2, func(p *tape) { p.timeline = "00000002/5" }, "[0 10 30]"},
		{"nothing else", 2, func(*tape) {}, "[0 10 30]"},
		{"before the start", 0, func(p *tape) { p.timeline = "00000002/5" }, "[0 30]"},
	} {
		inSubBubble(t, tt.name, func(t *testing.T) {
			p := newTape()
			ms := letters(t, 10, 4)
			c := engage(t, p, 1, ms, nil)
			pass(6 * time.Second)
			write(20, 4, c)
			pass(6 * time.Second)
			if got := p.recorded(); got != "[0 10 30]" {
				t.Fatalf("got %v stored", got)
			}
			c.take()
			p.set(func() {
				p.records = p.records[:tt.left]
				tt.how(p)
			})
			pass(10 * time.Second)
			from := 10
			if tt.left == 0 {
				from = 0
			}
			if got := c.take(); !slices.Equal(got, upTo(30)[from:]) || p.recorded() != tt.want {
				t.Errorf("got %v handled, and %v stored, want %v", got, p.recorded(), tt.want)
			}
		})
	}
}

// TestPositionStreamTimeline checks that what was handled and not stored is handled again if the timeline is another one, although the
// stream and the messages are the same: effects of the handlers may be lost.
func TestPositionStreamTimeline(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newTape()
		c := engage(t, p, 1, letters(t, 10, 4), nil)
		pass(20 * time.Second)
		c.take()
		write(5, 4, c)
		p.set(func() { p.timeline = "00000002/5" })
		pass(10 * time.Second)
		want := []int64{11, 11, 12, 12, 13, 13, 14, 14, 15, 15}
		if got := c.take(); !slices.Equal(got, want) || p.recorded() != "[0 10 15]" {
			t.Errorf("got %v handled, and %v stored", got, p.recorded())
		}
	})
}

// TestPositionStreamReleases checks that what is handled is stored at the end, also if some partitions have finished long before others.
func TestPositionStreamReleases(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const partitions = 4
		p := newTape()
		ms := letters(t, 40, partitions)
		release := make(chan struct{})
		c := engage(t, p, partitions, ms, func(_ context.Context, m mdb.Message) error {
			if m.GlobalPosition == 7 {
				<-release
			}
			return nil
		})
		pass(time.Second)
		c.cancel(errClosing)
		pass(5 * time.Second)
		close(release)
		c.wait()
		if got := p.recorded(); !strings.HasSuffix(got, " 7]") { // those after it in its partition were not begun
			t.Errorf("got %v stored, want 7 at the end", got)
		}
	})
}

// TestPositionStreamOtherHistory checks that a position is not stored on a server that lacks the message there, because
// others can get the positions before it: the reads lead to another server than the ticks. Then both get new connections. When they lead to the same one, all
// messages of that server are handled.
func TestPositionStreamOtherHistory(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newTape()
		ms := letters(t, 10, 4)
		p.lost[ms[9].ID] = true
		var reconnected atomic.Int64
		c := engage(t, p, 1, ms, nil, func(mc *memberConfig, _ *engineConfig) {
			mc.reconnect = func(ticks bool) {
				if ticks {
					reconnected.Add(1)
				}
			}
		})
		pass(20 * time.Second)
		rejected := 0
		p.set(func() { rejected = p.moved })
		if got := p.recorded(); got != "[0]" || rejected == 0 || reconnected.Load() == 0 {
			t.Fatalf("got %v stored, %d times rejected, and %d times new connections", got, rejected, reconnected.Load())
		}
		c.take()
		c.shelf.mu.Lock()
		c.shelf.messages = ms[:9]
		c.shelf.next = 10
		c.shelf.answer = func(from source.Checkpoint) (*source.Page[mdb.Message], error) { // the reader finds that the message is missing
			c.shelf.mu.Lock()
			defer c.shelf.mu.Unlock()
			c.shelf.answer = nil
			return &source.Page[mdb.Message]{Forked: true, End: source.At(9)}, nil
		}
		c.shelf.mu.Unlock()
		write(2, 4, c)
		pass(2 * time.Minute)
		if got := c.take(); len(got) < 11 || !slices.Contains(got, 10) || p.recorded() != "[0 11]" {
			t.Errorf("got %v handled, and %v stored", got, p.recorded())
		}
	})
}

// TestPositionStreamRetries checks that nothing is parked: a message that fails is retried where it is until it succeeds, those of other
// keys are handled meanwhile, and the position waits for it.
func TestPositionStreamRetries(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newTape()
		var fails, attempts atomic.Int64
		fails.Store(1)
		c := engage(t, p, 1, letters(t, 40, 8), func(_ context.Context, m mdb.Message) error {
			if m.GlobalPosition == 3 && fails.Load() == 1 {
				attempts.Add(1)
				return Permanent(errBroken)
			}
			return nil
		})
		pass(10 * time.Minute)
		if s := c.engine.stats(); s.parked != 0 || p.recorded() != "[0 2]" || attempts.Load() < 10 {
			t.Errorf("got %d parked, %v stored, %d attempts", s.parked, p.recorded(), attempts.Load())
		}
		fails.Store(0)
		pass(2 * time.Minute)
		if got := p.recorded(); got != "[0 2 40]" {
			t.Errorf("got %v stored", got)
		}
	})
}

// TestPositionStreamCatchUp checks that CatchUp returns when everything is handled, without waiting for the interval, and stores it.
func TestPositionStreamCatchUp(t *testing.T) {
	for _, partitions := range []int{1, 4} {
		inSubBubble(t, fmt.Sprint(partitions), func(t *testing.T) {
			p := newTape()
			p.end = 10
			begun := time.Now()
			c := engage(t, p, partitions, letters(t, 10, 4), nil, func(mc *memberConfig, _ *engineConfig) { mc.toEnd = true })
			if err := c.wait(); err != nil || time.Since(begun) >= DefaultFlushInterval {
				t.Errorf("got %v after %v", err, time.Since(begun))
			}
			if got := c.take(); !slices.Equal(got, upTo(10)) || p.recorded() != "[0 10]" {
				t.Errorf("got %v handled, and %v stored", got, p.recorded())
			}
		})
	}
}
