package consumer

import (
	"context"
	"fmt"
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
	trips    int           // reads, and questions that no read has taken along
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
	s.trips++
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
	s.trips++
	if s.after != nil {
		return s.after(position)
	}
	i := sort.Search(len(s.messages), func(i int) bool { return s.messages[i].GlobalPosition > position })
	return through(source.Checkpoint{}, s.messages[:i]).Past(position), nil
}

// uses lets the shelf report positions after the last one as ahead.
func (s *shelf) uses(last *int64) {
	s.after = func(position int64) (source.Checkpoint, error) {
		if position > *last {
			return source.Checkpoint{}, &mdb.AheadError{Category: "category", Position: position, Last: *last}
		}
		return source.At(position), nil
	}
}

// first reads nothing if a test answers instead, or if the positions are ahead.
func (s *shelf) first(ctx context.Context, position, used int64, most int) (from source.Checkpoint, page source.Page[mdb.Message], ok bool) {
	s.mu.Lock()
	answered := s.answer != nil
	if s.after == nil {
		answered = answered || used >= s.next
	} else if _, err := s.after(max(position, used)); err != nil {
		answered = true
	}
	s.mu.Unlock()
	if answered || ctx.Err() != nil {
		return from, page, false
	}
	if from, err := s.anchor(ctx, position); err == nil {
		page, err = s.Next(ctx, from, most)
		s.mu.Lock()
		s.trips--
		s.mu.Unlock()
		return from, page, err == nil
	}
	return from, page, false
}

func (s *shelf) BeforeRead() (woken bool) {
	select {
	case <-s.rung:
		return true
	default:
		return false
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
		Source: s, After: s.anchor, First: s.first, Polling: poll.Constant(time.Second),
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
