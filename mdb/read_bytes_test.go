package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// seedSizes writes messages whose data has the given sizes to a stream.
func seedSizes(t testing.TB, s *mdb.Store, stream mdb.StreamName, sizes []int) {
	t.Helper()
	messages := make([]mdb.ProposedMessage, len(sizes))
	for i, size := range sizes {
		messages[i] = mdb.ProposedMessage{
			Type: "Happened", Data: []string{strings.Repeat("x", size)},
			Metadata: map[string]string{"correlationStreamName": "sizes-1"},
		}
	}
	if _, err := s.WriteMessages(t.Context(), stream, messages); err != nil {
		t.Fatal(err)
	}
}

// sizeOf returns at most the bytes that the server sends for a message.
func sizeOf(m mdb.Message) int { return len(m.Stream) + len(m.Type) + len(m.Data) + len(m.Metadata) }

// checkPage checks that a page has no more bytes than allowed, unless it is one message.
func checkPage(t testing.TB, page []mdb.Message, most int) {
	t.Helper()
	size := 0
	for _, m := range page {
		size += sizeOf(m)
	}
	if len(page) > 1 && size > most {
		t.Errorf("got a page of %d bytes in %d messages, want at most %d", size, len(page), most)
	}
}

// mixedSizes returns sizes below and above the limit, with runs of each.
func mixedSizes(random *rand.Rand, n, limit int) []int {
	sizes := make([]int, 0, n)
	for len(sizes) < n {
		size := []int{1, limit / 50, limit / 7, limit / 2, limit, 3 * limit}[random.IntN(6)]
		for range min(1+random.IntN(12), n-len(sizes)) {
			sizes = append(sizes, size)
		}
	}
	return sizes
}

// TestBatchBytes checks that subscriptions with all kinds of filters receive each message once and
// in order if pages end because of their size, and that no such page counts as the last one.
func TestBatchBytes(t *testing.T) {
	t.Parallel()
	const limit, messages = 20_000, 150
	for way, s := range bothWays(t, mdb.WithConditions()) {
		stream := mdbtest.Category("sizes").Stream("1")
		// After a page of the first one, the next page takes two steps: the third does not fit into it.
		sizes := []int{limit * 9 / 10, limit * 4 / 10, limit * 8 / 10}
		seedSizes(t, s, stream, append(sizes, mixedSizes(rand.New(rand.NewPCG(1, 2)), messages-len(sizes), limit)...))
		for name, filter := range map[string][]mdb.CategoryOption{
			"plain":       nil,
			"group":       {mdb.AsConsumerGroup(0, 1)},
			"correlation": {mdb.WithCorrelation("sizes")},
			"condition":   {mdb.WithCondition("position >= 0")},
		} {
			for _, batch := range []int{1, 7, 1000} {
				t.Run(fmt.Sprintf("%s, %s, %d", way, name, batch), func(t *testing.T) {
					t.Parallel()
					var handled, page []mdb.Message
					opts := []mdb.CategorySubscribeOption{
						mdb.WithBatchSize(batch), mdb.WithBatchBytes(limit),
						onPosition(func(context.Context, int64) error { checkPage(t, page, limit); page = nil; return nil }),
						mdb.OnLive(func(live bool) {
							if live && len(handled) != messages {
								t.Errorf("live after %d messages of %d", len(handled), messages)
							}
						}),
						mdb.WithPolling(func(poll.Seen) time.Duration {
							if len(handled) != messages {
								t.Errorf("caught up after %d messages of %d", len(handled), messages)
							}
							panic(errStopped)
						}),
					}
					for _, o := range filter {
						opts = append(opts, o)
					}
					err := s.SubscribeToCategory(t.Context(), stream.Category(), func(_ context.Context, m mdb.Message) error {
						if m.Position != int64(len(handled)) {
							t.Errorf("got position %d, want %d", m.Position, len(handled))
						}
						handled, page = append(handled, m), append(page, m)
						return nil
					}, opts...)
					if p := (*mdb.PanicError)(nil); !errors.As(err, &p) {
						t.Errorf("got error %v, want that of the strategy", err)
					}
				})
			}
		}
	}
}

