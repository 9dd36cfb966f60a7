// Package shop fills a store with the messages of a shop, for tests and pictures of the pages: orders that
// go through five categories, and consumers that have parked some of them.
package shop

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// Day is how long the messages of a filled store seem to have been written.
const Day = 26 * time.Hour

// A write is a message of an order. It is caused by the one with an index among those before it.
type write struct {
	stream, typ string
	cause       int
	data        map[string]any
}

// Fill installs Message DB with consumers and the NOTIFY trigger, and writes the messages of orders.
func Fill(ctx context.Context, s *mdb.Store, orders int) error {
	pool := s.Pool()
	if err := errors.Join(schema.Install(ctx, pool), schema.InstallConsumers(ctx, pool), schema.InstallNotify(ctx, pool)); err != nil {
		return err
	}
	if err := Write(ctx, s, 0, orders); err != nil {
		return err
	}
	return age(ctx, pool)
}

// Write writes the messages of orders whose numbers begin with from.
func Write(ctx context.Context, s *mdb.Store, from, orders int) error {
	random := rand.New(rand.NewPCG(7, uint64(from)))
	for n := range orders {
		if err := writeOrder(ctx, s, random, from+n); err != nil {
			return err
		}
	}
	return nil
}

func writeOrder(ctx context.Context, s *mdb.Store, random *rand.Rand, n int) error {
	order := order(random, n)
	written := make([]mdb.Message, 0, len(order))
	for _, w := range order {
		metadata := mdb.Metadata{}
		if w.cause >= 0 {
			if err := metadata.Follow(written[w.cause]); err != nil {
				return err
			}
		}
		if metadata.CorrelationStreamName == "" {
			metadata.CorrelationStreamName = mdb.StreamName(order[0].stream)
		}
		raw, err := metadata.MarshalJSON()
		if err != nil {
			return err
		}
		m := mdb.NewMessage(w.typ, w.data)
		m.Metadata = raw
		at, err := s.WriteMessage(ctx, mdb.StreamName(w.stream), m)
		if err != nil {
			return err
		}
		written = append(written, mdb.Message{
			ID: at.ID, Stream: mdb.StreamName(w.stream), Type: w.typ, Position: at.Position, GlobalPosition: at.GlobalPosition, Metadata: raw,
		})
	}
	return nil
}

var (
	goods = []string{"oolong", "sencha", "assam", "darjeeling", "genmaicha", "puerh"}
	towns = []string{"Lyon", "Bergen", "Porto", "Gdańsk", "Ghent"}
)

func order(random *rand.Rand, n int) []write {
	id := fmt.Sprintf("%d", 10_400+n)
	item, cents := goods[random.IntN(len(goods))], 1200+random.IntN(6000)
	address := map[string]any{"name": "A. Customer", "town": towns[random.IntN(len(towns))], "verified": true}
	order := []write{
		{"order-" + id, "Placed", -1, map[string]any{
			"customer": fmt.Sprintf("c-%d", random.IntN(90)), "total": map[string]any{"cents": cents, "currency": "EUR"},
			"lines":    []any{map[string]any{"item": item, "quantity": 1 + random.IntN(3), "cents": cents}},
			"delivery": address, "note": nil,
		}},
		{"payment-" + id, "Requested", 0, map[string]any{"cents": cents, "method": "card"}},
		{"inventory-" + item, "Reserved", 0, map[string]any{"order": id, "quantity": 1}},
		{"payment-" + id, "Authorized", 1, map[string]any{"receipt": fmt.Sprintf("r-%06d", random.IntN(1_000_000))}},
		{"order-" + id, "Confirmed", 3, map[string]any{"receipt": true}},
		{"mail-" + id, "Queued", 4, map[string]any{"template": "confirmation"}},
		{"shipment-" + id, "Prepared", 4, map[string]any{"town": address["town"], "items": 1}},
		{"mail-" + id, "Sent", 5, map[string]any{"to": "customer@example.com"}},
		{"shipment-" + id, "Dispatched", 6, map[string]any{"carrier": "post"}},
		{"order-" + id, "Shipped", 8, map[string]any{"by": "post"}},
		{"mail-" + id, "Queued", 9, map[string]any{"template": "shipped"}},
	}
	switch {
	case n%17 == 11: // the payment is declined
		order = append(order[:3], write{"payment-" + id, "Declined", 1, map[string]any{"reason": "insufficient funds"}}, write{"order-" + id, "Cancelled", 3, nil})
	case n%3 == 0:
		order = order[:9]
	}
	return order
}

// age gives each message the time at which it seems to have been written: the orders are distributed over a day, with fewer at
// night, and the messages of an order follow each other within seconds.
func age(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, `WITH numbered AS (
	SELECT global_position, split_part(coalesce(metadata->>'correlationStreamName', stream_name), '-', 2)::bigint - 10400 AS n,
		row_number() OVER (PARTITION BY metadata->>'correlationStreamName' ORDER BY global_position) - 1 AS i
	FROM message_store.messages
), placed AS (
	SELECT global_position, i, n::float8 / greatest(max(n) OVER (), 1) AS share FROM numbered
)
UPDATE message_store.messages AS m SET time = (now() AT TIME ZONE 'utc')
	- make_interval(secs => $1::float8 * (1 - share - 0.07 * sin(share * 2 * pi()) + 0.01 * sin(share * 22 * pi())) + 40 - i * 1.9 - 0.8 * sin(p.global_position))
FROM placed AS p WHERE p.global_position = m.global_position`, Day.Seconds())
	if err == nil {
		_, err = pool.Exec(ctx, "ANALYZE message_store.messages")
	}
	return err
}

// Consumers returns the consumers of an instance of the shop: two that handle everything, and one that rejects some mails.
func Consumers(s *mdb.Store, instance string) ([]*consumer.Consumer, error) {
	ok := consumer.Each(func(context.Context, mdb.Message) error { return nil })
	rejects := consumer.Each(func(_ context.Context, m mdb.Message) error {
		if m.Type == "Sent" && m.Position == 1 && len(m.Stream) > 0 && (m.Stream[len(m.Stream)-1] == '7' || m.Stream[len(m.Stream)-1] == '3') {
			return consumer.Permanent(errors.New("mailbox is full: 552 5.2.2"))
		}
		return nil
	})
	mailer, err1 := consumer.New(s, "mailer", "mail", rejects, consumer.WithPartitions(16), consumer.WithInstance("mailer-"+instance), consumer.WithErrorText(), consumer.WithLease(5*time.Second))
	checkout, err2 := consumer.New(s, "checkout", "order", ok, consumer.WithCategories("payment"), consumer.WithPartitions(16), consumer.WithInstance("checkout-"+instance))
	list, err3 := consumer.New(s, "order-list", "order", ok, consumer.WithPartitions(8), consumer.WithInstance("list-"+instance))
	return []*consumer.Consumer{mailer, checkout, list}, errors.Join(err1, err2, err3)
}
