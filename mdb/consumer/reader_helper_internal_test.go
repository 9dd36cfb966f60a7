package consumer

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// A shelf is a category without a server: a source of its messages, and a sleeper that only
// a ring wakes, so that a message whose ring was forgotten is never read. mu guards its
// fields.
type shelf struct {
	t *testing.T

	mu       sync.Mutex
	messages []mdb.Message // in ascending order
	next     int64         // the next global position
	reads    []int64       // where pages began
	asked    []int64       // positions that After was asked for
	slept    []time.Duration
	during   func(from int64) // called during each read, without the lock
	after    func(position int64) (source.Checkpoint, error)
	answer   func(from source.Checkpoint) (page *source.Page[mdb.Message], err error) // replaces a page, unless it returns nil
	polls    bool                                                                     // sleeps end after the delay

	wants func(string) bool
	hooks source.Hooks
	rung  chan struct{}
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	return &shelf{t: t, next: 1, rung: make(chan struct{}, 1)}
}

// write appends a message, with a gap of so many positions before it, and rings.
func (s *shelf) write(stream mdb.StreamName, gap int64) int64 {
	position := s.writeSilently(stream, gap)
	s.mu.Lock()
	wants := s.wants
	s.mu.Unlock()
	if wants != nil && wants(string(stream)) {
		select {
		case s.rung <- struct{}{}:
		default:
		}
	}
	return position
}

func (s *shelf) writeSilently(stream mdb.StreamName, gap int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next += gap
	position := s.next
	s.messages = append(s.messages, mdb.Message{ID: uuid.New(), Stream: stream, GlobalPosition: position, Time: time.Now()})
	s.next++
	return position
}

// fill writes messages of all partitions, one after another.
func (s *shelf) fill(n, partitions int) {
	streams := streamsOf(partitions)
	for i := range n {
		s.write(streams[i%partitions], 0)
	}
}

// between returns the positions of a partition's messages that are greater than from, up to a
// position.
func (s *shelf) between(p, partitions int, from, to int64) (positions []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.messages {
		if m.GlobalPosition > from && m.GlobalPosition <= to && partitionOf(m.Stream, partitions) == p {
			positions = append(positions, m.GlobalPosition)
		}
	}
	return positions
}

func (s *shelf) Next(ctx context.Context, from source.Checkpoint, most int) (page source.Page[mdb.Message], err error) {
	if ctx.Err() != nil {
		return page, context.Cause(ctx)
	}
	s.hooks.BeforeRead()
	s.mu.Lock()
	s.reads = append(s.reads, from.Position)
	during, answer := s.during, s.answer
	i := sort.Search(len(s.messages), func(i int) bool { return s.messages[i].GlobalPosition > from.Position })
	page.Messages = slices.Clone(s.messages[i:min(i+most, len(s.messages))])
	s.mu.Unlock()
	page.End, page.Full = through(from, page.Messages), len(page.Messages) == most
	if during != nil {
		during(from.Position)
	}
	if answer != nil {
		if other, err := answer(from); other != nil {
			return *other, err
		}
	}
	return page, nil
}

func (s *shelf) anchor(_ context.Context, position int64) (source.Checkpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, position)
	if s.after != nil {
		return s.after(position)
	}
	i := sort.Search(len(s.messages), func(i int) bool { return s.messages[i].GlobalPosition > position })
	return through(source.Checkpoint{}, s.messages[:i]).Past(position), nil
}

func (s *shelf) BeforeRead() {
	select {
	case <-s.rung:
	default:
	}
}

func (s *shelf) Sleep(ctx context.Context, d time.Duration, _ int, moved <-chan struct{}, progress func() error) error {
	s.mu.Lock()
	s.slept = append(s.slept, d)
	polls := s.polls
	s.mu.Unlock()
	var timer <-chan time.Time
	if polls {
		timer = time.After(d)
	}
	for {
		select {
		case <-moved:
			if err := progress(); err != nil {
				return err
			}
			continue
		case <-s.rung:
		case <-timer:
		case <-ctx.Done():
		}
		return nil
	}
}

func (s *shelf) Close() {}

func (s *shelf) open(hooks source.Hooks) (*source.Opened[mdb.Message], error) {
	s.hooks = hooks
	return &source.Opened[mdb.Message]{
		Source: s, After: s.anchor, Polling: poll.Constant(time.Second),
		Subscribe: func(wants func(string) bool) source.Sleeper {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.wants = wants
			return s
		},
	}, nil
}

// end returns the last global position.
func (s *shelf) end() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next - 1
}

// count returns the number of reads, and forgets them.
func (s *shelf) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.reads)
	s.reads = nil
	return n
}

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
	c := &claim{partition: partition{Category: "category", Number: p}, epoch: time.Now().UnixNano(), from: from.Position, end: from.Position}
	in.mu.Lock()
	if old := in.claims[p]; old != nil {
		in.check(old)
		c.epoch = max(c.epoch, old.epoch+1)
	}
	in.claims[p] = c
	in.mu.Unlock()
	in.reader.open(c.partition, c.epoch, from)
	return c
}

// openAll opens all partitions after a position.
func (in *intake) openAll(from int64) {
	for p := range in.claims {
		in.open(p, from)
	}
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

// streamsOf returns a stream of each partition. One of them has no ID.
func streamsOf(partitions int) []mdb.StreamName {
	streams := make([]mdb.StreamName, partitions)
	streams[partitionOf("category", partitions)] = "category"
	for i := 0; slices.Contains(streams, ""); i++ {
		stream := mdb.StreamName(fmt.Sprintf("category-%d+x", i))
		if p := partitionOf(stream, partitions); streams[p] == "" {
			streams[p] = stream
		}
	}
	return streams
}
