package consumer

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// An intake is a sink. It checks that each partition receives its messages in order and
// without a gap. Its mu guards its fields, and those of claims.
type intake struct {
	t      *testing.T
	shelf  *shelf
	reader *reader

	mu      sync.Mutex
	claims  []*claim // by partition; nil: not open
	most    int      // messages in a queue of a partition that still has room
	barrier int64
	paused  bool
	full    map[int]bool // partitions without room, whatever is in their queues
	broken  []string     // unreadable messages and their ends
	refuses func()       // called when a partition has no room
}

// A claim is an open partition and what it has received.
type claim struct {
	partition
	epoch, from, end int64
	fed              []int64
	queue            int // of fed messages that are not handled yet
}

// begin starts a reader of a shelf, in the bubble of synctest. It runs until the test's
// context ends, or an error, which the channel receives.
func begin(t *testing.T, s *shelf, partitions, batch int, opts ...func(*readerConfig)) (*intake, <-chan error) {
	t.Helper()
	in := &intake{t: t, shelf: s, claims: make([]*claim, partitions), most: math.MaxInt, barrier: math.MaxInt64, full: make(map[int]bool)}
	c := readerConfig{
		category: "category", partitions: partitions, batch: batch, open: s.open, sink: in,
		rewound: func(_ string, end int64, _ []source.Anchor) { t.Errorf("rewound to %d", end) },
	}
	for _, opt := range opts {
		opt(&c)
	}
	in.reader = newReader(c)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancelCause(t.Context())
	t.Cleanup(func() { cancel(errReadingEnds) })
	go func() { ended <- in.reader.run(ctx) }()
	return in, ended
}

var errReadingEnds = fmt.Errorf("the end of the test")

// open opens a partition after a position.
func (in *intake) open(p int, from int64) *claim {
	return in.openAt(p, source.At(from))
}

func (in *intake) openAt(p int, from source.Checkpoint) *claim {
	c := in.claim(p, from)
	in.reader.open(opening{c.partition, c.epoch, from})
	return c
}

func (in *intake) claim(p int, from source.Checkpoint) *claim {
	c := &claim{partition: partition{Category: "category", Number: p}, epoch: time.Now().UnixNano(), from: from.Position, end: from.Position}
	in.mu.Lock()
	if old := in.claims[p]; old != nil {
		in.check(old)
		c.epoch = max(c.epoch, old.epoch+1)
	}
	in.claims[p] = c
	in.mu.Unlock()
	return c
}

// openAll opens all partitions after a position, in one call.
func (in *intake) openAll(from int64) {
	all := make([]opening, len(in.claims))
	for p := range in.claims {
		c := in.claim(p, source.At(from))
		all[p] = opening{c.partition, c.epoch, source.At(from)}
	}
	in.reader.open(all...)
}

func (in *intake) close(p int) {
	in.reader.close([]partition{{Category: "category", Number: p}})
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.claims[p] != nil {
		in.check(in.claims[p])
		in.claims[p] = nil
	}
}

// check compares what a claim has received with what there was. The lock is held.
func (in *intake) check(c *claim) {
	in.t.Helper()
	if want := in.shelf.between(c.Number, len(in.claims), c.from, c.end); !slices.Equal(c.fed, want) {
		in.t.Errorf("partition %d, from %d to %d: got %d, want %d", c.Number, c.from, c.end, c.fed, want)
	}
}

// checkAll checks that the open partitions have received everything.
func (in *intake) checkAll() {
	in.t.Helper()
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, c := range in.claims {
		if c != nil {
			in.check(c)
			if all := in.shelf.between(c.Number, len(in.claims), c.from, math.MaxInt64); !slices.Equal(c.fed, all) {
				in.t.Errorf("partition %d, from %d: got %d, up to %d, want %d", c.Number, c.from, c.fed, c.end, all)
			}
		}
	}
}

func (in *intake) feed(p partition, epoch int64, ms []mdb.Message, end source.Checkpoint) {
	in.mu.Lock()
	defer in.mu.Unlock()
	c := in.claims[p.Number]
	if c == nil || c.epoch != epoch || p != c.partition {
		// Between an intake's open and that of the reader, or the other way round for close.
		if c == nil || epoch > c.epoch || len(ms) > 0 && c.epoch == epoch {
			in.t.Errorf("partition %v with epoch %d was fed, but is not open", p, epoch)
		}
		return
	}
	for i := range ms {
		if in.barrier < ms[i].GlobalPosition || in.paused {
			in.t.Errorf("partition %d got %d, with barrier %d, paused: %t", p.Number, ms[i].GlobalPosition, in.barrier, in.paused)
		}
		c.fed = append(c.fed, ms[i].GlobalPosition)
	}
	if end.Position < c.end || end.Position == c.end && len(ms) == 0 {
		in.t.Errorf("partition %d was fed %d messages up to %d after %d", p.Number, len(ms), end.Position, c.end)
	}
	if len(ms) > 0 && c.queue >= in.most {
		in.t.Errorf("partition %d got %d messages without room", p.Number, len(ms))
	}
	c.queue += len(ms)
	c.end = end.Position
}

func (in *intake) unreadable(p partition, _ int64, err *mdb.UnreadableError, end source.Checkpoint) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.broken = append(in.broken, fmt.Sprintf("%d: %d to %d", p.Number, err.GlobalPosition, end.Position))
	in.claims[p.Number].end = end.Position
}

func (in *intake) room(p partition) bool {
	in.mu.Lock()
	c := in.claims[p.Number]
	room := c != nil && c.queue < in.most && !in.full[p.Number]
	in.mu.Unlock()
	if !room && in.refuses != nil {
		in.refuses()
	}
	return room
}

// fill says whether a partition has room.
func (in *intake) fill(p int, full bool) {
	in.mu.Lock()
	in.full[p] = full
	in.mu.Unlock()
	in.reader.wake()
}

// handle takes n messages from a partition's queue.
func (in *intake) handle(p, n int) {
	in.mu.Lock()
	if c := in.claims[p]; c != nil {
		c.queue = max(c.queue-n, 0)
	}
	in.mu.Unlock()
	in.reader.wake()
}

// limit limits the reader.
func (in *intake) limit(barrier *int64, paused bool) {
	in.mu.Lock()
	in.barrier, in.paused = math.MaxInt64, false // until the reader knows
	in.mu.Unlock()
	in.reader.limit(barrier, paused)
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.paused = paused; barrier != nil {
		in.barrier = *barrier
	}
}
