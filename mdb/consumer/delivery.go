package consumer

import (
	"context"
	"encoding/binary"

	"github.com/google/uuid"
)

// A Delivery says how a message came to its handler. [FromContext] returns it.
type Delivery struct {
	// Consumer is the consumer's name.
	Consumer string
	// Partition is the number of the message's partition, from 0.
	Partition int
	// Epoch is the number under which the process owns the partition. It is greater than that
	// of every owner before it. A system that handlers write to can reject a process that has
	// lost the partition without noticing: it keeps the greatest epoch of each partition, and
	// rejects smaller ones.
	Epoch int64
	// Attempt is 1 in the first call of the handler with the message, and greater in later
	// ones. It counts the calls of this process only.
	Attempt int
	// Replayed says that the message's stream was parked, and is handled again.
	Replayed bool

	message uuid.UUID
}

type deliveryKey struct{}

// FromContext returns the delivery that a handler was called for. In a handler of [Batch] or
// [BatchTx] it is that of the first message, and has no ID. Without a handler's context,
// FromContext returns the zero Delivery.
func FromContext(ctx context.Context) Delivery {
	d, _ := ctx.Value(deliveryKey{}).(Delivery)
	return d
}

// deliveryIDs is the namespace of the IDs. It must not change.
var deliveryIDs = uuid.MustParse("5d0b2a3c-7a0e-4c58-9c4e-0f6f0d4d6b1e")

// ID returns an ID for the i-th thing that the handler makes of the message. It depends on the
// consumer's name, the message's ID and i only, so it is the same in every delivery of the
// message, in every process. As the ID of a message that is written with [mdb.Idempotent], it
// makes a handler of [Each] write the message once, even if it is called again.
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

func (c *formConfig) context(ctx context.Context, d *delivery) context.Context {
	return context.WithValue(ctx, deliveryKey{}, Delivery{c.consumer, d.partition.Number, d.epoch, d.attempt, d.replayed, d.message.ID})
}

func (c *formConfig) batchContext(ctx context.Context, ds []delivery) context.Context {
	first := ds[0]
	first.message.ID = uuid.Nil
	return c.context(ctx, &first)
}
