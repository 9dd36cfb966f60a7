package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// collect returns a sequence's messages up to its error.
func collect(seq iter.Seq2[mdb.Message, error]) (ms []mdb.Message, err error) {
	for m, e := range seq {
		if err != nil {
			return ms, errors.New("got a pair after the error")
		}
		if err = e; err == nil {
			ms = append(ms, m)
		}
	}
	return ms, err
}

// TestPages checks which messages a sequence yields and how many pages it reads. It ends
// at the first page that is not full, so that a full last page costs one more read.
func TestPages(t *testing.T) {
	t.Parallel()
	var w wire
	s := newStore(t, newPool(t, testdb.Shared(t), w.attach, oneConnection))
	stream := mdbtest.Category("pages").Stream("1")
	const n = 6
	written := seed(t, s, stream, n)
	onBoth(t, s, func(t *testing.T, c calls, _ database) {
		read := func(ofCategory bool, size, from int) ([]mdb.Message, error) {
			if ofCategory {
				return collect(c.CategoryMessages(t.Context(), stream.Category(), mdb.WithBatchSize(size), mdb.FromGlobalPosition(written[from].GlobalPosition)))
			}
			return collect(c.StreamMessages(t.Context(), stream, mdb.WithBatchSize(size), mdb.FromPosition(int64(from))))
		}
		for _, ofCategory := range []bool{false, true} {
			if _, err := read(ofCategory, 10, 0); err != nil { // prepares the statement
				t.Fatal(err)
			}
			for _, size := range []int{1, 2, 3, 4, 5, 6, 7, 1000} {
				for _, from := range []int{0, 1, n - 1} {
					before := w.trips.Load()
					ms, err := read(ofCategory, size, from)
					if err != nil {
						t.Fatal(err)
					}
					var want []int64
					for _, w := range written[from:] {
						want = append(want, w.GlobalPosition)
					}
					if got := globalPositions(ms); !slices.Equal(got, want) {
						t.Errorf("pages of %d from %d: got global positions %v, want %v", size, from, got, want)
					}
					if got, want := w.trips.Load()-before, int64((n-from)/size+1); got != want {
						t.Errorf("pages of %d for %d messages: got %d reads, want %d", size, n-from, got, want)
					}
				}
			}
		}
	})
}

// TestPagesOfFilters checks that the pages of a filtered read yield what one read does.
func TestPagesOfFilters(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t, mdb.WithConditions())
	category := mdbtest.Category("filters")
	for i := range 30 {
		write(t, s, category.Stream(fmt.Sprint(i)), mdb.ProposedMessage{
			Type:     fmt.Sprint("T", i%2),
			Metadata: map[string]string{"correlationStreamName": fmt.Sprintf("c%d-1", i%3)},
		})
	}
	for _, opts := range [][]mdb.CategoryOption{
		{mdb.AsConsumerGroup(1, 3)},
		{mdb.WithCorrelation("c1")},
		{mdb.WithCondition("type = 'T1'")},
		{mdb.WithCondition("type = 'T1'"), mdb.WithCorrelation("c1"), mdb.AsConsumerGroup(0, 2)},
	} {
		want, err := s.GetCategoryMessages(t.Context(), category, opts...)
		if err != nil {
			t.Fatal(err)
		}
		if len(want) == 0 || len(want) == 30 {
			t.Fatalf("got %d messages of 30 through the filter, so this test proves nothing", len(want))
		}
		got, err := collect(s.CategoryMessages(t.Context(), category, append(opts, mdb.WithBatchSize(2))...))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(globalPositions(got), globalPositions(want)) {
			t.Errorf("pages: got %v, want %v", globalPositions(got), globalPositions(want))
		}
	}
}

// TestIteratorHoldsNoConnection checks that the body of the loop can write and read on a
// pool of one connection, and that the loop yields what its body writes.
func TestIteratorHoldsNoConnection(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t), oneConnection))
	stream := mdbtest.Category("hold").Stream("1")
	seed(t, s, stream, 2)
	n := 0
	for m, err := range s.StreamMessages(t.Context(), stream, mdb.WithBatchSize(1)) {
		if err != nil {
			t.Fatal(err)
		}
		if held := s.Pool().Stat().AcquiredConns(); held != 0 {
			t.Fatalf("got %d connections in use, want none", held)
		}
		if n++; n < 5 {
			write(t, s, stream, mdb.NewMessage("Happened", nil))
		}
		if version, err := s.StreamVersion(t.Context(), stream); err != nil || version < m.Position {
			t.Fatalf("got version %d, error %v", version, err)
		}
	}
	if n != 6 {
		t.Errorf("got %d messages, want 6", n)
	}
}

// TestIteratorStops checks that a break ends the reading, and that a second range starts
// from the beginning.
func TestIteratorStops(t *testing.T) {
	t.Parallel()
	var w wire
	s := newStore(t, newPool(t, testdb.Shared(t), w.attach, oneConnection))
	stream := mdbtest.Category("stop").Stream("1")
	seed(t, s, stream, 4)
	seq := s.StreamMessages(t.Context(), stream, mdb.WithBatchSize(2))
	for range 2 { // the first time prepares the statement
		before := w.trips.Load()
		for m, err := range seq {
			if err != nil {
				t.Fatal(err)
			}
			if m.Position == 1 { // the end of the first page
				break
			}
		}
		if got := w.trips.Load() - before; got > 2 {
			t.Errorf("got %d round trips for one page", got)
		}
	}
	before := w.trips.Load()
	for range seq {
		break
	}
	if got := w.trips.Load() - before; got != 1 {
		t.Errorf("got %d round trips for one page, want 1", got)
	}
	write(t, s, stream, mdb.NewMessage("Happened", nil))
	for range 2 {
		ms, err := collect(seq)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := streamPositions(ms), []int64{0, 1, 2, 3, 4}; !slices.Equal(got, want) {
			t.Errorf("got positions %v, want %v", got, want)
		}
	}
}

// TestIteratorError checks that an error ends the sequence after the messages of the
// pages before it, and that a second range reads again.
func TestIteratorError(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("error").Stream("1")
	seed(t, s, stream, 4)
	for name, read := range map[string]func(context.Context) iter.Seq2[mdb.Message, error]{
		"stream": func(ctx context.Context) iter.Seq2[mdb.Message, error] {
			return s.StreamMessages(ctx, stream, mdb.WithBatchSize(2))
		},
		"category": func(ctx context.Context) iter.Seq2[mdb.Message, error] {
			return s.CategoryMessages(ctx, stream.Category(), mdb.WithBatchSize(2))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			seq := read(ctx)
			var got []int64
			var last error
			for m, err := range seq {
				if last != nil {
					t.Fatal("got a pair after the error")
				}
				if last = err; err != nil {
					if m.Type != "" || m.Stream != "" {
						t.Errorf("got message %+v with the error", m)
					}
					continue
				}
				got = append(got, m.Position)
				if len(got) == 2 {
					cancel()
				}
			}
			if !slices.Equal(got, []int64{0, 1}) || !errors.Is(last, context.Canceled) {
				t.Errorf("got positions %v and error %v, want those of a page and a cancelled context", got, last)
			}
			ms, err := collect(seq)
			if len(ms) != 0 || !errors.Is(err, context.Canceled) {
				t.Errorf("got %d messages and error %v, want a cancelled context", len(ms), err)
			}
			if ms, err := collect(read(t.Context())); len(ms) != 4 || err != nil {
				t.Errorf("got %d messages and error %v, want 4", len(ms), err)
			}
		})
	}
}
