package consumer

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

// BenchmarkEngine measures the engine's own time for a message, with an empty handler, beside
// a bare loop over the same messages that computes their keys.
func BenchmarkEngine(b *testing.B) {
	const partitions, size = 64, 1000
	var pages [10][partitions][]mdb.Message
	gp := int64(0)
	for i := range pages {
		for range size {
			gp++
			key := fmt.Sprint(gp % 997)
			p := uint64(mdb.Hash64(key)) % partitions
			pages[i][p] = append(pages[i][p], mdb.Message{
				ID: uuid.New(), Stream: mdb.StreamName("account-" + key), Type: "Deposited", Data: []byte(`{"amount": 1}`), GlobalPosition: gp,
			})
		}
	}
	b.Run("loop", func(b *testing.B) {
		handler := func(context.Context, mdb.Message) error { return nil }
		b.ReportAllocs()
		keys := 0
		for n := 0; n < b.N; {
			for p := range partitions {
				for _, m := range pages[0][p] {
					keys += len(m.Stream.CardinalID())
					_ = handler(b.Context(), m)
					n++
				}
			}
		}
	})
	for _, workers := range []int{1, 4} {
		for _, form := range []string{"each", "partition"} {
			b.Run(fmt.Sprintf("%s, %d workers", form, workers), func(b *testing.B) {
				changed := make(chan struct{}, 1)
				c := engineConfig{workers: workers, changed: func() {
					select {
					case changed <- struct{}{}:
					default:
					}
				}}
				c.form.lane = func(d *delivery) string { return d.key }
				c.form.call = func(_ context.Context, c call) (int, error) {
					return len(c.deliveries), nil
				}
				if form == "partition" {
					c.form.lane, c.form.most = nil, 100
				}
				e := newEngine(c)
				ctx, cancel := context.WithCancel(b.Context())
				ended := make(chan error, 1)
				go func() { ended <- e.run(ctx) }()
				for p := range partitions {
					e.claim(ledger.Row{Partition: partition{Category: "account", Number: p}, Epoch: 1}, nil)
				}
				b.ReportAllocs()
				b.ResetTimer()
				for n, page := 0, 0; n < b.N; page++ {
					for p, ms := range pages[page%len(pages)] {
						id := partition{Category: "account", Number: p}
						for !e.room(id) {
							<-changed
						}
						e.feed(id, 1, ms, source.At(int64(page+1)*size))
						n += len(ms)
					}
				}
				for e.stats().messages > 0 {
					e.stored(e.progress())
				}
				b.StopTimer()
				cancel()
				<-ended
			})
		}
	}
}
