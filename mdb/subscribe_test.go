package mdb_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// TestSubscriptionFrom checks that a subscription begins at any kind of position, and goes
// on with messages written later.
func TestSubscriptionFrom(t *testing.T) {
	t.Parallel()
	type options = []mdb.CategorySubscribeOption
	type streamOptions = []mdb.StreamSubscribeOption
	all := []int{0, 1, 2, 3, 4, 5}
	for way, s := range bothWays(t, mdb.WithConditions()) {
		category := mdbtest.Category("from")
		var at []int64 // global positions
		add := func(t *testing.T, id string) {
			t.Helper()
			m := mdb.NewMessage("Happened", json.RawMessage(strconv.Quote(id)))
			if id == "1" {
				m.Metadata = map[string]string{"correlationStreamName": "origin-1"}
			}
			at = append(at, write(t, s, category.Stream(id), m).GlobalPosition)
		}
		for _, id := range []string{"1", "2", "1", "3", "2", "1"} {
			add(t, id)
		}
		stored := func(t *testing.T) []mdb.Message {
			t.Helper()
			messages, err := s.GetCategoryMessages(t.Context(), category)
			if err != nil {
				t.Fatal(err)
			}
			return messages
		}
		pick := func(t *testing.T, indexes []int) (messages []mdb.Message) {
			t.Helper()
			stored := stored(t)
			for _, i := range indexes {
				messages = append(messages, stored[i])
			}
			return messages
		}
		check := func(t *testing.T, r *recipient, indexes []int) {
			t.Helper()
			got, want := places(r.next(t, len(indexes))), places(pick(t, indexes))
			if !slices.Equal(got, want) {
				t.Errorf("got messages %v, want %v", got, want)
			}
		}
		recipients := make(map[string]*recipient)
		for name, tt := range map[string]struct {
			opts options
			want []int
		}{
			"the beginning":       {nil, all},
			"0":                   {options{mdb.FromGlobalPosition(0)}, all},
			"after 0":             {options{mdb.AfterGlobalPosition(0)}, all},
			"the first":           {options{mdb.FromGlobalPosition(at[0])}, all},
			"the third":           {options{mdb.FromGlobalPosition(at[2])}, []int{2, 3, 4, 5}},
			"after the third":     {options{mdb.AfterGlobalPosition(at[2])}, []int{3, 4, 5}},
			"after the last":      {options{mdb.AfterGlobalPosition(at[5])}, nil},
			"the end":             {options{mdb.FromEnd()}, nil},
			"correlated":          {options{mdb.WithCorrelation("origin")}, []int{0, 2, 5}},
			"correlated, the end": {options{mdb.WithCorrelation("origin"), mdb.FromEnd()}, nil},
			"condition":           {options{mdb.WithCondition("data = '\"1\"'")}, []int{0, 2, 5}},
			"condition, the end":  {options{mdb.WithCondition("data = '\"1\"'"), mdb.FromEnd()}, nil},
			"the only member":     {options{mdb.AsConsumerGroup(0, 1)}, all},
			"by 1":                {options{mdb.WithBatchSize(1)}, all},
			"by 2":                {options{mdb.WithBatchSize(2)}, all},
			"by 5":                {options{mdb.WithBatchSize(5)}, all},
			"by 6":                {options{mdb.WithBatchSize(6)}, all},
			"by 7":                {options{mdb.WithBatchSize(7)}, all},
			"correlated, by 1":    {options{mdb.WithBatchSize(1), mdb.WithCorrelation("origin")}, []int{0, 2, 5}},
			"condition, by 3":     {options{mdb.WithBatchSize(3), mdb.WithCondition("data = '\"1\"'")}, []int{0, 2, 5}},
		} {
			r := receiveCategory(t, s, category, tt.opts...)
			recipients[name] = r
			t.Run(way+", category, "+name, func(t *testing.T) {
				check(t, r, tt.want)
				r.untilLive(t)
			})
		}
		for name, tt := range map[string]struct {
			opts streamOptions
			want []int
		}{
			"the beginning":    {nil, []int{0, 2, 5}},
			"0":                {streamOptions{mdb.FromPosition(0)}, []int{0, 2, 5}},
			"after NoStream":   {streamOptions{mdb.AfterPosition(mdb.NoStream)}, []int{0, 2, 5}},
			"the second":       {streamOptions{mdb.FromPosition(1)}, []int{2, 5}},
			"after the second": {streamOptions{mdb.AfterPosition(1)}, []int{5}},
			"after the last":   {streamOptions{mdb.AfterPosition(2)}, nil},
			"the end":          {streamOptions{mdb.FromEnd()}, nil},
			"condition":        {streamOptions{mdb.WithCondition("position <> 1")}, []int{0, 5}},
			"by 1":             {streamOptions{mdb.WithBatchSize(1)}, []int{0, 2, 5}},
			"by 3":             {streamOptions{mdb.WithBatchSize(3)}, []int{0, 2, 5}},
			"condition, by 2":  {streamOptions{mdb.WithBatchSize(2), mdb.WithCondition("position <> 1")}, []int{0, 5}},
		} {
			r := receiveStream(t, s, category.Stream("1"), tt.opts...)
			recipients["stream, "+name] = r
			t.Run(way+", stream, "+name, func(t *testing.T) {
				check(t, r, tt.want)
				r.untilLive(t)
			})
		}
		// The next message is the next one that is written: none was left over.
		add(t, "1")
		add(t, "1")
		for name, r := range recipients {
			t.Run(way+", later, "+name, func(t *testing.T) {
				check(t, r, []int{6, 7})
				r.stop(t)
			})
		}
	}
}

