package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

var withConsumers = mdbtest.NewTemplate(func(ctx context.Context, pool *pgxpool.Pool) error {
	return schema.InstallConsumers(ctx, pool)
})

// TestRun checks that one process handles all messages once, in order, ends with the cause of
// its context, and that the next one continues after them.
func TestRun(t *testing.T) {
	t.Parallel()
	store := withConsumers.Store(t)
	var want []string
	for i := range 100 {
		stream := mdb.StreamName(fmt.Sprintf("signup-%d", i%7))
		if _, err := store.WriteMessage(t.Context(), stream, mdb.NewMessage("SignedUp", map[string]int{"n": i})); err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprintf("%s/%d", stream, i/7))
	}
	errEnough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var got []string
	c, err := consumer.New(store, "mailer", "signup", consumer.Each(func(_ context.Context, m mdb.Message) error {
		got = append(got, fmt.Sprintf("%s/%d", m.Stream, m.Position))
		if len(got) == len(want) {
			cancel(errEnough)
		}
		return nil
	}), consumer.InOrder())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(ctx); !errors.Is(err, errEnough) {
		t.Fatalf("got %v, want the context's cause", err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if err := c.CatchUp(t.Context()); err != nil || len(got) != len(want) {
		t.Errorf("got %v, and %d messages after a restart, want none", err, len(got)-len(want))
	}
	if s := c.Stats(); s.Handled != 100 || s.Joins != 2 || s.Rewound != 0 || s.Losses != 0 {
		t.Errorf("got %+v", s)
	}
}
