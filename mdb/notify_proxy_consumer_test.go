package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// testConsumers checks that consumers of categories on both shards, whose state is on one of
// them, are woken by the notifications of the shards, and that each message has one effect.
func (p *plproxy) testConsumers(t *testing.T) {
	state := p.shards[0]
	if err := schema.InstallConsumers(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	exec(t, state, "CREATE TABLE public.effects (id text PRIMARY KEY, category text NOT NULL)")
	s := newStore(t, newPool(t, p.url), waitingOnly(mdb.ListenOn(p.addresses()...))...)
	categories := []mdb.Category{p.category(t, 0), p.category(t, 1)}
	for _, category := range categories {
		c, err := consumer.New(s, string(category), category, consumer.EachTx(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
			_, err := tx.Exec(ctx, "INSERT INTO public.effects VALUES ($1, $2)", m.ID.String(), string(m.Stream.Category()))
			return err
		}), consumer.StateIn(state))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("the consumer has ended: %v", err)
			}
		})
	}
	eventually(t, state, "both wait", func() bool { return s.NotifyStats().Waiting == 2 && mdb.Settled(s) })
	db := p.writer(t)
	const n = 5
	for i, category := range categories {
		received := s.NotifyShardStats()[i].Notifications
		for message := range n {
			exec(t, db, "SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Happened', '{}')", string(category.Stream(fmt.Sprint(message))))
			until(t, state, "SELECT count(*) = $2 FROM public.effects WHERE category = $1", string(category), message+1)
		}
		wantNotified(t, db, func() int64 { return s.NotifyShardStats()[i].Notifications }, received+n)
	}
}