// TestSubscriptionToNothing checks subscriptions that begin before anything is written,
// which is also the end. They must not miss the first message.
func TestSubscriptionToNothing(t *testing.T) {
	t.Parallel()
	for way, s := range bothWays(t, mdb.WithConditions()) {
		category := mdbtest.Category("nothing")
		recipients := make(map[string]*recipient)
		for name, opts := range map[string][]mdb.SubscribeOption{
			"beginning":            nil,
			"end":                  {mdb.FromEnd()},
			"beginning, condition": {mdb.WithCondition("true")},
			"end, condition":       {mdb.WithCondition("true"), mdb.FromEnd()},
		} {
			var forCategory []mdb.CategorySubscribeOption
			var forStream []mdb.StreamSubscribeOption
			for _, opt := range opts {
				forCategory, forStream = append(forCategory, opt), append(forStream, opt)
			}
			recipients["category, "+name] = receiveCategory(t, s, category, forCategory...)
			recipients["stream, "+name] = receiveStream(t, s, category.Stream("1"), forStream...)
		}
		for _, r := range recipients {
			r.untilLive(t)
		}
		write(t, s, category.Stream("1"), mdb.NewMessage("Happened", nil))
		write(t, s, category.Stream("1"), mdb.NewMessage("Happened", nil))
		for name, r := range recipients {
			for i, m := range r.next(t, 2) {
				if m.Stream != category.Stream("1") || m.Position != int64(i) {
					t.Errorf("%s, %s: got message %d at %d of %s", way, name, i, m.Position, m.Stream)
				}
			}
			r.stop(t)
		}
	}
}

// TestSubscriptionGroup checks that each message goes to one member, all streams with one
// cardinal ID to the same member, and streams without an ID to none.
func TestSubscriptionGroup(t *testing.T) {
	t.Parallel()
	const size = 3
	for way, s := range bothWays(t) {
		category := mdbtest.Category("group")
		want := make([][]string, size)
		add := func(id string) {
			w := write(t, s, category.Stream(id), mdb.NewMessage("Happened", nil))
			hash := mdb.Hash64(category.Stream(id).CardinalID())
			member := max(hash, -hash) % size
			want[member] = append(want[member], fmt.Sprintf("%s/%d at %d", id, w.Position, w.GlobalPosition))
		}
		addAll := func() {
			for i := range 20 {
				add(fmt.Sprint(i))
				add(mdb.CompoundID(fmt.Sprint(i), "x"))
			}
			write(t, s, mdb.StreamName(category), mdb.NewMessage("Happened", nil))
		}
		addAll()
		members := make([]*recipient, size)
		for i := range members {
			members[i] = receiveCategory(t, s, category, mdb.AsConsumerGroup(i, size), mdb.WithBatchSize(7))
		}
		addAll()
		for i, r := range members {
			if len(want[i]) == 0 {
				t.Fatalf("got no stream for member %d", i)
			}
			if got := places(r.next(t, len(want[i]))); !slices.Equal(got, want[i]) {
				t.Errorf("%s: member %d: got %v, want %v", way, i, got, want[i])
			}
			r.stop(t)
		}
	}
}

