package consumer_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestPLProxyConsumer checks that a consumer on a shard handles what is written through a proxy, with its state there or on another shard, and that one
// on the proxy says why it cannot.
func TestPLProxyConsumer(t *testing.T) {
	t.Parallel()
	p := testdb.NewProxy(t, 2, nil)
	proxy, shards := storeOf(t, p.URL), [2]*mdb.Store{storeOf(t, p.Shards[0]), storeOf(t, p.Shards[1])}
	for _, s := range shards {
		if err := schema.InstallConsumers(t.Context(), s.Pool()); err != nil {
			t.Fatal(err)
		}
	}
	for _, option := range [][]consumer.Option{nil, {consumer.StateIn(shards[0].Pool())}} {
		category := mdbtest.Category("consumed")
		for mdb.Hash64(string(category))&1 != 1 {
			category = mdbtest.Category("consumed")
		}
		if _, err := proxy.WriteMessages(t.Context(), category.Stream("1"), []mdb.ProposedMessage{mdb.NewMessage("First", nil), mdb.NewMessage("Second", nil)}); err != nil {
			t.Fatal(err)
		}
		var types []string
		handler := consumer.EachTx(func(_ context.Context, _ pgx.Tx, m mdb.Message) error {
			types = append(types, m.Type)
			return nil
		})
		c, err := consumer.New(shards[1], string(category), category, handler, option...)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second call handles nothing again
			if err := c.CatchUp(t.Context()); err != nil || strings.Join(types, " ") != "First Second" {
				t.Errorf("handled %v, error %v", types, err)
			}
		}
	}
	c, err := consumer.New(proxy, "proxied", "proxied", consumer.Each(func(context.Context, mdb.Message) error { panic("not reached") }), consumer.StateIn(shards[0].Pool()))
	if err != nil {
		t.Fatal(err)
	}
	var setup *mdb.SetupError
	if err := c.CatchUp(t.Context()); !errors.As(err, &setup) || !strings.Contains(setup.Problem, "PL/Proxy") {
		t.Errorf("got error %v, want a SetupError that says why", err)
	}
}

func storeOf(t *testing.T, url string) *mdb.Store {
	t.Helper()
	s, err := mdb.New(directPool(t, url))
	if err != nil {
		t.Fatal(err)
	}
	return s
}
