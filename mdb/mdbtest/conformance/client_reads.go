package conformance

import (
	"context"
	"iter"
	"math"
	"slices"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// options is about options that package mdb has and the functions do not: they take
// an inclusive position only.
func (s *suite) options(t *testing.T) {
	t.Helper()
	category := mdbtest.Category("get")
	stream := category.Stream("1")
	written, err := s.store.WriteMessages(t.Context(), stream, newBatch(4))
	if err != nil {
		t.Fatal(err)
	}

	for _, test := range []struct {
		name string
		opts []mdb.StreamOption
		want []int64
	}{
		{"AfterPosition leaves the message at the position out", []mdb.StreamOption{mdb.AfterPosition(1)}, []int64{2, 3}},
		{"AfterPosition of the last message", []mdb.StreamOption{mdb.AfterPosition(3)}, nil},
		{"AfterPosition of NoStream is the beginning", []mdb.StreamOption{mdb.AfterPosition(mdb.NoStream)}, []int64{0, 1, 2, 3}},
		{"AfterPosition with a batch size", []mdb.StreamOption{mdb.AfterPosition(0), mdb.WithBatchSize(2)}, []int64{1, 2}},
		{"WithBatchSize of the largest int", []mdb.StreamOption{mdb.WithBatchSize(math.MaxInt)}, []int64{0, 1, 2, 3}},
	} {
		s.check(t, test.name, func(t *testing.T) {
			s.onStoreAndTx(t, func(how string, c client) {
				messages, err := c.GetStreamMessages(t.Context(), stream, test.opts...)
				if got := positions(messages); err != nil || !slices.Equal(got, test.want) {
					t.Errorf("%s: got positions %v, %v, want %v", how, got, err, test.want)
				}
			})
		})
	}

	for _, test := range []struct {
		name string
		opts []mdb.CategoryOption
		want []int64
	}{
		{"AfterGlobalPosition leaves the message at the position out", []mdb.CategoryOption{mdb.AfterGlobalPosition(written[1].GlobalPosition)}, []int64{2, 3}},
		{"AfterGlobalPosition of the last message", []mdb.CategoryOption{mdb.AfterGlobalPosition(written[3].GlobalPosition)}, nil},
		{"AfterGlobalPosition of 0 is the beginning", []mdb.CategoryOption{mdb.AfterGlobalPosition(0)}, []int64{0, 1, 2, 3}},
		{"AfterGlobalPosition with a batch size", []mdb.CategoryOption{mdb.AfterGlobalPosition(written[0].GlobalPosition), mdb.WithBatchSize(2)}, []int64{1, 2}},
	} {
		s.check(t, test.name, func(t *testing.T) {
			s.onStoreAndTx(t, func(how string, c client) {
				messages, err := c.GetCategoryMessages(t.Context(), category, test.opts...)
				if got := positions(messages); err != nil || !slices.Equal(got, test.want) {
					t.Errorf("%s: got positions %v, %v, want %v", how, got, err, test.want)
				}
			})
		})
	}
}

func positions(messages []mdb.Message) []int64 {
	var all []int64
	for i := range messages {
		all = append(all, messages[i].Position)
	}
	return all
}

// sequences is about reads that take one page after another.
func (s *suite) sequences(t *testing.T) {
	t.Helper()
	category := mdbtest.Category("get")
	stream := category.Stream("1")
	if _, err := s.store.WriteMessages(t.Context(), stream, newBatch(3)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		read func(context.Context) iter.Seq2[mdb.Message, error]
	}{
		{"StreamMessages reads page after page", func(ctx context.Context) iter.Seq2[mdb.Message, error] {
			return s.store.StreamMessages(ctx, stream, mdb.FromPosition(1), mdb.WithBatchSize(1))
		}},
		{"CategoryMessages reads page after page", func(ctx context.Context) iter.Seq2[mdb.Message, error] {
			return s.store.CategoryMessages(ctx, category, mdb.WithCondition("position > 0"), mdb.WithBatchSize(1))
		}},
	} {
		s.check(t, test.name, func(t *testing.T) {
			var got []int64
			for m, err := range test.read(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, m.Position)
			}
			if want := []int64{1, 2}; !slices.Equal(got, want) {
				t.Errorf("got positions %v, want %v", got, want)
			}
		})
	}
}
