package mdb

import (
	"fmt"
	"time"

	"github.com/google/uuid"
)

// A Fork describes messages that a subscription has handled and that are no longer in the
// store, see [OnFork].
type Fork struct {
	// Category is the category of the subscription, or that of its stream.
	Category Category
	// Stream is the stream of a subscription to a stream, and otherwise empty.
	Stream StreamName
	// After is the position of the newest known message that is still there. The
	// subscription goes on after it. It is a global position for a category.
	After int64
	// Missing are the messages that are no longer there, in ascending order: those that
	// this call has handled, as far as it remembers them, and those that the checkpoint
	// from which it started contains. There may be others that only an earlier call knew.
	Missing []MissingMessage
}

// A MissingMessage is a message that was read and is no longer in the store.
type MissingMessage struct {
	// Position is the message's position in the stream, or for a category its global
	// position. Another message may be there now.
	Position int64
	// ID is the message's ID.
	ID uuid.UUID
	// Time is the start of the transaction that wrote the message, in UTC.
	Time time.Time
}

// A ForkError means that none of the messages that a subscription knows is in the store, so
// that it cannot go on: the store was emptied, is another one, or has lost more messages
// than the subscription or its checkpoint knows. Fork.After is the position before the first
// message. Find out what happened, and then start from the beginning or from another
// position.
type ForkError struct{ Fork }

func (e *ForkError) Error() string {
	what := "category " + string(e.Category)
	if e.Stream != "" {
		what = "stream " + string(e.Stream)
	}
	if len(e.Missing) == 0 {
		return "mdb: none of the messages of " + what + " that were read is in the store"
	}
	return fmt.Sprintf("mdb: none of the messages of %s that were read is in the store, the last of them at position %d with ID %s",
		what, e.Missing[len(e.Missing)-1].Position, e.Missing[len(e.Missing)-1].ID)
}

// An AheadError means that a subscription should start from a position that no message of
// the store has reached: the position was stored with another store, or the store was
// restored to an earlier moment. A subscription that started there would skip messages. A
// standby, and a role that may not read the sequence of global positions, do not report it.
type AheadError struct {
	// Category is the category of the subscription.
	Category Category
	// Position is the global position after which it should start.
	Position int64
	// Last is the last global position that the store has used, in any category.
	Last int64
}

func (e *AheadError) Error() string {
	return fmt.Sprintf("mdb: a subscription to category %s should start after global position %d, but the store has only reached %d",
		e.Category, e.Position, e.Last)
}
