package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/messagedb-go/messagedb/mdb"
)

// cases returns the cases of the report in their order.
func (e *environment) cases() []benchCase {
	b := &builder{e: e}
	b.writes()
	b.reads()
	b.all()
	b.concurrent()
	b.grouped()
	b.subscriptions()
	return b.cases
}

// A builder makes cases. Each client writes to streams of its own, so that all of them
// grow alike.
type builder struct {
	e       *environment
	cases   []benchCase
	streams atomic.Int64
}

// each returns a variant for each client.
func (b *builder) each(op func(c client, category string) func(context.Context) error) []variant {
	var variants []variant
	for i, c := range b.e.clients {
		variants = append(variants, variant{name: b.e.names[i], op: op(c, fmt.Sprintf("write%d", i))})
	}
	return variants
}

// names returns a function that returns the names of a thousand streams in turn, which
// are formatted before anything is measured.
func names(format string) func() string {
	var names [1000]string
	for i := range names {
		names[i] = fmt.Sprintf(format, i%seedCategories, i)
	}
	var next atomic.Int64
	return func() string { return names[next.Add(1)%int64(len(names))] }
}

func (b *builder) add(c benchCase) { b.cases = append(b.cases, c) }

func pgbenchWrite(size string) string {
	return `\set stream random(1, 1000)
SELECT message_store.write_message(gen_random_uuid()::varchar, 'pgbench-' || :stream, 'Deposited', ` + size + `)`
}

func quoted(data []byte) string { return "'" + string(data) + "'::jsonb" }

func (b *builder) writes() {
	write := func(data []byte) []variant {
		return append(b.each(func(c client, category string) func(context.Context) error {
			stream := names(category + "%[1]d-%[2]d")
			return func(ctx context.Context) error { return c.write(ctx, stream(), data) }
		}), b.e.pgbench.variant(pgbenchWrite(quoted(data))))
	}
	b.add(benchCase{name: "Write 1 message", quick: true, messages: 1, variants: write(payload)})
	for _, kilobytes := range []int{4, 100} {
		data := []byte(`{"text": "` + strings.Repeat("0123456789abcdef", kilobytes*64) + `"}`)
		b.add(benchCase{name: fmt.Sprintf("Write 1 message of %d KB", kilobytes), messages: 1, variants: write(data)})
	}
	b.add(benchCase{name: "Write 1 message with a wrong expected version", variants: b.each(
		func(c client, _ string) func(context.Context) error {
			return func(ctx context.Context) error { return c.conflict(ctx, "seed1-1") }
		})})
	for _, n := range []int{10, 100, 1000} {
		variants := b.each(func(c client, category string) func(context.Context) error {
			return func(ctx context.Context) error {
				return c.batch(ctx, fmt.Sprintf("batch%s-%d", category, b.streams.Add(1)), n)
			}
		})
		if n == 100 {
			variants = append(variants, variant{name: singlesName, op: func(ctx context.Context) error {
				stream := fmt.Sprintf("singles-%d", b.streams.Add(1))
				for range n {
					if err := (mdbClient{b.e.store}).write(ctx, stream, payload); err != nil {
						return err
					}
				}
				return nil
			}})
		}
		b.add(benchCase{name: fmt.Sprintf("Write %d messages to one stream, atomically", n), quick: n == 100, messages: n, variants: variants})
	}
	b.writeEach()
}

// writesEach returns an op that writes n messages by WriteEach.
func writesEach(s *mdb.Store, stream func() string, n int) func(context.Context) error {
	return func(ctx context.Context) error {
		writes := make([]mdb.Write, n)
		for i := range writes {
			writes[i] = mdb.Write{Stream: mdb.StreamName(stream()), Message: mdb.NewMessage("Deposited", payload)}
		}
		for _, r := range s.WriteEach(ctx, writes) {
			if r.Err != nil {
				return r.Err
			}
		}
		return nil
	}
}

