package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/mdb"
)

// TestPositionStreamReplacedBefore checks that a process which learns only on a new primary, or by its first tick, that another one has taken
// over ends nevertheless. It does not take over from the newer one.
func TestPositionStreamReplacedBefore(t *testing.T) {
	for _, tt := range []struct {
		name  string
		first bool // it learns that by its first tick
		how   func(p *tape)
		want  string
	}{
		{"failover", false, func(p *tape) { p.timeline, p.session = "00000002/5", 2 }, "[0 10 10]"},
		{"failover through a pooler", false, func(p *tape) { p.timeline = "00000002/5" }, "[0 10 10]"},
		{"no failover", false, func(*tape) {}, "[0 10 10]"},
		{"the first tick", true, func(*tape) {}, "[0 10]"},
		{"the first tick after a failover", true, func(p *tape) { p.timeline = "00000002/5" }, "[0 10]"},
	} {
		inSubBubble(t, tt.name, func(t *testing.T) {
			p := newTape()
			replace := func() {
				p.records = append(p.records, positionRecord{version: int64(len(p.records)), id: "another", position: 10})
				tt.how(p)
			}
			if tt.first {
				p.before = func(statement string) error {
					p.set(func() {
						if statement == "last" && len(p.records) == 1 {
							replace()
						}
					})
					return nil
				}
			}
			c := engage(t, p, 1, letters(t, 10, 4), nil)
			pass(6 * time.Second)
			if !tt.first {
				p.set(replace)
			}
			pass(20 * time.Second)
			ended(t, c, ErrReplaced)
			if got := p.recorded(); got != tt.want {
				t.Errorf("got %v stored, want %v", got, tt.want)
			}
		})
	}
}

// ended checks that a process has ended with an error.
func ended(t *testing.T, c *clerk, want error) {
	t.Helper()
	select {
	case err := <-c.ended:
		if c.ended <- err; !errors.Is(err, want) {
			t.Errorf("the process ended with %v, want %v", err, want)
		}
	default:
		t.Errorf("the process runs, want that it ends with %v", want)
	}
}

// TestPositionStreamOlderRevives checks that a process whose messages a failover has lost takes over again from the one that it had
// replaced, which goes on meanwhile.
func TestPositionStreamOlderRevives(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newTape()
		p.records = []positionRecord{{version: 0, id: "older"}}
		c := engage(t, p, 1, letters(t, 10, 4), nil)
		pass(6 * time.Second)
		if got := p.recorded(); got != "[0 0 10]" {
			t.Fatalf("got %v stored", got)
		}
		c.take()
		p.set(func() {
			p.timeline = "00000002/5"
			p.records = append(p.records[:1], positionRecord{version: 1, id: "older too", position: 3},
				positionRecord{version: 2, id: "older still", position: 4}, positionRecord{version: 3, id: "older again", position: 5})
		})
		pass(10 * time.Second)
		if got := c.take(); !slices.Equal(got, upTo(10)[5:]) || p.recorded() != "[0 3 4 5 5 10]" {
			t.Errorf("got %v handled, and %v stored", got, p.recorded())
		}
		if m := &c.counts; m.joins.Load() != 1 || m.rewound.Load() != 1 {
			t.Errorf("got %d joins, and %d rewound", m.joins.Load(), m.rewound.Load())
		}
	})
}

// TestPositionStreamRewoundAndReplaced checks that a process does not take over from one that has begun after a failover, while this one takes over
// again, whether or not it learns what the server has answered meanwhile.
func TestPositionStreamRewoundAndReplaced(t *testing.T) {
	for name, failing := range map[string]bool{"answered": false, "without an answer": true} {
		inSubBubble(t, name, func(t *testing.T) {
			p := newTape()
			p.records = []positionRecord{{version: 0, id: "older"}}
			c := engage(t, p, 1, letters(t, 10, 4), nil)
			pass(6 * time.Second)
			p.set(func() {
				p.timeline, p.records = "00000002/5", p.records[:1]
				p.before = func(statement string) error {
					if statement != "store" {
						return nil
					}
					p.set(func() {
						p.before = nil
						p.records = append(p.records, positionRecord{version: 1, id: "newer", position: 7})
						if failing {
							p.after = func(string) error {
								p.after = nil
								return errNoAnswer
							}
						}
					})
					return nil
				}
			})
			pass(10 * time.Second)
			ended(t, c, ErrReplaced)
			if got := p.recorded(); got != "[0 7]" {
				t.Errorf("got %v stored, want [0 7]", got)
			}
		})
	}
}

