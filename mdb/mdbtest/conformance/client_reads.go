package conformance

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

func (s *suite) get(t *testing.T) {
	t.Helper()
	category := mdbtest.Category("get")
	stream := category.Stream("1")
	const messages = 3
	for i := range messages {
		m := mdb.NewMessage("Tested", map[string]int{"n": i})
		m.Metadata = map[string]string{"correlationStreamName": "origin-1"}
		if _, err := s.store.WriteMessage(t.Context(), stream, m); err != nil {
			t.Fatal(err)
		}
	}
	byStream := func(opts ...mdb.StreamReadOption) func(context.Context) ([]mdb.Message, error) {
		return func(ctx context.Context) ([]mdb.Message, error) {
			return s.store.GetStreamMessages(ctx, stream, opts...)
		}
	}
	byCategory := func(opts ...mdb.CategoryReadOption) func(context.Context) ([]mdb.Message, error) {
		return func(ctx context.Context) ([]mdb.Message, error) {
			return s.store.GetCategoryMessages(ctx, category, opts...)
		}
	}

	for _, test := range []struct {
		name string
		read func(context.Context) ([]mdb.Message, error)
		want []int64
	}{
		{"E6 a stream", byStream(), []int64{0, 1, 2}},
		{"E6 a category", byCategory(), []int64{0, 1, 2}},
		{"E7 a batch of a stream", byStream(mdb.WithBatchSize(2)), []int64{0, 1}},
		{"E7 a batch of a category", byCategory(mdb.WithBatchSize(2)), []int64{0, 1}},
		{"E7 from a position", byStream(mdb.FromPosition(1)), []int64{1, 2}},
		{"E7 after a position", byStream(mdb.AfterPosition(1)), []int64{2}},
		{"E7 after the last position", byStream(mdb.AfterPosition(2)), nil},
		{"E7 after no position", byStream(mdb.AfterPosition(mdb.NoStream)), []int64{0, 1, 2}},
		{"E7 after no global position", byCategory(mdb.AfterGlobalPosition(0)), []int64{0, 1, 2}},
		{"E7 no messages in a stream", func(ctx context.Context) ([]mdb.Message, error) {
			return s.store.GetStreamMessages(ctx, category.Stream("2"))
		}, nil},
		{"E7 no messages in a category", func(ctx context.Context) ([]mdb.Message, error) {
			return s.store.GetCategoryMessages(ctx, mdbtest.Category("get"))
		}, nil},
		{"E8 a condition on a stream", byStream(mdb.WithCondition("position % 2 = 0")), []int64{0, 2}},
		{"E8 a condition on a category", byCategory(mdb.WithCondition("position % 2 = 0")), []int64{0, 2}},
		{"E10 a correlation", byCategory(mdb.WithCorrelation("origin")), []int64{0, 1, 2}},
		{"E10 another correlation", byCategory(mdb.WithCorrelation("other")), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			messages, err := test.read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var got []int64
			for i := range messages {
				got = append(got, messages[i].Position)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got positions %v, want %v", got, test.want)
			}
		})
	}

	for _, test := range []struct {
		name string
		read func(context.Context) ([]mdb.Message, error)
	}{
		{"E6 a category's name for a stream's", func(ctx context.Context) ([]mdb.Message, error) {
			return s.store.GetStreamMessages(ctx, mdb.StreamName(category))
		}},
		{"E6 a stream's name for a category's", func(ctx context.Context) ([]mdb.Message, error) {
			return s.store.GetCategoryMessages(ctx, mdb.Category(stream))
		}},
		{"E8 a condition where none is allowed", func(ctx context.Context) ([]mdb.Message, error) {
			return s.plain.GetStreamMessages(ctx, stream, mdb.WithCondition("true"))
		}},
		{"E9 a group of none", byCategory(mdb.AsConsumerGroup(0, 0))},
		{"E9 a group of less than none", byCategory(mdb.AsConsumerGroup(0, -1))},
		{"E9 a member below the first", byCategory(mdb.AsConsumerGroup(-1, 2))},
		{"E9 a member behind the last", byCategory(mdb.AsConsumerGroup(2, 2))},
		{"E9 a member far behind the last", byCategory(mdb.AsConsumerGroup(3, 2))},
		{"E10 a correlation with a stream", byCategory(mdb.WithCorrelation("origin-1"))},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			messages, err := test.read(t.Context())
			var refused *mdb.ArgumentError
			if !errors.As(err, &refused) || len(messages) != 0 {
				t.Errorf("got %d messages, %v, want an *ArgumentError", len(messages), err)
			}
		})
	}

	t.Run("E9 a group shares a category", func(t *testing.T) {
		t.Parallel()
		const members, streams = 3, 11
		category := mdbtest.Category("group")
		for range streams {
			id := mdb.NewMessage("Tested", nil)
			if _, err := s.store.WriteMessage(t.Context(), category.Stream(id.ID.String()), id); err != nil {
				t.Fatal(err)
			}
		}
		seen := make(map[mdb.StreamName]int)
		for member := range members {
			messages, err := s.store.GetCategoryMessages(t.Context(), category, mdb.AsConsumerGroup(member, members))
			if err != nil {
				t.Fatal(err)
			}
			for i := range messages {
				stream := messages[i].Stream
				seen[stream]++
				if stream.Category() != category {
					t.Errorf("got a message of %s", stream)
				}
				if owner := abs(mdb.Hash64(stream.CardinalID())) % members; owner != int64(member) {
					t.Errorf("member %d got %s, which is member %d's", member, stream, owner)
				}
			}
		}
		if len(seen) != streams {
			t.Errorf("the members got %d messages, want %d", len(seen), streams)
		}
		for stream, times := range seen {
			if times != 1 {
				t.Errorf("%s was read %d times, want once", stream, times)
			}
		}
	})

	t.Run("E11 the last message", func(t *testing.T) {
		t.Parallel()
		if m, err := s.store.GetLastStreamMessage(t.Context(), stream); err != nil || m.Position != messages-1 {
			t.Errorf("got position %d, %v, want %d", m.Position, err, messages-1)
		}
		if m, err := s.store.GetLastStreamMessage(t.Context(), stream, mdb.OfType("Tested")); err != nil || m.Position != messages-1 {
			t.Errorf("of a type: got position %d, %v, want %d", m.Position, err, messages-1)
		}
		for _, opts := range [][]mdb.LastMessageOption{nil, {mdb.OfType("Tested")}} {
			if m, err := s.store.GetLastStreamMessage(t.Context(), category.Stream("2"), opts...); !errors.Is(err, mdb.ErrNoMessage) {
				t.Errorf("of a stream without messages: got %+v, %v, want ErrNoMessage", m, err)
			}
		}
	})

	for name, sequence := range map[string]func(context.Context) iter.Seq2[mdb.Message, error]{
		"E12 a stream page by page": func(ctx context.Context) iter.Seq2[mdb.Message, error] {
			return s.store.StreamMessages(ctx, stream, mdb.FromPosition(1), mdb.WithBatchSize(1))
		},
		"E12 a category page by page": func(ctx context.Context) iter.Seq2[mdb.Message, error] {
			return s.store.CategoryMessages(ctx, category, mdb.WithCondition("position > 0"), mdb.WithBatchSize(1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []int64
			for m, err := range sequence(t.Context()) {
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
