package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// benchWays runs a benchmark with the procedures and with direct SQL, in a new category.
func benchWays(b *testing.B, bench func(b *testing.B, s *mdb.Store, category mdb.Category)) {
	b.Helper()
	pool := newPool(b, testdb.Shared(b))
	for _, way := range []struct {
		name string
		opts []mdb.StoreOption
	}{{"procedures", nil}, {"direct", []mdb.StoreOption{mdb.WithDirectSQL()}}} {
		b.Run(way.name, func(b *testing.B) {
			b.ReportAllocs()
			bench(b, newStore(b, pool, way.opts...), mdbtest.Category("bench"))
		})
	}
}

func BenchmarkWriteMessage(b *testing.B) {
	benchWays(b, func(b *testing.B, s *mdb.Store, category mdb.Category) {
		for b.Loop() {
			if _, err := s.WriteMessage(b.Context(), category.Stream("1"), mdb.NewMessage("Happened", nil)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkWriteMessages(b *testing.B) {
	benchWays(b, func(b *testing.B, s *mdb.Store, category mdb.Category) {
		ms := make([]mdb.ProposedMessage, 100)
		for b.Loop() {
			for i := range ms {
				ms[i] = mdb.NewMessage("Happened", nil)
			}
			if _, err := s.WriteMessages(b.Context(), category.Stream("1"), ms); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkWriteEach(b *testing.B) {
	s, category := newStore(b, newPool(b, testdb.Shared(b))), mdbtest.Category("bench")
	writes := make([]mdb.Write, 100)
	b.ReportAllocs()
	for b.Loop() {
		for i := range writes {
			writes[i] = mdb.Write{Stream: category.Stream("1"), Message: mdb.NewMessage("Happened", nil)}
		}
		for _, r := range s.WriteEach(b.Context(), writes) {
			if r.Err != nil {
				b.Fatal(r.Err)
			}
		}
	}
}

func BenchmarkReadPage(b *testing.B) {
	benchWays(b, func(b *testing.B, s *mdb.Store, category mdb.Category) { benchRead(b, s, category, 1000) })
}

func BenchmarkReadEmptyPage(b *testing.B) {
	benchWays(b, func(b *testing.B, s *mdb.Store, category mdb.Category) { benchRead(b, s, category, 0) })
}

// benchRead reads n messages of a category.
func benchRead(b *testing.B, s *mdb.Store, category mdb.Category, n int) {
	b.Helper()
	if _, err := s.WriteMessages(b.Context(), category.Stream("1"), proposals(n)); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if ms, err := s.GetCategoryMessages(b.Context(), category); err != nil || len(ms) != n {
			b.Fatalf("got %d messages, error %v, want %d", len(ms), err, n)
		}
	}
}

// BenchmarkSubscription measures the delivery of 10,000 messages to a handler.
func BenchmarkSubscription(b *testing.B) {
	const n = 10_000
	errDone := errors.New("done")
	benchWays(b, func(b *testing.B, s *mdb.Store, category mdb.Category) {
		if _, err := s.WriteMessages(b.Context(), category.Stream("1"), proposals(n)); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			handled := 0
			err := s.SubscribeToCategory(b.Context(), category, func(context.Context, mdb.Message) error {
				if handled++; handled == n {
					return errDone
				}
				return nil
			})
			if !errors.Is(err, errDone) {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "messages/s")
	})
}

// BenchmarkEmptyPoll measures what it adds to an empty poll that it looks whether the last
// known message is still there, in turns with polls that do not. The last message is small, or
// of a megabyte, which no poll must read again.
func BenchmarkEmptyPoll(b *testing.B) {
	benchWays(b, func(b *testing.B, s *mdb.Store, category mdb.Category) {
		for _, size := range []int{10, 1 << 20} {
			b.Run(fmt.Sprint(size), func(b *testing.B) {
				w, err := s.WriteMessage(b.Context(), category.Stream("1"), mdb.NewMessage("Happened", []string{strings.Repeat("x", size)}))
				if err != nil {
					b.Fatal(err)
				}
				src, from := sourceAtEnd(b, s, category)
				var plain, anchored []time.Duration
				for b.Loop() {
					begun := time.Now()
					if ms, err := s.GetCategoryMessages(b.Context(), category, mdb.AfterGlobalPosition(w.GlobalPosition)); err != nil || len(ms) > 0 {
						b.Fatal(len(ms), err)
					}
					middle := time.Now()
					if page, err := src.Next(b.Context(), from, mdb.DefaultBatchSize); err != nil || len(page.Messages) > 0 || page.Forked {
						b.Fatal(page, err)
					}
					plain, anchored = append(plain, middle.Sub(begun)), append(anchored, time.Since(middle))
				}
				slices.Sort(plain)
				slices.Sort(anchored)
				n := len(plain) / 2
				b.ReportMetric(float64(plain[n].Nanoseconds())/1e3, "µs/plain")
				b.ReportMetric(float64(anchored[n].Nanoseconds())/float64(plain[n].Nanoseconds()), "anchored/plain")
			})
		}
	})
}

// BenchmarkHooks measures what hooks that do nothing add to a write, in turns with writes without hooks.
// BenchmarkNoHooks measures what these pay.
func BenchmarkHooks(b *testing.B) {
	benchWays(b, func(b *testing.B, s *mdb.Store, category mdb.Category) {
		hooked := newStore(b, s.Pool(), mdb.WithHooks(new(quiet)))
		timed := func(s *mdb.Store) time.Duration {
			begun := time.Now()
			if _, err := s.WriteMessage(b.Context(), category.Stream("1"), mdb.NewMessage("Happened", nil)); err != nil {
				b.Fatal(err)
			}
			return time.Since(begun)
		}
		var without, with []time.Duration
		for b.Loop() {
			without, with = append(without, timed(s)), append(with, timed(hooked))
		}
		slices.Sort(without)
		slices.Sort(with)
		n := len(without) / 2
		b.ReportMetric(float64(without[n].Nanoseconds())/1e3, "µs/unset")
		b.ReportMetric(float64(with[n].Nanoseconds())/float64(without[n].Nanoseconds()), "hooked/unset")
	})
}

// sourceAtEnd returns a source of a category, and the checkpoint after its last message.
func sourceAtEnd(t testing.TB, s *mdb.Store, category mdb.Category) (source.Source[mdb.Message], source.Checkpoint) {
	t.Helper()
	open := source.Opener.(func(*mdb.Store, mdb.Category, source.Hooks) (*source.Opened[mdb.Message], error)) //nolint:forcetypeassert // what mdb sets
	src, err := open(s, category, source.Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	var at source.Checkpoint
	for full := true; full; {
		page, err := src.Next(t.Context(), at, mdb.DefaultBatchSize)
		if err != nil || page.Forked {
			t.Fatal(page, err)
		}
		at, full = page.End, page.Full
	}
	return src, at
}

func BenchmarkCheck(b *testing.B) {
	s := newStore(b, newPool(b, testdb.Shared(b), oneConnection))
	for b.Loop() {
		if err := s.Check(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
