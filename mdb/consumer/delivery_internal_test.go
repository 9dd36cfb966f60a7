package consumer

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
)

// TestDelivery checks what a handler learns about its message.
func TestDelivery(t *testing.T) {
	t.Parallel()
	id := uuid.MustParse("0f7b1b1e-6f0d-4b52-8a5c-0b8f3a6d3c11")
	var got Delivery
	h := Each(func(ctx context.Context, m mdb.Message) error {
		got = FromContext(ctx)
		return nil
	})
	c := formConfig{consumer: "mailer"}
	d := delivery{message: mdb.Message{ID: id}, partition: partition{Category: "signup", Number: 3}, epoch: 7, attempt: 2, replayed: &replayed{}}
	if done, err := h.form(c).call(t.Context(), call{deliveries: []delivery{d}}); done != 1 || err != nil {
		t.Fatal(done, err)
	}
	want := Delivery{Consumer: "mailer", Partition: 3, Epoch: 7, Attempt: 2, Replayed: true, message: id}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := FromContext(t.Context()); got != (Delivery{}) {
		t.Errorf("without a handler: got %+v", got)
	}
}

// TestDeliveryID checks that an ID depends on the consumer, the message and the number, and on
// nothing else, and that it never changes: programs have written messages with these IDs.
func TestDeliveryID(t *testing.T) {
	t.Parallel()
	d := Delivery{Consumer: "mailer", Partition: 3, Epoch: 7, Attempt: 2, message: uuid.MustParse("0f7b1b1e-6f0d-4b52-8a5c-0b8f3a6d3c11")}
	first := d.ID(0)
	if first.String() != "bffbe482-d6e0-57d0-befc-19af35fb9587" || first.Version() != 5 || first.Variant() != uuid.RFC4122 {
		t.Errorf("got ID %s", first)
	}
	same, other, message := d, d, d
	same.Partition, same.Epoch, same.Attempt, same.Replayed = 4, 8, 1, true
	other.Consumer = "mailers"
	message.message[0]++
	if same.ID(0) != first {
		t.Error("the ID depends on the delivery, and not only on the message")
	}
	seen := map[uuid.UUID]bool{}
	for _, id := range []uuid.UUID{first, d.ID(1), d.ID(-1), d.ID(256), other.ID(0), message.ID(0)} {
		if seen[id] {
			t.Errorf("two things have the ID %s", id)
		}
		seen[id] = true
	}
	if err := protect(func() error { Delivery{Consumer: "mailer"}.ID(0); return nil }); err == nil {
		t.Error("a delivery of no message has an ID")
	}
}
