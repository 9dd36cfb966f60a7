package consumer_test

import (
	"slices"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestBehindPgBouncer checks that two processes share a consumer through PgBouncer in
// transaction mode, and hand over without repeating a message.
func TestBehindPgBouncer(t *testing.T) {
	t.Parallel()
	found := pgtest.PgBouncers(t)
	if len(found) == 0 {
		t.Skip("there is no PgBouncer")
	}
	for _, bouncer := range found {
		t.Run("PgBouncer "+bouncer.Version, func(t *testing.T) {
			t.Parallel()
			shareBehind(t, bouncer)
		})
	}
}

func shareBehind(t *testing.T, bouncer pgtest.PgBouncer) {
	t.Helper()
	direct := withConsumers.Store(t)
	// PgBouncer does not pass on the search path.
	if _, err := schema.PinSearchPath(t.Context(), direct.Pool()); err != nil {
		t.Fatal(err)
	}
	url := bouncer.Start(t, direct.Pool().Config().ConnString(), "transaction")
	connect := func() *mdb.Store {
		store, err := mdb.Connect(t.Context(), url, mdb.BehindPooler())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(store.Close)
		return store
	}
	want := signUp(t, direct, 100)
	var a, b record
	first := start(t, connect(), a.handler(), consumer.WithLease(time.Hour))
	second := start(t, connect(), b.handler(), consumer.WithLease(time.Hour))
	eventually(t, "each has its share", func() bool {
		return first.Stats().Partitions == consumer.DefaultPartitions/2 && second.Stats().Partitions == consumer.DefaultPartitions/2
	})
	first.end(t)
	want = append(want, signUp(t, direct, 100)...)
	eventually(t, "all is handled", func() bool { return len(a.sorted())+len(b.sorted()) >= len(want) })
	second.end(t)
	if got := slices.Sorted(slices.Values(append(a.sorted(), b.sorted()...))); !slices.Equal(got, want) {
		t.Errorf("got %d messages handled, want each of %d once", len(got), len(want))
	}
	if n := first.Stats().Losses + second.Stats().Losses; n != 0 {
		t.Errorf("got %d leases lost", n)
	}
}
