package consumer_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// TestStatsOfHungHandler checks that the counters show a handler that hangs: since when its message waits, and that its partition is not read any more.
func TestStatsOfHungHandler(t *testing.T) {
	t.Parallel()
	store := withConsumers.Store(t)
	messages := make([]mdb.ProposedMessage, 5000)
	for i := range messages {
		messages[i] = mdb.NewMessage("SignedUp", nil)
	}
	first, err := store.WriteMessage(t.Context(), "signup-1", mdb.NewMessage("SignedUp", nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.WriteMessages(t.Context(), "signup-1", messages); err != nil {
		t.Fatal(err)
	}
	hung := make(chan struct{})
	var calls atomic.Int64
	c := start(t, store, consumer.Each(func(ctx context.Context, _ mdb.Message) error {
		calls.Add(1)
		select {
		case <-hung:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}), consumer.WithPartitions(1))
	eventually(t, "the partition is full", func() bool { return c.Stats().Full == 1 })
	if s := c.Stats(); !s.Oldest.Equal(first.Time) || s.Waiting >= len(messages) || s.Running != 1 || calls.Load() != 1 {
		t.Errorf("got %+v, want %v as the oldest, and not all %d in memory", s, first.Time, len(messages))
	}
	close(hung)
	eventually(t, "all is handled", func() bool { return c.Stats().Handled == int64(len(messages)+1) })
	if s := c.Stats(); !s.Oldest.IsZero() || s.Full != 0 {
		t.Errorf("got %v as the oldest and %d full partitions, when nothing is in memory", s.Oldest, s.Full)
	}
	c.end(t)
	if s := c.Stats(); s.Oldest != (time.Time{}) || s.Full != 0 {
		t.Errorf("got %+v after the end", s)
	}
}
