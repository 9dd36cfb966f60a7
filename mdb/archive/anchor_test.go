package archive_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/archive"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

var errCaughtUp = errors.New("caught up")

// resume resumes a subscription to category a until it has caught up, and returns the global positions that it handles.
func resume(t *testing.T, s *mdb.Store, checkpoint *mdb.CategoryCheckpoint, forks *[]mdb.Fork) (handled []int64, err error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	err = s.SubscribeToCategory(ctx, "a", func(_ context.Context, m mdb.Message) error {
		handled = append(handled, m.GlobalPosition)
		return nil
	}, mdb.AfterCheckpoint(*checkpoint), mdb.OnProgress(func(_ context.Context, c mdb.CategoryCheckpoint) error {
		*checkpoint = c
		return nil
	}), mdb.OnFork(func(_ context.Context, f mdb.Fork) error {
		*forks = append(*forks, f)
		return nil
	}), mdb.OnLive(func(live bool) {
		if live {
			cancel(errCaughtUp)
		}
	}))
	if errors.Is(err, errCaughtUp) {
		err = nil
	}
	return handled, err
}

// TestDeletedAnchor checks what docs/retention.md says of subscriptions whose last handled message, or all that they know, is
// deleted. The checkpoint is after the 20th message. It contains the message at known, too, which is the only one of its stream; all others are of another one.
func TestDeletedAnchor(t *testing.T) {
	t.Parallel()
	const known = 1
	for name, c := range map[string]struct {
		old     archive.Old
		then    string  // what is deleted as well
		handled []int64 // in the end
		forks   int
		ends    bool
	}{
		"before the last handled message":         {archive.Old{Category: "a", Before: 20}, "", []int64{21, 22}, 0, false},
		"also it, but not one that it knows":      {archive.Old{Category: "a", Before: 21}, "", []int64{21, 22}, 1, false},
		"also what is not handled, but one":       {archive.Old{Category: "a", Before: 99}, "", []int64{22}, 1, false},
		"all that it knows":                       {archive.Old{Category: "a", Before: 21}, `DELETE FROM message_store.messages WHERE global_position = 1`, nil, 0, true},
		"all that it knows and more, but for one": {archive.Old{Category: "a", Before: 99}, `DELETE FROM message_store.messages WHERE global_position = 1`, nil, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := mdbtest.Store(t)
			var checkpoint mdb.CategoryCheckpoint
			var forks []mdb.Fork
			for n := 1; n <= 20; n++ {
				stream := mdb.StreamName("a-1")
				if n == known {
					stream = "a-rare"
				}
				write(t, s, stream, "Happened")
				if n == known || n == 20 { // so that the checkpoint contains both
					if handled, err := resume(t, s, &checkpoint, &forks); err != nil || checkpoint.Position() != int64(n) {
						t.Fatalf("handled %v, %v", handled, err)
					}
				}
			}
			for range 2 {
				write(t, s, "a-1", "Happened")
			}
			if _, err := archive.Delete(t.Context(), s.Pool(), c.old, nil); err != nil {
				t.Fatal(err)
			}
			if c.then != "" {
				execute(t, s, c.then)
			}
			handled, err := resume(t, s, &checkpoint, &forks)
			if ended := (*mdb.ForkError)(nil); errors.As(err, &ended) != c.ends || !c.ends && err != nil {
				t.Errorf("got %v, want a ForkError: %v", err, c.ends)
			}
			if !slices.Equal(handled, c.handled) || len(forks) != c.forks {
				t.Errorf("handled %v with forks %v, want %v with %d", handled, forks, c.handled, c.forks)
			}
		})
	}
}

// TestDeletedAnchorOfConsumer checks that a consumer whose last handled message is deleted handles what follows.
func TestDeletedAnchorOfConsumer(t *testing.T) {
	t.Parallel()
	s := withConsumers.Store(t)
	for range 20 {
		write(t, s, "a-1", "Happened")
	}
	var handled []int64
	catchUp := func() {
		t.Helper()
		c, err := consumer.New(s, "mailer", "a", consumer.Each(func(_ context.Context, m mdb.Message) error {
			handled = append(handled, m.GlobalPosition)
			return nil
		}))
		if err == nil {
			err = c.CatchUp(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	catchUp()
	for range 2 {
		write(t, s, "a-1", "Happened")
	}
	if n, err := archive.Delete(t.Context(), s.Pool(), archive.Old{Category: "a", Before: 21}, nil); err != nil || n != 20 {
		t.Fatal(n, err)
	}
	handled = nil
	catchUp()
	if !slices.Equal(handled, []int64{21, 22}) {
		t.Errorf("handled %v, want 21 and 22", handled)
	}
}

var withConsumers = mdbtest.NewTemplate(func(ctx context.Context, pool *pgxpool.Pool) error {
	return schema.InstallConsumers(ctx, pool)
})
