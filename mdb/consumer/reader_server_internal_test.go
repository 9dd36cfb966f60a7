package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// A basket is a sink that has room for everything.
type basket struct {
	mu       sync.Mutex
	messages map[partition][]int64
	ends     map[partition]int64
	moved    chan struct{} // contains a value after something has arrived
}

func newBasket() *basket {
	return &basket{messages: make(map[partition][]int64), ends: make(map[partition]int64), moved: make(chan struct{}, 1)}
}

func (b *basket) feed(p partition, _ int64, ms []mdb.Message, end source.Checkpoint) {
	b.mu.Lock()
	for i := range ms {
		b.messages[p] = append(b.messages[p], ms[i].GlobalPosition)
	}
	b.ends[p] = end.Position
	b.mu.Unlock()
	select {
	case b.moved <- struct{}{}:
	default:
	}
}

func (b *basket) room(partition) bool                                                  { return true }
func (b *basket) unreadable(partition, int64, *mdb.UnreadableError, source.Checkpoint) {}

// until waits until ok, which is called with the lock held, returns true.
func (b *basket) until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	for {
		b.mu.Lock()
		done := ok()
		b.mu.Unlock()
		if done {
			return
		}
		select {
		case <-b.moved:
		case <-timer.C:
			t.Fatal("not in time: " + what)
		}
	}
}

// A readingStore is a store with a reader of one of its categories.
type readingStore struct {
	*mdb.Store
	*reader
	basket *basket
	ended  chan error
	rewind chan string
}

func readStore(t testing.TB, url string, category mdb.Category, partitions int, opts ...mdb.StoreOption) *readingStore {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	if testdb.Official() {
		mdb.Configure(cfg, mdb.StoreFirst())
	} else {
		mdb.Configure(cfg)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s, err := mdb.New(pool, opts...)
	if err != nil {
		t.Fatal(err)
	}
	rs := &readingStore{Store: s, basket: newBasket(), ended: make(chan error, 1), rewind: make(chan string, 10)}
	rs.reader = newReader(readerConfig{
		category: string(category), partitions: partitions, batch: 100, sink: rs.basket, open: openCategory(s, category),
		rewound: func(_ string, end int64, gone []source.Anchor) { rs.rewind <- fmt.Sprintf("%d %d", end, len(gone)) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { rs.ended <- rs.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-rs.ended
	})
	return rs
}

func (s *readingStore) write(t testing.TB, stream mdb.StreamName) int64 {
	t.Helper()
	w, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
	if err != nil {
		t.Fatal(err)
	}
	return w.GlobalPosition
}

// TestReaderOnServer checks readers of two processes, which share a category, on a real
// server: each partition receives its messages once and in order, positions move past the
// messages of others, and notifications of messages of others cause no read.
func TestReaderOnServer(t *testing.T) {
	t.Parallel()
	const partitions = 8
	url := testdb.Notifying(t)
	streams := streamsOf(partitions)
	notify := mdb.WithNotify(mdb.Fallback(time.Hour), mdb.MaxNotifications(1_000_000))
	a, b := readStore(t, url, "category", partitions, notify), readStore(t, url, "category", partitions, notify)
	want := make(map[partition][]int64)
	number := func(p int) partition { return partition{Category: "category", Number: p} }
	write := func(p int) int64 {
		t.Helper()
		position := a.write(t, streams[p])
		want[number(p)] = append(want[number(p)], position)
		return position
	}
	for i := range 100 {
		write(i % partitions)
		a.write(t, "other-1")
	}
	of := func(p int) *readingStore {
		if p < partitions/2 {
			return a
		}
		return b
	}
	for p := range partitions {
		of(p).open(opening{number(p), 1, source.At(0)})
	}
	received := func(p int, position int64) {
		t.Helper()
		s := of(p)
		s.basket.until(t, "a message", func() bool { return s.basket.ends[number(p)] >= position })
	}
	for i := range 100 {
		p := i % partitions
		received(p, write(p))
	}
	// From the time on at which both wait for notifications, a message costs its reader one
	// read, and nothing else does.
	waits := false
	settled := func() (stats mdb.NotifyStats) { // it usually waits soon after the last message
		for end := time.Now().Add(time.Second); ; <-time.After(time.Millisecond) {
			if stats = a.NotifyStats(); stats.Waiting == 1 || time.Now().After(end) {
				return stats
			}
		}
	}
	for range 20 {
		before := settled()
		for range 50 { // less than a page
			received(partitions-1, write(partitions-1)) // notifications arrive in order
		}
		received(0, write(0))
		after := settled()
		if waits = before.Waiting == 1 && after.Waiting == 1 && after.Reads == before.Reads+1; waits {
			break
		}
	}
	if !waits {
		t.Errorf("got reads for messages of others, want none: %+v", a.NotifyStats())
	}
	for p := range partitions {
		s := of(p)
		s.basket.until(t, "everything", func() bool { return s.basket.ends[number(p)] >= want[number(p)][len(want[number(p)])-1] })
		if got := s.basket.messages[number(p)]; !slices.Equal(got, want[number(p)]) {
			t.Errorf("partition %d: got %d, want %d", p, got, want[number(p)])
		}
	}
}

// TestReaderLosesMessages checks on a real server that lost messages are reported, and that
// the reader goes on with what was written after them, from positions that are stored.
func TestReaderLosesMessages(t *testing.T) {
	t.Parallel()
	s := readStore(t, testdb.New(t), "category", 1)
	p := partition{Category: "category"}
	var written []int64
	for range 30 {
		written = append(written, s.write(t, "category-1"))
	}
	s.open(opening{p, 1, source.At(0)})
	s.basket.until(t, "all messages", func() bool { return len(s.basket.messages[p]) == 30 })
	if _, err := s.Pool().Exec(t.Context(), "DELETE FROM message_store.messages WHERE global_position > $1", written[26]); err != nil {
		t.Fatal(err)
	}
	last := s.write(t, "category-1")
	if got, want := <-s.rewind, fmt.Sprintf("%d 3", written[26]); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.open(opening{p, 2, source.At(written[20])})
	s.basket.until(t, "the last message", func() bool { return s.basket.ends[p] == last })
	want := append(append(slices.Clone(written), written[21:27]...), last)
	if got := s.basket.messages[p]; !slices.Equal(got, want) {
		t.Errorf("got %d, want %d", got, want)
	}
	// A position that the store has never used is not waited for.
	s.open(opening{p, 3, source.At(last + 1_000_000)})
	if got, want := <-s.rewind, fmt.Sprintf("%d 0", last); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.open(opening{p, 4, source.At(last + 1_000_000)})
	var ahead *mdb.AheadError
	err := <-s.ended
	s.ended <- err
	if !errors.As(err, &ahead) || ahead.Last != last {
		t.Errorf("got %v, want an AheadError", err)
	}
}
