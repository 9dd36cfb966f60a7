package consumer

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestMemberDoubts checks that after everything that may mean that the server has lost what it
// had confirmed, a process ends its handlers, and continues from the rows and with what is
// parked in them. Here the server has gone back by ten messages of each partition, and a stream
// that was parked is not, and another one is. No message is written, so nothing but the doubt
// leads to the rows.
func TestMemberDoubts(t *testing.T) {
	// Each function is called with the hall's lock, and with the process.
	for name, doubt := range map[string]func(h *hall, c *clerk){
		"the timeline is another one":   func(h *hall, _ *clerk) { h.timeline = "00000002" },
		"the connection is another one": func(h *hall, _ *clerk) { h.session++ },
		"a reader has found a fork":     func(_ *hall, c *clerk) { c.forked() },
		"a tick was sent and lost": func(h *hall, _ *clerk) {
			h.after = func(statement string) error {
				if statement != "beat" {
					return nil
				}
				h.set(func() { h.after = nil; h.session-- }) // the connection is the same, as after a pooler
				return errNoAnswer
			}
		},
		"a balance was sent and lost": func(h *hall, _ *clerk) {
			h.changes++
			h.after = func(statement string) error {
				if statement != "balance" {
					return nil
				}
				h.set(func() { h.after = nil; h.session-- })
				return errNoAnswer
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				const partitions = 4
				h := newHall(t, partitions)
				ms := letters(t, 80, partitions)
				streams := streamsOf(partitions)
				h.parked = []ledger.Parked{{
					Partition: partition{Category: "category"}, Key: streams[0].CardinalID(), Stream: string(streams[0]),
				}}
				hold := false
				c := hire(t, h, ms, func(ctx context.Context, m mdb.Message) error {
					if hold && m.Stream != streams[1] {
						<-ctx.Done()
						return ctx.Err()
					}
					return nil
				})
				pass(5*time.Second + 10*time.Millisecond)
				if got := c.take(); len(got) != 60 {
					t.Fatalf("got %d handled before, want those of 3 partitions", len(got))
				}
				h.set(func() { hold = true })
				write(4, partitions, c) // are handled, in handlers, or parked
				pass(100 * time.Millisecond)
				c.take()
				h.set(func() {
					hold = false
					for _, row := range h.rows {
						row.position = 40
					}
					h.parked = []ledger.Parked{{
						Partition: partition{Category: "category", Number: 1}, Key: streams[1].CardinalID(), Stream: string(streams[1]),
					}}
					doubt(h, c)
				})
				pass(10 * time.Second)
				var want []int64
				for p := range partitions {
					if p != 1 {
						want = append(want, c.shelf.between(p, partitions, 40, 84)...)
					}
				}
				slices.Sort(want)
				// A tick before the balance may have noticed some of it.
				if got := slices.Compact(c.take()); !slices.Equal(got, want) {
					t.Errorf("got %v handled after the doubt, want %v", got, want)
				}
				if n := c.counts.rewound.Load(); n != partitions {
					t.Errorf("got %d checkpoints counted that went back, want %d", n, partitions)
				}
				if len(c.endings()) != partitions-2 {
					t.Errorf("got %d handlers ended, want %d", len(c.endings()), partitions-2)
				}
				if c.counts.joins.Load() != 1 || c.counts.losses.Load() != 0 {
					t.Error("the process joined again")
				}
			})
		})
	}
}

// TestMemberTrusts checks that nothing is forgotten if a tick is answered with an error, or
// was surely not sent: what the server has confirmed is still there.
func TestMemberTrusts(t *testing.T) {
	for name, fail := range map[string]func(h *hall){
		"an error": func(h *hall) {
			h.before = func(string) error { return &pgconn.PgError{Severity: "ERROR", Code: "40001"} }
		},
		"no connection": func(h *hall) { h.down = errNoAnswer },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				h := newHall(t, 4)
				c := hire(t, h, letters(t, 40, 4), nil)
				pass(5*time.Second + 10*time.Millisecond)
				write(4, 4, c)
				h.set(func() { fail(h) })
				pass(4 * time.Second)
				h.set(func() { h.down, h.before = nil, nil })
				pass(5 * time.Second)
				if got := c.take(); !slices.Equal(got, upTo(44)) {
					t.Errorf("got %v", got)
				}
				if got := h.positions(); got[0] != 44 {
					t.Errorf("got the checkpoints %v, want the end", got)
				}
				if h.count("balance") > 2 { // the member's own claim is a change
					t.Error("the rows were read")
				}
			})
		})
	}
}

