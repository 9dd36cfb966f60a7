package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// A consumer that greets whoever signs up. It continues where it was after a restart, and other
// processes can run it at the same time. Run blocks until its context ends.
func Example() {
	ctx, stop := context.WithCancelCause(context.Background())
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if err := schema.InstallConsumers(ctx, store.Pool()); err != nil { // when it is deployed
		log.Panic(err)
	}
	if _, err := store.WriteMessage(ctx, "signup-ann", mdb.NewMessage("SignedUp", nil)); err != nil {
		log.Panic(err)
	}

	welcome := func(_ context.Context, m mdb.Message) error {
		fmt.Println("welcome,", m.Stream.ID())
		stop(errors.New("shutdown")) // for this example
		return nil
	}

	greeter, err := consumer.New(store, "greeter", "signup", consumer.Each(welcome))
	if err != nil {
		log.Panic(err)
	}
	err = greeter.Run(ctx)
	fmt.Println("ended:", err)
}

// A process manager reads the payments of an order, and requests the shipment when the order is
// paid. What it reads, what it writes and its checkpoint are one transaction, so it requests
// each shipment exactly once.
func ExampleEachTx_processManager() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	type paid struct{ Amount, Price int }
	for _, amount := range []int{60, 30, 10} {
		if _, err := store.WriteMessage(ctx, "paidorder-7", mdb.NewMessage("Paid", paid{amount, 100})); err != nil {
			log.Panic(err)
		}
	}

	manage := func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
		sum, price := 0, 0
		messages := store.WithTx(tx)
		for earlier, err := range messages.StreamMessages(ctx, m.Stream) {
			if err != nil {
				return err
			}
			if earlier.Position > m.Position { // it has a call of its own
				break
			}
			var p paid
			if err := earlier.Decode(&p); err != nil {
				return consumer.Permanent(err)
			}
			sum, price = sum+p.Amount, p.Price
		}
		fmt.Printf("%d of %d paid\n", sum, price)
		if sum < price {
			return nil
		}
		shipment := mdb.Category("shipment").Stream(m.Stream.ID())
		_, err := messages.WriteMessage(ctx, shipment, mdb.NewMessage("ShipmentRequested", nil))
		return err
	}
	manager, err := consumer.New(store, "shipping", "paidorder", consumer.EachTx(manage))
	if err != nil {
		log.Panic(err)
	}
	if err := manager.CatchUp(ctx); err != nil { // a service calls Run
		log.Panic(err)
	}
	version, err := store.StreamVersion(ctx, "shipment-7")
	fmt.Println("the last position of the shipment:", version, err)
}

// A provider of emails accepts a key with each request, and sends no email twice for a key.
type provider struct{ keys map[uuid.UUID]bool }

type tooManyError struct{ after time.Duration }

func (e *tooManyError) Error() string { return "too many requests" }

var (
	errNoSuchAddress = errors.New("no such address")
	errProviderDown  = errors.New("the provider is down")
)

func (p *provider) send(_ context.Context, key uuid.UUID, address string) error {
	switch {
	case address == "bob@":
		return errNoSuchAddress
	case len(p.keys) == 0:
		p.keys = map[uuid.UUID]bool{key: true}
		return &tooManyError{10 * time.Millisecond}
	}
	p.keys[key] = true
	fmt.Println("an email to", address)
	return nil
}

// A handler that sends emails. It may be called again for a message after a crash, so it passes
// the provider a key that is the same in every call. It says what each error means: whether to
// retry, when, and whether the message is the reason.
func ExampleDelivery_ID() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	type invited struct{ Address string }
	for _, address := range []string{"ann@example.com", "bob@", "cid@example.com"} {
		stream := mdb.Category("invitation").Stream(uuid.NewString())
		if _, err := store.WriteMessage(ctx, stream, mdb.NewMessage("Invited", invited{address})); err != nil {
			log.Panic(err)
		}
	}

	var emails provider
	send := func(ctx context.Context, m mdb.Message) error {
		var i invited
		if err := m.Decode(&i); err != nil {
			return consumer.Permanent(err)
		}
		err := emails.send(ctx, consumer.FromContext(ctx).ID(0), i.Address)
		tooMany := new(tooManyError)
		switch {
		case errors.As(err, &tooMany):
			return consumer.RetryAfter(consumer.Transient(err), tooMany.after)
		case errors.Is(err, errProviderDown):
			return consumer.Transient(err) // every message fails, so no message is the reason
		case errors.Is(err, errNoSuchAddress):
			return consumer.Permanent(err) // parked, until somebody has looked
		}
		return err // retried, and parked if that does not help
	}
	mailer, err := consumer.New(store, "mailer", "invitation", consumer.Each(send),
		consumer.InOrder()) // so that the output of this example is always the same
	if err != nil {
		log.Panic(err)
	}
	if err := mailer.CatchUp(ctx); err != nil { // a service calls Run
		log.Panic(err)
	}
	stats := mailer.Stats()
	fmt.Println("handled:", stats.Handled, "parked:", stats.Parked)
}

// Run ends when the process receives a signal, or because of an error that a retry cannot
// change. Then exit, and let the supervisor start the process again.
func ExampleConsumer_Run() {
	ctx, stop := context.WithCancelCause(context.Background()) // a service uses signal.NotifyContext
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if _, err := store.WriteMessage(ctx, "visitor-ann", mdb.NewMessage("Came", nil)); err != nil {
		log.Panic(err)
	}
	handle := func(context.Context, mdb.Message) error {
		stop(errors.New("SIGTERM"))
		return nil // it is finished before Run returns
	}
	c, err := consumer.New(store, "visits", "visitor", consumer.Each(handle),
		consumer.WithInstance(os.Getenv("POD_NAME")), consumer.WithDrainTimeout(20*time.Second))
	if err != nil {
		log.Panic(err)
	}
	if err := c.Run(ctx); ctx.Err() == nil {
		log.Panic(err)
	}
	fmt.Println("shut down:", context.Cause(ctx), "handled:", c.Stats().Handled)
}
