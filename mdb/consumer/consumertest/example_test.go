package consumertest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/consumer/consumertest"
)

// A welcomer is code of a service: a handler that sends emails.
type welcomer struct {
	send func(address string) error
}

type signedUp struct{ Address string }

var errBadAddress = errors.New("no such address")

func (w *welcomer) handle(_ context.Context, m mdb.Message) error {
	var s signedUp
	if err := m.Decode(&s); err != nil {
		return consumer.Permanent(err)
	}
	err := w.send(s.Address)
	if errors.Is(err, errBadAddress) {
		return consumer.Permanent(err)
	}
	return err
}

// TestWelcomer is a test of the service. It needs no server.
func TestWelcomer(t *testing.T) {
	var sent []string
	bad := true
	w := welcomer{send: func(address string) error {
		if address == "bob@" && bad {
			return errBadAddress
		}
		sent = append(sent, address)
		return nil
	}}
	c := consumertest.New(t, consumer.Each(w.handle))
	c.Write("signup-ann", mdb.NewMessage("SignedUp", signedUp{"ann@example.com"}))
	c.Write("signup-bob", mdb.NewMessage("SignedUp", signedUp{"bob@"}))

	r := c.CatchUp()
	if r.Handled != 1 || len(r.Parked) != 1 || !errors.Is(r.Parked[0].Err, errBadAddress) {
		t.Fatalf("got %v", r)
	}
	bad = false
	if r := c.Replay("signup-bob"); r.Handled != 1 {
		t.Fatalf("got %v", r)
	}
	if len(sent) != 2 {
		t.Errorf("sent to %q", sent)
	}
}

// TestSeen is a test of the service with a real store.
func TestSeen(t *testing.T) {
	t.Parallel()
	store := withConsumers.Store(t)
	c, err := consumer.New(store, "seen", "page", consumer.EachTx(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
		_, err := tx.Exec(ctx, "INSERT INTO public.seen VALUES ($1, $2)", m.Stream, m.Position)
		return err
	}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.WriteMessage(t.Context(), "page-home", mdb.NewMessage("Visited", nil)); err != nil {
		t.Fatal(err)
	}
	if r := consumertest.CatchUp(t, c); r.Handled != 1 || len(r.Failures) > 0 {
		t.Fatalf("got %v", r)
	}
	var n int
	if err := store.Pool().QueryRow(t.Context(), "SELECT count(*) FROM public.seen").Scan(&n); err != nil || n != 1 {
		t.Errorf("got %d, %v", n, err)
	}
}

var t *testing.T // the argument of the test function that an example stands for

// TestExamples runs the examples, which need a test.
func TestExamples(test *testing.T) {
	t = test
	ExampleNew()
	ExampleConsumer_Redeliver()
	ExampleCatchUp()
}

// A message whose address is wrong is parked, and the others are handled.
func ExampleNew() {
	w := welcomer{send: func(address string) error {
		if address == "bob@" {
			return errBadAddress
		}
		return nil
	}}
	c := consumertest.New(t, consumer.Each(w.handle))
	c.Write("signup-ann", mdb.NewMessage("SignedUp", signedUp{"ann@example.com"}))
	c.Write("signup-bob", mdb.NewMessage("SignedUp", signedUp{"bob@"}))

	r := c.CatchUp()
	if r.Handled != 1 || len(r.Parked) != 1 || !errors.Is(r.Parked[0].Err, errBadAddress) {
		t.Errorf("got %v", r)
	}
}

// A handler that is called again for the same message must not do its work twice. This one
// passes an ID to a service that ignores what it has already done.
func ExampleConsumer_Redeliver() {
	done := make(map[string]int) // of the service, by ID
	c := consumertest.New(t, consumer.Each(func(ctx context.Context, _ mdb.Message) error {
		done[consumer.FromContext(ctx).ID(0).String()]++
		return nil
	}))
	c.Write("signup-ann", mdb.NewMessage("SignedUp", nil))
	c.CatchUp()

	if r := c.Redeliver(); r.Handled != 1 || len(done) != 1 {
		t.Errorf("got %v, and %d IDs", r, len(done))
	}
}

// A consumer on a real store handles all messages that exist, and stops.
func ExampleCatchUp() {
	store := withConsumers.Store(t)
	c, err := consumer.New(store, "seen", "page", consumer.EachQueued(func(b *pgx.Batch, m mdb.Message) error {
		b.Queue("INSERT INTO public.seen VALUES ($1, $2)", m.Stream, m.Position)
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.WriteMessage(t.Context(), "page-home", mdb.NewMessage("Visited", nil)); err != nil {
		t.Fatal(err)
	}
	if r := consumertest.CatchUp(t, c); r.Handled != 1 {
		t.Errorf("got %v", r)
	}
}
