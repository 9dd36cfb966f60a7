package chaos

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestLoad checks 64 writers and 64 subscriptions that share a pool of 8 connections.
// Each subscription checks the order of each stream, and in the end the number of its
// messages. The test keeps only counts, so memory in use must not grow.
func TestLoad(t *testing.T) {
	const writers, subscriptions, perCategory = 64, 64, 8
	url := database(t)
	base := idleUsage(t, url)
	pool := openPool(t, url, 8, configure)
	s, err := mdb.New(pool)
	if err != nil {
		t.Fatal(err)
	}
	categories := make([]mdb.Category, writers/perCategory)
	for i := range categories {
		categories[i] = mdbtest.Category("load")
	}
	var written [writers]atomic.Int64 // of each stream
	var wrong atomic.Pointer[string]
	fail := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		wrong.CompareAndSwap(nil, &text)
	}
	subscribing, stop := context.WithCancel(t.Context())
	defer stop()
	var subscribed, writing sync.WaitGroup
	latencies := make([]histogram, subscriptions)
	var received [subscriptions][perCategory]atomic.Int64
	for n := range subscriptions {
		category := n % len(categories)
		subscribed.Go(func() {
			err := s.SubscribeToCategory(subscribing, categories[category], func(_ context.Context, m mdb.Message) error {
				var data struct {
					Stream int
					Time   time.Time
				}
				if err := m.Decode(&data); err != nil {
					return err
				}
				latencies[n].add(time.Since(data.Time))
				if next := &received[n][data.Stream]; next.Add(1)-1 != m.Position {
					fail("subscription %d: position %d of stream %d after %d messages", n, m.Position, data.Stream, next.Load()-1)
				}
				return nil
			}, mdb.WithBatchSize(100))
			if subscribing.Err() == nil {
				fail("subscription %d: %v", n, err)
			}
		})
	}
	// After a third of the time all code has run, so memory in use should not grow.
	length := scaled(3*time.Second, time.Minute)
	if *sizeFlag == "soak" {
		length = min(10*time.Minute, *duration/6)
	}
	load, end := context.WithTimeout(t.Context(), length)
	defer end()
	var early uint64
	measured := make(chan struct{})
	go func() {
		defer close(measured)
		if backoff.Sleep(load, length/3) == nil {
			early = heap()
		}
	}()
	for n := range writers {
		writing.Go(func() {
			stream := categories[n/perCategory].Stream(fmt.Sprint(n % perCategory))
			for load.Err() == nil {
				data := map[string]any{"Stream": n % perCategory, "Time": time.Now()}
				w, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", data))
				if err != nil || w.Position != written[n].Load() {
					fail("writer %d: %+v, %v, want position %d", n, w, err, written[n].Load())
					return
				}
				written[n].Add(1)
			}
		})
	}
	writing.Wait()
	<-measured
	late := heap()
	total := int64(0)
	for i := range written {
		total += written[i].Load()
	}
	for n := range subscriptions {
		for stream := range perCategory {
			want := written[n%len(categories)*perCategory+stream].Load()
			for deadline := time.Now().Add(testTimeout); received[n][stream].Load() < want && wrong.Load() == nil; tick() {
				if time.Now().After(deadline) {
					t.Fatalf("subscription %d has %d of %d messages of stream %d", n, received[n][stream].Load(), want, stream)
				}
			}
		}
	}
	stop()
	subscribed.Wait()
	pool.Close()
	if text := wrong.Load(); text != nil {
		t.Error(*text)
	}
	if leaks := base.leaks(t, url, 20*time.Second); leaks != nil {
		t.Error(leaks)
	}
	if late > early+32<<20 {
		t.Errorf("memory in use grew from %d to %d bytes", early, late)
	}
	var all histogram
	for i := range latencies {
		for b, n := range latencies[i].counts {
			all.counts[b] += n
		}
	}
	t.Logf("%d messages written, each received by %d subscriptions; written to received p50 %v, p99 %v, p99.9 %v; memory in use %d to %d bytes",
		total, subscriptions/len(categories), all.at(0.5), all.at(0.99), all.at(0.999), early, late)
	results.add("Load", tally{messages: int(total), acked: int(total)})
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A histogram counts durations in buckets of microseconds, each √2 times as wide as
// the one before.
type histogram struct{ counts [80]int }

func (h *histogram) add(d time.Duration) {
	b := 0
	for limit := 1.0; b < len(h.counts)-1 && limit < float64(d.Microseconds()); limit *= 1.41421356 {
		b++
	}
	h.counts[b]++
}

// at returns an upper bound of the given share of the durations.
func (h *histogram) at(share float64) time.Duration {
	total, seen, limit := 0, 0, 1.0
	for _, n := range h.counts {
		total += n
	}
	for _, n := range h.counts {
		if seen += n; float64(seen) >= share*float64(total) {
			break
		}
		limit *= 1.41421356
	}
	return (time.Duration(limit) * time.Microsecond).Round(10 * time.Microsecond)
}

// TestReadWhileWritten checks that subscriptions, alone and as a group's member, read a
// long category from its start without a gap while it is written to.
func TestReadWhileWritten(t *testing.T) {
	url := database(t)
	n := scaled(20_000, 300_000)
	if *sizeFlag == "soak" {
		n = 3_000_000
	}
	admin := connect(t, url)
	category := mdbtest.Category("long")
	execute(t, admin, `INSERT INTO message_store.messages (stream_name, type, position, data)
SELECT $1 || '-' || i % 100, 'Happened', i / 100, '{"n": 1}' FROM generate_series(0, $2::int - 1) AS i ORDER BY i`, string(category), n)
	execute(t, admin, `ANALYZE message_store.messages`)
	pool := openPool(t, url, 4, configure)
	defer pool.Close()
	s, err := mdb.New(pool)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var left atomic.Int64
	left.Store(2)
	extra := int64(0)
	var received [2]int64
	var wg sync.WaitGroup
	errs := make([]error, 3)
	caught := make(chan struct{})
	for i, opts := range [][]mdb.CategorySubscribeOption{nil, {mdb.AsConsumerGroup(0, 1)}} {
		wg.Go(func() {
			next := make(map[mdb.StreamName]int64)
			err := s.SubscribeToCategory(ctx, category, func(_ context.Context, m mdb.Message) error {
				if m.Position != next[m.Stream] {
					return fmt.Errorf("%s/%d, want %d", m.Stream, m.Position, next[m.Stream])
				}
				next[m.Stream]++
				received[i]++
				if m.Type == "Ended" && left.Add(-1) == 0 {
					stop()
				}
				return nil
			}, append(opts, mdb.OnLive(func(live bool) {
				if live && i == 0 {
					close(caught)
				}
			}))...)
			if ctx.Err() == nil {
				errs[i] = err
				stop()
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			typ := "Happened"
			select {
			case <-caught:
				typ = "Ended"
			default:
			}
			_, err := s.WriteMessage(ctx, category.Stream("0"), mdb.NewMessage(typ, nil))
			if err != nil {
				errs[2] = err
				stop()
				return
			}
			extra++
			if typ == "Ended" {
				return
			}
		}
	})
	wg.Wait()
	if err := errors.Join(errs...); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	want := int64(n) + extra
	if slices.Min(received[:]) != want || slices.Max(received[:]) != want {
		t.Errorf("%d messages received, want %d each", received, want)
	}
	t.Logf("%d messages, %d of them written during the test", want, extra)
	results.add("Load", tally{messages: int(want), acked: int(extra)})
}