// writeEach compares WriteEach with as many calls.
func (b *builder) writeEach() {
	const n = 100
	stream := names("each%[1]d-%[2]d")
	oneByOne := func(c client, _ string) func(context.Context) error {
		return func(ctx context.Context) error {
			for range n {
				if err := c.write(ctx, stream(), payload); err != nil {
					return err
				}
			}
			return nil
		}
	}
	variants := b.each(oneByOne)
	for i := range variants {
		variants[i].name += ", one by one"
	}
	b.add(benchCase{
		name: fmt.Sprintf("Write %d messages to as many streams, independently", n), messages: n,
		variants: append([]variant{{name: "mdb, WriteEach", op: writesEach(b.e.store, stream, n)}}, variants...),
	})
}

const (
	memberCase     = "Read a page of 100 messages as a member of a consumer group of 16"
	spreadCase     = "Handle a category of 20000 messages, spread 16 ways"
	memberOfficial = memberCase + ", on Message DB's own SQL"
	spreadOfficial = spreadCase + ", on Message DB's own SQL"
	singlesName    = "mdb, one by one"
)

// want returns an op that reads, and fails if the read returns other than n messages.
func want(n int, read func(ctx context.Context) (int, error)) func(context.Context) error {
	return func(ctx context.Context) error {
		got, err := read(ctx)
		if err == nil && got != n {
			err = fmt.Errorf("%d messages, want %d", got, n)
		}
		return err
	}
}

// categoryPage returns where a page of n messages begins. An empty page is past the last
// message, as for a subscription that has caught up.
func categoryPage(n int) (position int64, size int) {
	if n == 0 {
		return 1 << 40, mdb.DefaultBatchSize
	}
	return seedMessages / 2, n
}

func (b *builder) categoryVariants(n int) []variant {
	position, size := categoryPage(n)
	return append(b.each(func(c client, _ string) func(context.Context) error {
		return want(n, func(ctx context.Context) (int, error) { return c.category(ctx, "seed3", position, size) })
	}), b.e.pgbench.variant(fmt.Sprintf("%sget_category_messages('seed3', %d, %d)", columns, position, size)))
}

func plural(n int) string {
	switch n {
	case 0:
		return "an empty page"
	case 1:
		return "a page of 1 message"
	case 1000:
		return "a page of 1,000 messages"
	}
	return fmt.Sprintf("a page of %d messages", n)
}

func (b *builder) reads() {
	for _, n := range []int{0, 1, 10, 1000} {
		b.add(benchCase{name: "Read " + plural(n) + " of a category", quick: n != 1, messages: n, variants: b.categoryVariants(n)})
	}
	for _, n := range []int{0, 1, 10} {
		position, size := int64(1), n
		if n == 0 {
			position, size = 1<<40, mdb.DefaultBatchSize
		}
		b.add(benchCase{name: "Read " + plural(n) + " of a stream", messages: n, variants: append(
			b.each(func(c client, _ string) func(context.Context) error {
				return want(n, func(ctx context.Context) (int, error) { return c.stream(ctx, "seed3-7", position, size) })
			}), b.e.pgbench.variant(fmt.Sprintf("%sget_stream_messages('seed3-7', %d, %d)", columns, position, size)))})
	}
	b.add(benchCase{name: "Read the last message of a stream", quick: true, messages: 1, variants: append(
		b.each(func(c client, _ string) func(context.Context) error {
			return func(ctx context.Context) error { return c.last(ctx, "seed3-7") }
		}), b.e.pgbench.variant(columns+"get_last_stream_message('seed3-7')"))})
	b.add(benchCase{name: "Read a stream's version", variants: append(
		b.each(func(c client, _ string) func(context.Context) error {
			return func(ctx context.Context) error { return c.version(ctx, "seed3-7") }
		}), b.e.pgbench.variant("SELECT message_store.stream_version('seed3-7')"))})
	member := func(c client) func(context.Context) error {
		return want(100, func(ctx context.Context) (int, error) { return c.member(ctx, "shared0", 0, 100, 3, 16) })
	}
	b.add(benchCase{name: memberCase, messages: 100, variants: append(
		b.each(func(c client, _ string) func(context.Context) error { return member(c) }),
		b.e.pgbench.variant(columns+"get_category_messages('shared0', 0, 100, NULL, 3, 16)"))})
	if b.e.official != nil {
		b.add(benchCase{name: memberOfficial, messages: 100, variants: []variant{
			{name: proceduresName, op: member(mdbClient{b.e.official[0]})},
			{name: directName, op: member(mdbClient{b.e.official[1]})},
		}})
	}
}