// TestBatchBytesOfReads checks that a sequence reads everything, in pages that end because of their
// size, and that GetStreamMessages and GetCategoryMessages have a limit only if it is set.
func TestBatchBytesOfReads(t *testing.T) {
	t.Parallel()
	const limit, messages = 20_000, 60
	stream := mdbtest.Category("sizes").Stream("1")
	s := mdbtest.SharedStore(t)
	seedSizes(t, s, stream, mixedSizes(rand.New(rand.NewPCG(3, 4)), messages, limit))
	onBoth(t, s, func(t *testing.T, c calls, _ database) {
		for _, size := range []mdb.ReadOption{mdb.WithBatchSize(1000), mdb.Unlimited()} {
			if ms, err := c.GetCategoryMessages(t.Context(), stream.Category(), size); err != nil || len(ms) != messages {
				t.Errorf("got %d messages, error %v, want %d", len(ms), err, messages)
			}
			n := 0
			for position := int64(0); position < messages; {
				ms, err := c.GetStreamMessages(t.Context(), stream, mdb.FromPosition(position), size, mdb.WithBatchBytes(limit))
				if err != nil || len(ms) == 0 {
					t.Fatalf("after %d messages: got %d, error %v", n, len(ms), err)
				}
				checkPage(t, ms, limit)
				n += len(ms)
				position = ms[len(ms)-1].Position + 1
			}
			if n != messages {
				t.Errorf("got %d messages, want %d", n, messages)
			}
		}
		n := 0
		for m, err := range c.StreamMessages(t.Context(), stream, mdb.WithBatchBytes(limit)) {
			if err != nil || m.Position != int64(n) {
				t.Fatalf("got %v, error %v, want position %d", m, err, n)
			}
			n++
		}
		if n != messages {
			t.Errorf("got %d messages, want %d", n, messages)
		}
	})
}

// TestBatchBytesLearns checks that pages ask for as many messages as fit: after the first one, the
// server sends little that is dropped, and pages of small messages are whole.
func TestBatchBytesLearns(t *testing.T) {
	t.Parallel()
	const limit, large, small, size = 100_000, 200, 3000, 10_000
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			var w wire
			s := newStore(t, newPool(t, testdb.Shared(t), w.attach, oneConnection), opts...)
			stream := mdbtest.Category("sizes").Stream("1")
			seedSizes(t, s, stream, slices.Repeat([]int{size}, large))
			seedSizes(t, s, stream, slices.Repeat([]int{10}, small))
			n, received, trips := 0, int64(0), int64(0)
			for _, err := range s.StreamMessages(t.Context(), stream, mdb.WithBatchBytes(limit)) {
				if err != nil {
					t.Fatal(err)
				}
				switch n++; n {
				case 1: // of the first page
					received = w.received.Load()
				case large:
					if got := w.received.Load() - received; got > large*size*11/10 {
						t.Errorf("got %d bytes from the server for %d messages of %d bytes", got, large, size)
					}
					trips = w.trips.Load()
				}
			}
			if got := w.trips.Load() - trips; n != large+small || got > small/mdb.DefaultBatchSize+3 {
				t.Errorf("got %d messages, and %d round trips for the small ones", n, got)
			}
		})
	}
}

