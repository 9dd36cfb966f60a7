package consumer

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

type partition = ledger.Partition

// A delivery is a message and what is known of its handling.
type delivery struct {
	message   mdb.Message
	partition partition
	epoch     int64
	key       string    // the cardinal ID
	attempt   int       // 1 for the first call of the handler
	replayed  *replayed // nil if it comes from the live flow

	unreadable *mdb.UnreadableError // why the message cannot be read, apart from what is known of it; or nil
}

// A replayed says where a message of a parked stream comes from.
type replayed struct {
	from int64 // the position at which the stream is parked until the message is handled
	ends bool  // nothing of the stream is parked then
}

// A form says how messages are handled.
type form struct {
	// lane names what order is kept within, in a partition: messages of one lane are handled
	// in order, by one call at a time. If it is nil, all messages of a partition are one
	// lane, as forms that move the checkpoint need it.
	lane func(d *delivery) string

	// most is the number of messages of one call, at most.
	most int

	// call handles messages of one lane and partition. done counts those from the front that
	// are done with, and committed if there is a transaction. err, if not nil, is of the
	// others, of which a *BatchError names the one. Its index is that in the call's
	// deliveries. If more than one is left and there is no BatchError, the engine searches
	// for it with smaller calls.
	//
	// An error for which ledger.IsFenced is true is not one of a message: the partition is
	// no longer this member's, or has another position. It stops until the member has
	// looked.
	//
	// A form that calls several handlers asks the call's mayBegin before each of them. If it may not call the first one,
	// it returns errNotBegun.
	//
	// The deliveries must not be changed, or kept after the call.
	call func(ctx context.Context, c call) (done int, err error)

	// moves says that call moves the checkpoint to the position of the last delivery that is
	// done with, in its own transaction.
	moves bool
}

// A call is what a form handles.
type call struct {
	deliveries []delivery    // at least one
	from       ledger.Move   // if the deliveries are replayed, its To is where the checkpoint is moved
	member     ledger.Member // set by forms, not by the engine
	upto       *atomic.Int64 // no handler may be called for a message after it, see mayBegin; nil: no limit
}

type engineConfig struct {
	form     form
	workers  int           // 0: 1
	maxBytes int64         // of messages in memory; 0: 64 MiB
	queue    int           // messages of a partition in memory; 0: 2,000, or 16,000 if calls have several
	inOrder  bool          // one call at a time, in the order of feed
	maxWait  time.Duration // between the calls of a lane; 0: no limit

	// maxParked is the number of keys of the claimed partitions that may be parked. Beyond
	// it, and when park returns an error that wraps errParkedFull, messages are retried in
	// place.
	maxParked int

	// policy decides about failures; nil: Failure.Default. If it panics, the consumer stops.
	policy func(f Failure) Action

	// park records that the delivery's stream waits from its message on. f.Attempt is 0 if
	// it was not handled, because another stream with its key is parked. It is retried until
	// it returns nil, the partition is gone, or an error for which ledger.IsFenced is true, or which does
	// not say whether it is done: then the partition stops until its row is read by a new epoch. If
	// the form moves the checkpoint, move is that to the message, in the same transaction.
	// Otherwise an earlier call whose outcome is unknown could still be committed, and the
	// message would be both handled and parked.
	park func(ctx context.Context, d *delivery, f Failure, move *ledger.Move) error

	// parkAlone is how many messages of a key are parked alone, those whose f.alone is true. The next one is parked with those
	// after it: otherwise a key of which all messages fail would have a row for each.
	parkAlone int

	// errorText returns what is stored of an error; nil: its type.
	errorText func(error) string

	// mayBegin returns nil, or why no handler may be called. It is called before each call.
	// After an error, stored lets the engine ask again.
	mayBegin func() error

	// replays is what the engine needs to replay parked streams. If it is nil, it does not.
	replays replays

	// changed is called, without locks and by any goroutine, when a partition has room
	// again, is drained, or was fenced. It must not block.
	changed func()

	// decided is called when it was decided what happens to a message that has failed. It
	// must not block. It may be nil.
	decided func(f Failure, a Action)
}

// errParkedFull is returned by park if the consumer has too many parked keys.
var errParkedFull = errors.New("too many keys are parked")

// stats are counts since the engine's beginning, and what it contains now.
type engineStats struct {
	handled, failed, retried, parked, skipped, replayed int64 // messages
	messages                                            int   // in memory
	bytes                                               int64 // of these, about
	running                                             int   // calls of handlers
	waiting                                             int   // lanes that wait for a retry
	parkedKeys                                          int   // of the partitions
	full                                                bool  // maxParked is reached
	crowded                                             int   // partitions without room
	oldest                                              time.Time
}