// TestSubscriptionArguments checks that one error reports all faults of a call, before a
// connection is opened.
func TestSubscriptionArguments(t *testing.T) {
	t.Parallel()
	pool := newPool(t, "host=/nowhere")
	s := newStore(t, pool)
	h := func(context.Context, mdb.Message) error { return nil }
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"no handler":          {s.SubscribeToCategory(t.Context(), "c", nil), "handler"},
		"no handler, stream":  {s.SubscribeToStream(t.Context(), "c-1", nil), "handler"},
		"no strategy":         {s.SubscribeToCategory(t.Context(), "c", h, mdb.WithPolling(nil)), "polling strategy"},
		"no strategy, stream": {s.SubscribeToStream(t.Context(), "c-1", h, mdb.WithPolling(nil)), "polling strategy"},
		"no category":         {s.SubscribeToCategory(t.Context(), "", h), "category"},
		"a stream":            {s.SubscribeToCategory(t.Context(), "c-1", h), "category"},
		"no stream":           {s.SubscribeToStream(t.Context(), "", h), "stream"},
		"a category":          {s.SubscribeToStream(t.Context(), "c", h), "stream"},
		"batch size":          {s.SubscribeToStream(t.Context(), "c-1", h, mdb.WithBatchSize(0)), "batch size"},
		"position":            {s.SubscribeToStream(t.Context(), "c-1", h, mdb.FromPosition(-1)), "position"},
		"global position":     {s.SubscribeToCategory(t.Context(), "c", h, mdb.AfterGlobalPosition(-1)), "global position"},
		"unlimited":           {s.SubscribeToStream(t.Context(), "c-1", h, mdb.Unlimited()), "batch size"},
		"end and position":    {s.SubscribeToStream(t.Context(), "c-1", h, mdb.FromEnd(), mdb.FromPosition(0)), "start"},
		"position and end":    {s.SubscribeToCategory(t.Context(), "c", h, mdb.AfterGlobalPosition(3), mdb.FromEnd()), "start"},
		"options in one":      {s.SubscribeToCategory(t.Context(), "c", h, mdb.CategoryOptions{mdb.AfterGlobalPosition(3), mdb.WithBatchSize(0)}, mdb.FromEnd()), "start, batch size"},
		"correlation":         {s.SubscribeToCategory(t.Context(), "c", h, mdb.WithCorrelation("a-b")), "correlation"},
		"group":               {s.SubscribeToCategory(t.Context(), "c", h, mdb.AsConsumerGroup(2, 2)), "consumer group member"},
		"condition":           {s.SubscribeToStream(t.Context(), "c-1", h, mdb.WithCondition("true")), "condition"},
		"no workers":          {s.SubscribeToCategory(t.Context(), "c", h, mdb.WithWorkers(0)), "workers"},
		"too many workers":    {s.SubscribeToCategory(t.Context(), "c", h, mdb.WithWorkers(1001)), "workers"},
		"all of it": {
			s.SubscribeToCategory(t.Context(), "c-1", nil, mdb.WithPolling(nil), mdb.FromGlobalPosition(-1), mdb.WithBatchSize(-1), mdb.WithCorrelation(""), mdb.AsConsumerGroup(0, 0), mdb.WithCondition("true"), mdb.WithWorkers(-1)),
			"handler, category, polling strategy, workers, global position, batch size, correlation, consumer group size, consumer group member, condition",
		},
	} {
		var arguments []string
		for _, f := range wantError[*mdb.ArgumentError](t, tt.err).Faults {
			arguments = append(arguments, f.Argument)
		}
		if got := strings.Join(arguments, ", "); got != tt.want {
			t.Errorf("%s: got faults with %s, want %s", name, got, tt.want)
		}
	}
	_, err := mdb.New(pool, mdb.WithPolling(nil))
	if f := wantError[*mdb.ArgumentError](t, err).Faults; len(f) != 1 || f[0].Argument != "polling strategy" {
		t.Errorf("store without a strategy: got faults %v", f)
	}
	if stat := pool.Stat(); stat.NewConnsCount() != 0 || stat.AcquireCount()+stat.CanceledAcquireCount() != 0 {
		t.Error("a connection was acquired")
	}
}

// TestSubscriptionPolling checks that a subscription's own strategy replaces its
// store's.
func TestSubscriptionPolling(t *testing.T) {
	t.Parallel()
	asked := make(chan string)
	strategy := func(name string) poll.Strategy {
		return func(poll.Seen) time.Duration { asked <- name; return time.Millisecond }
	}
	s := newStore(t, newPool(t, testdb.Shared(t)), mdb.WithPolling(strategy("store")))
	for want, opts := range map[string][]mdb.CategorySubscribeOption{
		"store":        nil,
		"subscription": {mdb.WithPolling(strategy("subscription"))},
	} {
		r := receiveCategory(t, s, mdbtest.Category("polls"), opts...)
		for range 3 {
			if got := <-asked; got != want {
				t.Errorf("got a call of the %s's strategy, want the %s's", got, want)
			}
		}
		// The strategy may be called once more before the subscription ends.
		r.end(errStopped)
		select {
		case <-asked:
			<-r.dropped
		case <-r.dropped:
		}
	}
}

// TestSubscriptionExecModes checks pages and heads in each of pgx's exec modes.
func TestSubscriptionExecModes(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			s := newStore(t, newPool(t, testdb.Shared(t), execMode(mode)), mdb.WithConditions())
			stream := mdbtest.Category("modes").Stream("1")
			running := []*recipient{
				receiveStream(t, s, stream),
				receiveStream(t, s, stream, mdb.WithCondition("true"), mdb.FromEnd()),
				receiveCategory(t, s, stream.Category(), mdb.FromEnd()),
				receiveCategory(t, s, stream.Category(), mdb.AsConsumerGroup(0, 1), mdb.WithBatchSize(2)),
				receiveCategory(t, s, stream.Category(), mdb.WithCondition("true")),
			}
			for _, r := range running {
				r.untilLive(t)
			}
			if _, err := s.WriteMessages(t.Context(), stream, proposals(5)); err != nil {
				t.Fatal(err)
			}
			for i, r := range running {
				for j, m := range r.next(t, 5) {
					if m.Position != int64(j) {
						t.Errorf("subscription %d: got message %d at position %d", i, j, m.Position)
					}
				}
				r.stop(t)
			}
		})
	}
}