// TestMemberRefused checks that a process whose move the fence refuses adopts what is stored,
// of this partition only.
func TestMemberRefused(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		c := hire(t, h, letters(t, 20, 2), nil)
		pass(5 * time.Second)
		c.take()
		h.set(func() { h.rows[partition{Category: "category"}].position = 10 })
		write(2, 2, c)
		pass(5 * time.Second)
		want := append(c.shelf.between(0, 2, 10, 22), 21, 22) // the last of each was handled before, too
		slices.Sort(want)
		if got := c.take(); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if c.counts.rewound.Load() != 1 {
			t.Errorf("got %d checkpoints that went back, want 1", c.counts.rewound.Load())
		}
	})
}

// TestMemberLosesPartition checks that handlers of a partition that somebody has moved or taken
// end, and those of others go on.
func TestMemberLosesPartition(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 2)
		c := hire(t, h, letters(t, 2, 2), func(ctx context.Context, _ mdb.Message) error {
			<-ctx.Done()
			return ctx.Err()
		})
		pass(5 * time.Second)
		h.set(func() {
			row := h.rows[partition{Category: "category"}]
			h.epochs++
			row.position, row.epoch = 1, h.epochs // as a seek does
			h.changes++
		})
		pass(5 * time.Second)
		if len(c.endings()) != 1 || !errors.Is(c.endings()[0], errMoved) {
			t.Errorf("got the causes %v, want one", c.endings())
		}
		h.set(func() {
			row := h.rows[partition{Category: "category", Number: 1}]
			h.epochs++
			row.member, row.epoch = uuid.New(), h.epochs
			h.members[row.member] = &hallMember{seen: time.Now(), lease: time.Hour}
			h.changes++
		})
		pass(5 * time.Second)
		if len(c.endings()) != 2 || !errors.Is(c.endings()[1], ErrLeaseLost) {
			t.Errorf("got the causes %v, want two", c.endings())
		}
	})
}

// TestMemberReadsByNewEpochs checks that a process which has forgotten what it knew of a partition continues with it only by a new epoch: as
// long as the server does not give it one, because the checkpoint is locked, the process calls no handler and moves nothing, and
// the other partitions go on.
func TestMemberReadsByNewEpochs(t *testing.T) {
	for name, forget := range map[string]func(h *hall, c *clerk, p partition){
		"a doubt": func(h *hall, _ *clerk, _ partition) { h.session++ },
		"a rejection": func(_ *hall, c *clerk, p partition) {
			c.engine.mu.Lock()
			defer c.engine.unlock()
			c.engine.fence(c.engine.parts[p])
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				const partitions = 4
				h := newHall(t, partitions)
				c := hire(t, h, letters(t, 8, partitions), nil)
				pass(5*time.Second + 10*time.Millisecond)
				c.take()
				locked := partition{Category: "category", Number: 1}
				epochs := func() (epochs [partitions]int64) {
					h.set(func() {
						for p, row := range h.rows {
							epochs[p.Number] = row.epoch
						}
					})
					return epochs
				}
				before := epochs()
				h.set(func() {
					h.locked[locked] = true
					forget(h, c, locked)
				})
				pass(5 * time.Second)
				write(partitions, partitions, c)
				pass(5 * time.Second)
				want := c.shelf.between(1, partitions, 8, 12)
				if got := c.take(); len(got) != partitions-1 || slices.Contains(got, want[0]) {
					t.Errorf("got %v handled, want all but %v", got, want)
				}
				if got := h.positions()[0]; got != 8 {
					t.Errorf("got the checkpoint %d, want that it stays", got)
				}
				if c.counts.partitions.Load() != partitions {
					t.Errorf("got %d partitions, want all", c.counts.partitions.Load())
				}
				h.set(func() { h.locked[locked] = false })
				pass(5 * time.Second)
				if got := c.take(); !slices.Equal(got, want) {
					t.Errorf("got %v handled then, want %v", got, want)
				}
				after := epochs()
				for n := range partitions {
					if changed := after[n] != before[n]; changed != (n == 1 || name == "a doubt") {
						t.Errorf("partition %d: got the epoch %d after %d", n, after[n], before[n])
					}
				}
				if n := c.counts.rewound.Load(); n != 0 {
					t.Errorf("got %d checkpoints that went back, want none", n)
				}
			})
		})
	}
}