// TestBatchBytesBroken checks that nothing is lost or repeated if the connection breaks anywhere in
// the answer with a page that ends because of its size.
func TestBatchBytesBroken(t *testing.T) {
	t.Parallel()
	const limit, messages = 1000, 40
	sizes := mixedSizes(rand.New(rand.NewPCG(5, 6)), messages, limit)
	for way, request := range map[string]string{"procedures": "get_category_messages", "direct": "direct_category_"} {
		var opts []mdb.StoreOption
		if way == "direct" {
			opts = append(opts, mdb.WithDirectSQL())
		}
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			var w wire
			s := newStore(t, newPool(t, testdb.Shared(t), w.attach), opts...)
			category := mdbtest.Category("sizes")
			seedSizes(t, s, category.Stream("1"), sizes)
			for at := 1; at < 30_000; at += 997 {
				w.cut(cut{request, at}, cut{request, at / 3})
				n := 0
				errDone := errors.New("all messages have arrived")
				err := s.SubscribeToCategory(t.Context(), category, func(_ context.Context, m mdb.Message) error {
					if m.Position != int64(n) {
						t.Errorf("cut at %d: got position %d, want %d", at, m.Position, n)
					}
					if n++; n == messages {
						return errDone
					}
					return nil
				}, mdb.WithBatchBytes(limit))
				if !errors.Is(err, errDone) {
					t.Errorf("cut at %d: got error %v", at, err)
				}
			}
		})
	}
}

// TestBatchBytesUnreadable checks that a message that cannot be read ends a subscription only after
// those before it, although it is among those that the server sends beyond the limit.
func TestBatchBytesUnreadable(t *testing.T) {
	t.Parallel()
	const limit, poisoned = 1000, 30
	url := testdb.New(t)
	pool := newPool(t, url)
	for i := range poisoned + 10 {
		data := `to_jsonb(repeat('x', 300))`
		if i == poisoned {
			data = `'{"poison": "54000"}'`
		}
		insert(t, pool, "account-1", i, "Happened", data, "NULL")
	}
	unreadable(t, pool)
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		t.Run(way, func(t *testing.T) {
			s := newStore(t, newPool(t, url), opts...)
			n := 0
			err := s.SubscribeToCategory(t.Context(), "account", func(_ context.Context, m mdb.Message) error {
				if m.Position != int64(n) {
					t.Errorf("got position %d, want %d", m.Position, n)
				}
				n++
				return nil
			}, mdb.WithBatchBytes(limit))
			checkUnreadable(t, err, mdb.UnreadableError{Stream: "account-1", Type: "Happened", Position: poisoned, GlobalPosition: poisoned + 1})
			if n != poisoned {
				t.Errorf("got %d messages, want %d", n, poisoned)
			}
		})
	}
}

// TestBatchBytesMemory checks that a subscription has at most two pages in memory, of large messages
// and of small ones.
//
// It is not parallel, because it measures the memory of the process.
func TestBatchBytesMemory(t *testing.T) { //nolint:paralleltest // see above
	pgtest.NeedTime(t)
	const large, small = 150, 1000
	pool := newPool(t, testdb.New(t))
	exec(t, pool, `INSERT INTO message_store.messages (stream_name, position, type, data)
		SELECT 'account-1', n, 'Happened', to_jsonb(repeat('x', CASE WHEN n < $1::int THEN 2000000 ELSE 10 END)) FROM generate_series(0, $1::int + $2::int - 1) AS n`, large, small)
	live := func() int {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		t.Run(way, func(t *testing.T) { //nolint:paralleltest // see above
			s := newStore(t, pool, opts...)
			before, peak, n, size := live(), 0, 0, 0
			var pages []int // bytes
			errDone := errors.New("all messages have arrived")
			err := s.SubscribeToCategory(t.Context(), "account", func(_ context.Context, m mdb.Message) error {
				size += sizeOf(m)
				if n < large || n%100 == 0 {
					peak = max(peak, live()-before)
				}
				n++
				return nil
			}, onPosition(func(context.Context, int64) error {
				pages, size = append(pages, size), 0
				if n == large+small {
					return errDone
				}
				return nil
			}))
			const page = mdb.DefaultBatchBytes
			if !errors.Is(err, errDone) || slices.Max(pages) > page || len(pages) > 2+2*large*2_000_000/page {
				t.Errorf("got %d messages in pages of %v bytes, error %v", n, pages, err)
			}
			if peak > 2*page+page/4 { // and what the connection reads into
				t.Errorf("got %d bytes in memory, want at most two pages of %d", peak, page)
			}
		})
	}
}
