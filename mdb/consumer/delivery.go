package consumer

import (
	"context"
	"encoding/binary"

	"github.com/google/uuid"
)

// A Delivery describes one call of a handler. [FromContext] returns it.
type Delivery struct {
	// Consumer is the consumer's name.
	Consumer string
	// Partition is the number of the message's partition, from 0.
	Partition int
	// Epoch is a fencing token: each owner of the partition has a greater one than those before
	// it. A system that stores the greatest epoch of each partition, and rejects writes with a
	// smaller one, is safe from a process that has lost the partition and has not noticed yet.
	Epoch int64
	// Attempt is 1 in the first call of the handler with the message, and greater in later
	// ones. It counts the calls of this process only, and, if the message was parked, also the
	// attempts before that.
	Attempt int
	// Replayed is true if the message is of a parked stream that is being replayed.
	Replayed bool

	message uuid.UUID
}

type deliveryKey struct{}

// FromContext returns the delivery of a handler's context. In a handler of [Batch] or [BatchTx]
// it is that of the first message, and has no ID. Of another context, it returns the zero
// Delivery.
func FromContext(ctx context.Context) Delivery {
	d, _ := ctx.Value(deliveryKey{}).(Delivery)
	return d
}

// deliveryIDs is the namespace of the IDs. It must not change.
var deliveryIDs = uuid.MustParse("5d0b2a3c-7a0e-4c58-9c4e-0f6f0d4d6b1e")

// ID returns an ID for the i-th effect of the message, such as a message that the handler writes
// or a request that it sends. It depends on the consumer's name, the message's ID and i only, so
// it is the same in every delivery of the message, in every process. A handler of [Each] that
// writes a message with this ID and with [mdb.Idempotent] writes it once, even if it is called
// again. The name is the one that [New] was given, so it changes if the program is deployed with
// another name after the consumer was renamed.
//
// ID panics if the delivery is not that of one message, see [FromContext].
func (d Delivery) ID(i int) uuid.UUID {
	if d.message == uuid.Nil {
		panic("consumer: ID of a Delivery that is not that of one message")
	}
	name := make([]byte, 0, len(d.message)+8+len(d.Consumer))
	name = append(name, d.message[:]...)
	name = binary.BigEndian.AppendUint64(name, uint64(i)) // any number has its own ID
	name = append(name, d.Consumer...)
	return uuid.NewSHA1(deliveryIDs, name)
}

// A deliveryContext is the context of a call. It costs one allocation, and that of
// context.WithValue two.
type deliveryContext struct {
	context.Context //nolint:containedctx // it is one

	delivery Delivery
}

func (c *deliveryContext) Value(key any) any {
	if key == (deliveryKey{}) {
		return c.delivery
	}
	return c.Context.Value(key)
}

func (c *formConfig) context(ctx context.Context, d *delivery) context.Context {
	return &deliveryContext{ctx, Delivery{c.consumer, d.partition.Number, d.epoch, d.attempt, d.replayed != nil, d.message.ID}}
}

func (c *formConfig) batchContext(ctx context.Context, ds []delivery) context.Context {
	first := ds[0]
	first.message.ID = uuid.Nil
	return c.context(ctx, &first)
}
