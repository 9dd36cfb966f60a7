package consumer

import (
	"context"
	"errors"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
)

type partition = ledger.Partition

// A delivery is a message and what is known of its handling.
type delivery struct {
	message   mdb.Message
	partition partition
	epoch     int64
	key       string // the cardinal ID
	attempt   int    // 1 for the first call of the handler
	replayed  bool
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
	// The deliveries must not be changed, or kept after the call.
	call func(ctx context.Context, c call) (done int, err error)

	// moves says that call moves the checkpoint to the position of the last delivery that is
	// done with, in its own transaction.
	moves bool
}

// A call is what a form handles.
type call struct {
	deliveries []delivery // at least one
	from       ledger.Move
	member     ledger.Member // set by forms, not by the engine
}

type engineConfig struct {
	form     form
	workers  int   // 0: 1
	maxBytes int64 // of messages in memory; 0: 64 MiB
	queue    int   // messages of a partition in memory; 0: 2,000
	inOrder  bool  // one call at a time, in the order of feed

	// maxParked is the number of keys of the claimed partitions that may be parked. Beyond
	// it, and when park returns an error that wraps errParkedFull, messages are retried in
	// place.
	maxParked int

	// policy decides about failures; nil: Failure.Default. If it panics, the consumer stops.
	policy func(f Failure) Action

	// park records that the delivery's stream waits from its message on. f.Attempt is 0 if
	// it was not handled, because another stream with its key is parked. It is retried until
	// it returns nil, the partition is gone, or an error for which ledger.IsFenced is true.
	park func(ctx context.Context, d *delivery, f Failure) error

	// mayBegin returns nil, or why no handler may be called. It is called before each call.
	// After an error, stored lets the engine ask again.
	mayBegin func() error

	// changed is called, without locks and by any goroutine, when a partition has room
	// again, is drained, or was fenced. It must not block.
	changed func()

	// decided is called when it was decided what happens to a message that has failed. It
	// must not block. It may be nil.
	decided func(f Failure, a Action)
}

// errParkedFull is returned by park if the consumer has too many parked keys.
var errParkedFull = errors.New("too many keys are parked")

// An engine calls a form's handlers for the messages of partitions. Its methods are safe
// for concurrent use.
type engine struct{ config engineConfig }

func newEngine(c engineConfig) *engine { return &engine{config: c} }

// claim begins a partition at the row's position, with what is parked of it. It does
// nothing if the partition is there with the row's epoch. With another epoch it is
// forgotten first. If handlers of the forgotten one are still running, those of the
// partition are called after they have returned.
func (e *engine) claim(row ledger.Row, parked []ledger.Parked) {}

// feed adds messages of the partition, in the order of their global positions. They are
// copied. end is how far the partition is read now, beyond messages of others too. Nothing
// is added if the partition is not there with the epoch, or was surrendered.
func (e *engine) feed(p partition, epoch int64, ms []mdb.Message, end source.Checkpoint) {}

// room reports whether the partition has room for another page. If not, changed is called
// when it has. Once the engine has said no, it says no until then.
func (e *engine) room(p partition) bool { return false }

// progress returns how far the checkpoints can be moved: per partition, up to where
// everything is done with. The caller must settle each move by stored, refused or kept.
// Until then its partition is not offered again, and no transaction that moves its
// checkpoint begins. A partition in which one runs is left out.
func (e *engine) progress() []ledger.Move { return nil }

// stored settles moves that were made. Call it after each successful tick, also without
// moves, so that handlers are called again that mayBegin has stopped.
func (e *engine) stored(moves []ledger.Move) {}

// kept settles moves that were surely not made, and may be offered again.
func (e *engine) kept(moves []ledger.Move) {}

// refused settles moves that the fence has refused: their partitions are forgotten, and
// the contexts of their handlers end with the cause. The caller reads the rows, and claims
// those that are still its own.
func (e *engine) refused(moves []ledger.Move, cause error) {}

// fenced returns partitions that have stopped because the fence has refused a form's move
// or a park, once each. The caller reads their rows, and forgets or claims them: a claim
// with the same epoch begins such a partition again.
func (e *engine) fenced() []partition { return nil }

// surrender stops partitions: messages that no handler has are forgotten. A message is
// still handled if a later one of the partition has been, or is being, so that the next
// owner repeats none.
func (e *engine) surrender(ps []partition) {}

// drained returns the surrendered partitions of which nothing is left to be handled, with
// their last moves, and forgets them. To is From if nothing is to be moved.
func (e *engine) drained() []ledger.Move { return nil }

// drop forgets partitions. The contexts of their handlers end with the cause. What these
// handlers return is ignored.
func (e *engine) drop(ps []partition, cause error) {}

// forget drops all partitions. It does not wait.
func (e *engine) forget(cause error) {}

// run calls handlers until ctx ends or a failure stops the consumer, which it returns as a
// *mdb.HandlerError, or else the cause of ctx. Handlers' contexts are derived from ctx, and
// end with the failure too. run returns after all handlers have returned; what they have
// done is in progress then. It may be called once.
func (e *engine) run(ctx context.Context) error { return nil }

// stats are counts since the engine's beginning, and what it contains now.
type engineStats struct {
	handled, failed, retried, parked, skipped int64 // messages
	messages                                  int   // in memory
	bytes                                     int64 // of these, about
	running                                   int   // calls of handlers
	waiting                                   int   // lanes that wait for a retry
	parkedKeys                                int   // of the partitions
	full                                      bool  // maxParked is reached
}

func (e *engine) stats() engineStats { return engineStats{} }
