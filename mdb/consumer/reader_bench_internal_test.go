package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// A drain is a sink that only counts. It copies messages, as an engine does.
type drain struct {
	left   int
	copies []mdb.Message
	done   chan struct{}
}

func (d *drain) feed(_ partition, _ int64, ms []mdb.Message, _ source.Checkpoint) {
	d.copies = append(d.copies[:0], ms...)
	if d.left -= len(ms); d.left == 0 && len(ms) > 0 {
		close(d.done)
	}
}

func (d *drain) room(partition) bool                                                  { return true }
func (d *drain) unreadable(partition, int64, *mdb.UnreadableError, source.Checkpoint) {}

// BenchmarkReader measures how long a reader takes for 10,000 messages, with all of 64
// partitions, in turns with a subscription with a handler that does nothing.
func BenchmarkReader(b *testing.B) {
	const n, partitions = 10_000, 64
	s := readStore(b, testdb.Shared(b), "unused", 1).Store
	category := mdbtest.Category("bench")
	for i := range 100 {
		ms := make([]mdb.ProposedMessage, n/100)
		for j := range ms {
			ms[j] = mdb.NewMessage("Happened", map[string]int{"amount": j})
		}
		if _, err := s.WriteMessages(b.Context(), category.Stream(fmt.Sprint(i)), ms); err != nil {
			b.Fatal(err)
		}
	}
	errDone := errors.New("done")
	var subscriptions, readers []time.Duration
	for b.Loop() {
		begun := time.Now()
		handled := 0
		err := s.SubscribeToCategory(b.Context(), category, func(context.Context, mdb.Message) error {
			if handled++; handled == n {
				return errDone
			}
			return nil
		})
		if !errors.Is(err, errDone) {
			b.Fatal(err)
		}
		middle := time.Now()
		d := &drain{left: n, done: make(chan struct{})}
		r := newReader(readerConfig{
			category: string(category), partitions: partitions, batch: mdb.DefaultBatchSize, sink: d, open: openCategory(s, category),
		})
		for p := range partitions {
			r.open(opening{partition{Category: string(category), Number: p}, 1, source.At(0)})
		}
		ctx, cancel := context.WithCancel(b.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = r.run(ctx)
		}()
		<-d.done
		subscriptions, readers = append(subscriptions, middle.Sub(begun)), append(readers, time.Since(middle))
		cancel()
		<-ended
	}
	slices.Sort(subscriptions)
	slices.Sort(readers)
	middle := len(readers) / 2
	b.ReportMetric(n/readers[middle].Seconds(), "messages/s")
	b.ReportMetric(subscriptions[middle].Seconds()/readers[middle].Seconds(), "of_subscription")
}