func (b *builder) concurrent() {
	for _, n := range []int{8, 32} {
		b.add(benchCase{name: fmt.Sprintf("Write 1 message, %d concurrently", n), messages: 1, workers: n, variants: append(
			b.each(func(c client, category string) func(context.Context) error {
				stream := names(category + "c%[1]d-%[2]d")
				return func(ctx context.Context) error { return c.write(ctx, stream(), payload) }
			}), b.e.pgbench.variant(fmt.Sprintf(`\set stream random(1, 1000)
SELECT message_store.write_message(gen_random_uuid()::varchar, 'pgbench' || :stream %% %d || '-' || :stream, 'Deposited', %s)`, seedCategories, quoted(payload))))})
		b.add(benchCase{name: fmt.Sprintf("Read %s of a category, %d concurrently", plural(10), n), messages: 10, workers: n, variants: b.categoryVariants(10)})
	}
}

var errEnough = errors.New("enough")

func (b *builder) subscriptions() {
	const n = seedMessages / seedCategories
	subscribe := func(s *mdb.Store) func(context.Context) error {
		return func(ctx context.Context) error {
			got := 0
			err := s.SubscribeToCategory(ctx, "seed3", func(context.Context, mdb.Message) error {
				if got++; got == n {
					return errEnough
				}
				return nil
			})
			if !errors.Is(err, errEnough) {
				return err
			}
			return nil
		}
	}
	byHand := func(c client) func(context.Context) error {
		return want(n, func(ctx context.Context) (int, error) {
			// In the seed, the positions of a category's messages are seedCategories
			// apart.
			total := 0
			for position := int64(0); ; position += mdb.DefaultBatchSize * seedCategories {
				got, err := c.category(ctx, "seed3", position, mdb.DefaultBatchSize)
				if total += got; err != nil || got < mdb.DefaultBatchSize {
					return total, err
				}
			}
		})
	}
	b.spread()
	b.catchUp()
	b.add(benchCase{name: fmt.Sprintf("Catch up with a category of %d messages", n), messages: n, variants: []variant{
		{name: rawName, op: byHand(b.e.clients[0])},
		{name: proceduresName, op: subscribe(b.e.store)},
		{name: directName, op: subscribe(b.e.direct)},
		{name: pgxName, op: byHand(b.e.clients[3])},
	}})
}

// spread compares ways to handle the messages of one category concurrently.
func (b *builder) spread() {
	const ways = 16
	// until runs n subscriptions until all messages are handled.
	until := func(ctx context.Context, n int, subscribe func(ctx context.Context, i int, h mdb.Handler) error) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		var handled atomic.Int64
		h := func(context.Context, mdb.Message) error {
			if handled.Add(1) == sharedMessages {
				cancel(errEnough)
			}
			return nil
		}
		errs := make([]error, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { errs[i] = subscribe(ctx, i, h) })
		}
		wg.Wait()
		for _, err := range errs {
			if !errors.Is(err, errEnough) {
				return err
			}
		}
		return nil
	}
	workers := func(s *mdb.Store) func(context.Context) error {
		return func(ctx context.Context) error {
			return until(ctx, 1, func(ctx context.Context, _ int, h mdb.Handler) error {
				return s.SubscribeToCategory(ctx, "shared0", h, mdb.WithWorkers(ways))
			})
		}
	}
	members := func(s *mdb.Store) func(context.Context) error {
		return func(ctx context.Context) error {
			return until(ctx, ways, func(ctx context.Context, i int, h mdb.Handler) error {
				return s.SubscribeToCategory(ctx, "shared0", h, mdb.AsConsumerGroup(i, ways))
			})
		}
	}
	b.add(benchCase{name: spreadCase, messages: sharedMessages, rounds: 6, variants: []variant{
		{name: workersName, op: workers(b.e.store)},
		{name: workersName + ", direct SQL", op: workers(b.e.direct)},
		{name: membersName, op: members(b.e.store)},
		{name: membersName + ", direct SQL", op: members(b.e.direct)},
	}})
	if b.e.official != nil {
		b.add(benchCase{name: spreadOfficial, messages: sharedMessages, rounds: 6, variants: []variant{
			{name: workersName, op: workers(b.e.official[0])},
			{name: membersName, op: members(b.e.official[0])},
		}})
	}
}
