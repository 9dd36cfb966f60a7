package conformance

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// selections is about reads of package mdb that are no function of Message DB.
func (s *suite) selections(t *testing.T) {
	t.Helper()
	first, second := mdbtest.Category("first"), mdbtest.Category("second")
	begin := time.Now()
	var written []mdb.Written
	for i, stream := range []mdb.StreamName{first.Stream("1"), second.Stream("1"), first.Stream("1"), second.Stream("2"), first.Stream("2")} {
		w, err := s.store.WriteMessage(t.Context(), stream, mdb.NewMessage([]string{"Even", "Odd"}[i%2], nil))
		if err != nil {
			t.Fatal(err)
		}
		written = append(written, w)
	}
	both := mdb.InCategories(first, second)
	stream := func(opts ...mdb.StreamOption) func(context.Context) ([]mdb.Message, error) {
		return func(ctx context.Context) ([]mdb.Message, error) {
			return s.store.GetStreamMessages(ctx, first.Stream("1"), opts...)
		}
	}
	category := func(opts ...mdb.CategoryOption) func(context.Context) ([]mdb.Message, error) {
		return func(ctx context.Context) ([]mdb.Message, error) {
			return s.store.GetCategoryMessages(ctx, first, opts...)
		}
	}
	all := func(opts ...mdb.AllOption) func(context.Context) ([]mdb.Message, error) {
		return func(ctx context.Context) ([]mdb.Message, error) {
			return s.store.GetAllMessages(ctx, append(opts, both)...)
		}
	}
	subscribed := func(n int, subscribe func(context.Context, mdb.Handler) error) func(context.Context) ([]mdb.Message, error) {
		return func(ctx context.Context) (messages []mdb.Message, _ error) {
			err := subscribe(ctx, func(_ context.Context, m mdb.Message) error {
				if messages = append(messages, m); len(messages) == n {
					return errEnough
				}
				return nil
			})
			if !errors.Is(err, errEnough) {
				return nil, err
			}
			return messages, nil
		}
	}
	one := func(m mdb.Message, err error) ([]mdb.Message, error) { return []mdb.Message{m}, err }

	for _, test := range []struct {
		name string
		read func(context.Context) ([]mdb.Message, error)
		want []int // indexes of what was written
	}{
		{"Backwards reads the last message of a stream first", stream(mdb.Backwards()), []int{2, 0}},
		{"Backwards of a stream begins at the position", stream(mdb.Backwards(), mdb.FromPosition(0)), []int{0}},
		{"Backwards of a stream begins before the position after which it reads", stream(mdb.Backwards(), mdb.AfterPosition(1)), []int{0}},
		{"Backwards reads the last message of a category first", category(mdb.Backwards(), mdb.WithBatchSize(2)), []int{4, 2}},
		{"Backwards reads the last message of several categories first", all(mdb.Backwards()), []int{4, 3, 2, 1, 0}},
		{"Since reads what was written later", category(mdb.Since(begin.Add(-time.Hour))), []int{0, 2, 4}},
		{"Since a later time", category(mdb.Since(begin.Add(24 * time.Hour))), nil},
		{"GetAllMessages reads categories in the order of global positions", all(), []int{0, 1, 2, 3, 4}},
		{"GetAllMessages reads after a position", all(mdb.AfterGlobalPosition(written[1].GlobalPosition)), []int{2, 3, 4}},
		{"GetAllMessages reads a page", all(mdb.WithBatchSize(2)), []int{0, 1}},
		{"GetAllMessages reads the messages of a type", all(mdb.OfTypes("Odd")), []int{1, 3}},
		{"GetAllMessages reads what was written since a time", all(mdb.Since(begin.Add(-time.Hour))), []int{0, 1, 2, 3, 4}},
		{"AllMessages reads page after page", func(ctx context.Context) (messages []mdb.Message, _ error) {
			for m, err := range s.store.AllMessages(ctx, both, mdb.WithBatchSize(2)) {
				if err != nil {
					return nil, err
				}
				messages = append(messages, m)
			}
			return messages, nil
		}, []int{0, 1, 2, 3, 4}},
		{"GetLastCategoryMessage reads the last message of a category", func(ctx context.Context) ([]mdb.Message, error) {
			return one(s.store.GetLastCategoryMessage(ctx, first))
		}, []int{4}},
		{"GetLastCategoryMessage reads the last message of a type", func(ctx context.Context) ([]mdb.Message, error) {
			return one(s.store.GetLastCategoryMessage(ctx, second, mdb.OfType("Odd")))
		}, []int{3}},
		{"GetMessage reads the message with an ID", func(ctx context.Context) ([]mdb.Message, error) {
			return one(s.store.GetMessage(ctx, written[2].ID))
		}, []int{2}},
		{"SubscribeToCategories delivers in the order of global positions", subscribed(5, func(ctx context.Context, h mdb.Handler) error {
			return s.store.SubscribeToCategories(ctx, []mdb.Category{first, second}, h)
		}), []int{0, 1, 2, 3, 4}},
		{"SubscribeToAll delivers the messages of types after a position", subscribed(1, func(ctx context.Context, h mdb.Handler) error {
			return s.store.SubscribeToAll(ctx, h, both, mdb.AfterGlobalPosition(written[1].GlobalPosition), mdb.OfTypes("Odd"))
		}), []int{3}},
	} {
		s.check(t, test.name, func(t *testing.T) {
			messages, err := test.read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var got []int
			for i := range messages {
				got = append(got, slices.IndexFunc(written, func(w mdb.Written) bool {
					return w.ID == messages[i].ID && w.GlobalPosition == messages[i].GlobalPosition && w.Position == messages[i].Position
				}))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got messages %v, want %v", got, test.want)
			}
		})
	}

	s.check(t, "GetMessage of an ID that no message has", func(t *testing.T) {
		if _, err := s.store.GetMessage(t.Context(), uuid.New()); !errors.Is(err, mdb.ErrNoMessage) {
			t.Errorf("got %v, want ErrNoMessage", err)
		}
	})
	s.check(t, "GetLastCategoryMessage of a category without messages", func(t *testing.T) {
		if _, err := s.store.GetLastCategoryMessage(t.Context(), mdbtest.Category("none")); !errors.Is(err, mdb.ErrNoMessage) {
			t.Errorf("got %v, want ErrNoMessage", err)
		}
	})
	s.check(t, "Head is a position up to which everything is final", func(t *testing.T) {
		if head, err := s.store.Head(t.Context()); err != nil || head < written[len(written)-1].GlobalPosition {
			t.Errorf("got %d, %v, want at least %d", head, err, written[len(written)-1].GlobalPosition)
		}
	})
}

var errEnough = errors.New("enough")
