package mdb

import (
	"fmt"
	"time"

	"github.com/google/uuid"
)

// A Fork describes the messages that a subscription has handled and that are no longer in the
// store, see [OnFork].
type Fork struct {
	// Category is the category of the subscription, or that of its stream. It is empty for a
	// subscription to all categories.
	Category Category
	// Stream is the stream of a subscription to a stream, and otherwise empty.
	Stream StreamName
	// After is the position after which the subscription continues: that of the newest known
	// message that is still there. It is a global position for a category and for all. For all, it
	// may be greater than those of missing messages.
	After int64
	// Missing are the messages that are no longer there, in ascending order: those that this
	// call has handled, as far as it remembers them, and those that the checkpoint contains
	// from which it started. Others, between the messages of the checkpoint, may be missing,
	// too. It is empty if only messages are gone that a filter has left out.
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
// that there is none to continue after: they were deleted, the store is another one, or it has
// lost more messages than the subscription or its checkpoint knows. A call with the same
// checkpoint fails in the same way. Find out what happened, and then start without a
// checkpoint, from the beginning or from a position. Missing contains the known messages, and
// After is the position before the first message of a store: [NoStream] for a stream, and 0
// for a category.
type ForkError struct{ Fork }

// subscribed says what a subscription is to.
func subscribed(category Category, stream StreamName) string {
	switch {
	case stream != "":
		return "stream " + string(stream)
	case category != "":
		return "category " + string(category)
	}
	return allName
}

func (e *ForkError) Error() string {
	what := subscribed(e.Category, e.Stream)
	if len(e.Missing) == 0 {
		return "mdb: none of the messages of " + what + " that were read is in the store"
	}
	return fmt.Sprintf("mdb: none of the messages of %s that were read is in the store, the last of them at position %d with ID %s",
		what, e.Missing[len(e.Missing)-1].Position, e.Missing[len(e.Missing)-1].ID)
}

// An AheadError means that a subscription should start after a position that has not been used
// yet: it comes from another store, or the store was restored to an earlier moment, or has
// failed over. The subscription would skip the messages that get the positions up to it.
//
// A global position after the last message of the category is no error, as long as the store
// has used it, for a message of any category. A position after the last message of a stream
// is an error, also if the messages up to it were deleted. There is no such error on a standby,
// or for a role that may not read what shows it: the sequence of global positions, or, for a
// stream, the table.
type AheadError struct {
	// Category is the category of the subscription. It is empty if that is to all categories.
	Category Category
	// Stream is the stream of the subscription. It is empty if that is to a category, or to all.
	Stream StreamName
	// Position is the position after which it should start: a global position, or a position
	// in the stream.
	Position int64
	// Last is the last global position that the store has used, in any category, or the
	// position of the stream's last message, [NoStream] if there is none.
	Last int64
}

func (e *AheadError) Error() string {
	if e.Stream != "" {
		return fmt.Sprintf("mdb: a subscription to stream %s should start after position %d, but the stream has only reached %d",
			e.Stream, e.Position, e.Last)
	}
	return fmt.Sprintf("mdb: a subscription to %s should start after global position %d, but the store has only reached %d",
		subscribed(e.Category, e.Stream), e.Position, e.Last)
}
