package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/messagedb-go/messagedb/bench/internal/figures"
	"github.com/messagedb-go/messagedb/mdb"
)

// writers is how many goroutines write at a time, each on a connection of its own.
const writers = 16

// The names of the ways from which the plan is computed.
const (
	spreadName  = "single writes, 16 writers, 16 categories"
	twentyName  = "batches of 20, 16 writers, 16 categories"
	hundredName = "batches of 100, 16 writers, 16 categories"
)

// A way is one to write messages.
type way struct {
	name       string
	writers    int
	categories int
	batch      int
	grouped    bool
}

var ways = []way{
	{name: spreadName, writers: writers, categories: writers, batch: 1},
	{name: "single writes, 16 writers, one category", writers: writers, categories: 1, batch: 1},
	{name: "single writes, 16 writers, one category, with `WithGroupCommit`", writers: writers, categories: 1, batch: 1, grouped: true},
	{name: "single writes, 16 writers, 16 categories, with `WithGroupCommit`", writers: writers, categories: writers, batch: 1, grouped: true},
	{name: "single writes, one writer", writers: 1, categories: 1, batch: 1},
	{name: "batches of 20, 16 writers, one category", writers: writers, categories: 1, batch: 20},
	{name: twentyName, writers: writers, categories: writers, batch: 20},
	{name: hundredName, writers: writers, categories: writers, batch: 100},
}

// A used is what the messages of a turn took, each.
type used struct {
	rate float64 // messages a second
	wal  float64 // bytes
	xids float64
	cpu  float64 // seconds of all processes of the servers
}

// stores are those of a database.
type stores struct{ plain, grouped *mdb.Store }

// write writes in a way for a time, and returns how many messages that were, and how long it took.
func (w way) write(ctx context.Context, s stores, turn int, d time.Duration) (messages int64, took time.Duration, err error) {
	store := s.plain
	if w.grouped {
		store = s.grouped
	}
	return repeat(ctx, w.writers, d, func(ctx context.Context, writer, i int) (int, error) {
		// Others have written to the streams before, but not at the same time.
		stream := streamOf(categories[writer%w.categories], (turn*7919+writer*1_000_003+i)%streamsOfWays)
		return writeTogether(ctx, store, stream, w.batch)
	})
}

// writeTogether writes messages to a stream by one call, and returns how many.
func writeTogether(ctx context.Context, store *mdb.Store, stream mdb.StreamName, messages int) (int, error) {
	if messages == 1 {
		_, err := store.WriteMessage(ctx, stream, newMessage())
		return 1, err
	}
	batch := make([]mdb.ProposedMessage, messages)
	for i := range batch {
		batch[i] = newMessage()
	}
	_, err := store.WriteMessages(ctx, stream, batch)
	return messages, err
}

// streamsOfWays is the number of streams of each category that is written to.
const streamsOfWays = 1000

// repeat lets each writer call f until a time is over, and at least once. It returns the sum of what the calls return.
func repeat(ctx context.Context, writers int, d time.Duration, f func(ctx context.Context, writer, i int) (int, error)) (sum int64, took time.Duration, err error) {
	var done atomic.Int64
	errs := make([]error, writers)
	begin := time.Now()
	var wg sync.WaitGroup
	for writer := range writers {
		wg.Go(func() {
			for i := 0; (i == 0 || time.Since(begin) < d) && errs[writer] == nil; i++ {
				var n int
				if n, errs[writer] = f(ctx, writer, i); errs[writer] == nil {
					done.Add(int64(n))
				}
			}
		})
	}
	wg.Wait()
	return done.Load(), time.Since(begin), errors.Join(errs...)
}

// measure returns what a message takes that write writes.
func measure(ctx context.Context, servers []*server, write func() (int64, time.Duration, error)) (u used, err error) {
	sum := func() (c counters, err error) {
		for _, s := range servers {
			one, err := s.counters(ctx)
			if err != nil {
				return c, err
			}
			c.wal, c.xids, c.cpu = c.wal+one.wal, c.xids+one.xids, c.cpu+one.cpu
		}
		return c, nil
	}
	before, err := sum()
	if err != nil {
		return u, err
	}
	messages, took, err := write()
	if err != nil {
		return u, err
	}
	after, err := sum()
	n := float64(messages)
	return used{
		rate: n / took.Seconds(), wal: float64(after.wal-before.wal) / n,
		xids: float64(after.xids-before.xids) / n, cpu: (after.cpu - before.cpu).Seconds() / n,
	}, err
}

// A series is what was used in each round, in the same order in all series of a run.
type series []used

func (s series) values(f func(used) float64) []float64 {
	values := make([]float64, len(s))
	for i, u := range s {
		values[i] = f(u)
	}
	return values
}

// median returns the medians of a series.
func (s series) median() used {
	of := func(f func(used) float64) float64 { return figures.Summary(s.values(f)).Center }
	return used{
		rate: of(func(u used) float64 { return u.rate }), wal: of(func(u used) float64 { return u.wal }),
		xids: of(func(u used) float64 { return u.xids }), cpu: of(func(u used) float64 { return u.cpu }),
	}
}

func rate(u used) float64 { return u.rate }

// waysOn measures all ways on a database of the server.
func (b *bench) waysOn(ctx context.Context, s *server, database string) (table []series, err error) {
	on := stores{}
	if on.plain, err = s.connect(ctx, database); err != nil {
		return nil, err
	}
	defer on.plain.Close()
	if on.grouped, err = s.connect(ctx, database, mdb.WithGroupCommit()); err != nil {
		return nil, err
	}
	defer on.grouped.Close()
	for turn, w := range ways { // opens the connections, and writes the first messages of the categories
		if _, _, err := w.write(ctx, on, turn, b.turn/4); err != nil {
			return nil, err
		}
	}
	table = make([]series, len(ways))
	for round := range b.rounds {
		for i, w := range ways {
			u, err := measure(ctx, []*server{s}, func() (int64, time.Duration, error) { return w.write(ctx, on, round*len(ways)+i, b.turn) })
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w.name, err)
			}
			table[i] = append(table[i], u)
		}
	}
	return table, nil
}
