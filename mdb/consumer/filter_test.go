package consumer_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// TestFilterOnServer checks that with FilterOnServer every message is handled with its data while processes join and leave, and that
// none is lost or repeated.
func TestFilterOnServer(t *testing.T) {
	t.Parallel()
	s := withConsumers.Store(t)
	var all record
	var empty atomic.Int64
	handler := consumer.Each(func(_ context.Context, m mdb.Message) error {
		var d struct{ N int }
		if err := m.Decode(&d); err != nil || d.N == 0 {
			empty.Add(1)
		}
		all.add(m)
		return nil
	})
	begin := func() *shift {
		direct, err := mdb.New(plantOn(t, s).Pool(), mdb.WithDirectSQL(), mdb.WithNotify())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(direct.Close)
		return start(t, direct, handler, consumer.FilterOnServer(), consumer.WithPartitions(8))
	}
	var want []int64
	write := func() {
		for i := range 100 {
			w, err := s.WriteMessage(t.Context(), mdb.StreamName(fmt.Sprintf("signup-%d", i%17)), mdb.NewMessage("SignedUp", map[string]int{"n": i + 1}))
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, w.GlobalPosition)
		}
	}
	write()
	running := []*shift{begin()}
	for _, size := range []int{2, 3, 2, 3, 1} {
		if len(running) < size {
			running = append(running, begin())
		} else {
			for len(running) > size {
				running[0].end(t)
				running = running[1:]
			}
		}
		write()
		eventually(t, "all is handled", func() bool { return len(all.sorted()) >= len(want) })
	}
	for _, r := range running {
		r.end(t)
	}
	if got := all.sorted(); !slices.Equal(got, want) || empty.Load() != 0 {
		t.Errorf("got %d of %d messages handled, %d of them without data", len(got), len(want), empty.Load())
	}
}
