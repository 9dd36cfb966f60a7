// Package trial gives package consumertest what it needs of package consumer and what that
// does not export.
package trial

import (
	"context"

	"github.com/messagedb-go/messagedb/mdb"
)

// An Event is what has happened to a message whose handling has failed.
type Event int

const (
	// Failed is an attempt that has failed and counts as one.
	Failed Event = iota
	// Skipped is that the message counts as handled.
	Skipped
	// Parked is that the message's stream is parked.
	Parked
	// Waiting is that the message was retried too often, and is not handled.
	Waiting
)

// A Memory runs a handler over messages in memory. One goroutine at a time may use it.
type Memory interface {
	// Write adds a message. Its global position is greater than those before it.
	Write(m mdb.Message)
	// CatchUp calls the handler for the messages that are not done with, until each is
	// handled, skipped, parked or waits. It returns how many were handled. The error is that
	// which has stopped the consumer.
	CatchUp(ctx context.Context) (handled int, err error)
	// Replay calls the handler for the messages of parked streams, as CatchUp does, or of all
	// of them if none is given. known is false if one of the streams is not parked.
	Replay(ctx context.Context, streams []mdb.StreamName) (handled int, known bool, err error)
	// Redeliver makes all messages as if they were not handled.
	Redeliver()
}

// Variables that package consumer sets. Their types name it, which this package cannot.
var (
	// InMemory is a
	//
	//	func(h consumer.Handler, opts []consumer.Option, report func(Event, consumer.Failure)) (Memory, error)
	InMemory any
	// CatchUp is a
	//
	//	func(ctx context.Context, c *consumer.Consumer, report func(Event, consumer.Failure)) error
	//
	// that does not wait between attempts. report may be called by several goroutines.
	CatchUp any
)