// TestPositionStreamRewoundUnstored checks that the messages after the position to which a stream has gone back are handled again, also if the
// server rejects at first what the process writes then. Nothing is stored before.
func TestPositionStreamRewoundUnstored(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newTape()
		p.records = []positionRecord{{version: 0, id: "older", position: 2}}
		c := engage(t, p, 1, letters(t, 10, 4), nil)
		pass(6 * time.Second)
		if got := c.take(); !slices.Equal(got, upTo(10)[2:]) || p.recorded() != "[2 2 10]" {
			t.Fatalf("got %v handled, and %v stored", got, p.recorded())
		}
		p.set(func() {
			p.records = p.records[:1]
			p.before = func(statement string) error {
				if statement != "store" {
					return nil
				}
				p.set(func() { p.before = nil })
				return &pgconn.PgError{Severity: "ERROR", Code: "55P03"}
			}
		})
		pass(10 * time.Second)
		if got := c.take(); !slices.Equal(got, upTo(10)[2:]) || p.recorded() != "[2 2 10]" {
			t.Errorf("got %v handled again, and %v stored", got, p.recorded())
		}
	})
}

// TestPositionStreamDeadline checks that the contexts of handlers end, and that no handler is called, if a process has not learned for eight seconds whether
// another one has taken over, because the server answers with errors or not at all, and that it continues or ends when it learns that.
func TestPositionStreamDeadline(t *testing.T) {
	for name, stop := range map[string]func(p *tape){
		"errors": func(p *tape) {
			p.before = func(string) error { return &pgconn.PgError{Severity: "ERROR", Code: "42501"} }
		},
		"no answer": func(p *tape) { p.down = errNoAnswer },
	} {
		for _, replaced := range []bool{false, true} {
			inSubBubble(t, fmt.Sprintf("%s/replaced %t", name, replaced), func(t *testing.T) {
				p := newTape()
				var free atomic.Bool
				c := engage(t, p, 1, letters(t, 10, 4), func(ctx context.Context, m mdb.Message) error {
					if free.Load() || m.GlobalPosition != 10 {
						return nil
					}
					<-ctx.Done()
					return ctx.Err()
				})
				pass(6 * time.Second)
				p.set(func() { stop(p) })
				if pass(5 * time.Second); len(c.endings()) != 0 {
					t.Errorf("the context of a handler has ended early, with %v", c.endings())
				}
				pass(4 * time.Second)
				if got := c.endings(); len(got) != 1 || !errors.Is(got[0], ErrLeaseLost) {
					t.Errorf("got the causes %v, want that the lease was lost", got)
				}
				c.take()
				write(4, 4, c)
				if pass(time.Minute); len(c.take()) != 0 {
					t.Error("a handler was called after the deadline")
				}
				free.Store(true)
				p.set(func() {
					p.down, p.before = nil, nil
					if replaced {
						p.records = append(p.records, positionRecord{version: int64(len(p.records)), id: "another", position: 9})
					}
				})
				pass(10 * time.Second)
				if replaced {
					ended(t, c, ErrReplaced)
				}
				want := "[0 9 14]"
				if replaced {
					want = "[0 9 9]"
				}
				if got := c.take(); replaced == (len(got) > 0) || p.recorded() != want {
					t.Errorf("got %v handled, and %v stored, want %v", got, p.recorded(), want)
				}
			})
		}
	}
}
