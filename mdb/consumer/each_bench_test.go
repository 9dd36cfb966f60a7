package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// BenchmarkEach compares consumers of Each with subscriptions with as many workers, in turns:
// both pass all messages of a category to a handler that does nothing, or computes for ten
// microseconds. It reports microseconds per message after the first one, and how many times as
// fast as the subscription the consumer is. The floor is 0.95.
func BenchmarkEach(b *testing.B) {
	const most = 400_000
	store, err := mdb.Connect(b.Context(), testdb.Consumers(b))
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Pool().Exec(b.Context(), `INSERT INTO message_store.messages (stream_name, position, type, data)
SELECT 'account-' || i % 1000, i / 1000, 'Deposited', '{"amount": 1}' FROM generate_series(0, $1::int - 1) AS i`, most); err != nil {
		b.Fatal(err)
	}
	runs := 0
	for _, bb := range []struct {
		workers int
		compute time.Duration
		size    int64
	}{{1, 0, most}, {4, 0, most}, {1, 10 * time.Microsecond, most / 8}} {
		b.Run(fmt.Sprintf("%d workers, %s", bb.workers, bb.compute), func(b *testing.B) {
			// Neither the consumer's way to join nor that to leave is measured.
			measure := func(run func(ctx context.Context, h mdb.Handler) error) time.Duration {
				ctx, cancel := context.WithCancelCause(b.Context())
				var handled, begun atomic.Int64
				var took time.Duration
				start := time.Now()
				err := run(ctx, func(context.Context, mdb.Message) error {
					for end := time.Now().Add(bb.compute); bb.compute > 0 && time.Now().Before(end); {
						continue
					}
					switch handled.Add(1) {
					case 1:
						begun.Store(int64(time.Since(start)))
					case bb.size:
						took = time.Since(start) - time.Duration(begun.Load())
						cancel(errEnough)
					}
					return nil
				})
				if !errors.Is(err, errEnough) {
					b.Fatal(err)
				}
				return took
			}
			took := make(map[string][]time.Duration)
			for b.Loop() {
				runs++
				c := fmt.Sprint("consumer", runs)
				took["subscription"] = append(took["subscription"], measure(func(ctx context.Context, h mdb.Handler) error {
					return store.SubscribeToCategory(ctx, "account", h, mdb.WithWorkers(bb.workers))
				}))
				took["Each"] = append(took["Each"], measure(func(ctx context.Context, h mdb.Handler) error {
					each, err := consumer.New(store, c, "account", consumer.Each(h), consumer.WithWorkers(bb.workers))
					if err != nil {
						return err
					}
					return each.Run(ctx)
				}))
			}
			median := func(name string) float64 {
				slices.Sort(took[name])
				return took[name][len(took[name])/2].Seconds() * 1e6 / float64(bb.size)
			}
			for _, name := range []string{"subscription", "Each"} {
				b.ReportMetric(median(name), "µs/message:"+name)
			}
			b.ReportMetric(median("subscription")/median("Each"), "times:subscription")
			b.ReportMetric(0, "ns/op")
		})
	}
}
