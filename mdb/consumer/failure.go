package consumer

import (
	"errors"
	"fmt"
	"time"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/mdb"
)

// attemptsInPlace is the number of calls of a handler with a message before it is parked.
const attemptsInPlace = 6

// patient is the wait between calls with the same message.
var patient = backoff.Policy{Min: 100 * time.Millisecond, Max: time.Minute}

// A BatchError names the message of a batch that could not be handled. A handler of a batch
// returns it, so that only this message is retried and parked. Without it, the batch is
// divided until one message fails alone.
type BatchError struct {
	// Index is the message's index in the batch.
	Index int
	// Err says why it could not be handled. It may be wrapped by Permanent, Skip and the
	// like.
	Err error
}

func (e *BatchError) Error() string {
	return fmt.Sprintf("message %d of the batch: %v", e.Index, e.Err)
}

// Unwrap returns Err.
func (e *BatchError) Unwrap() error { return e.Err }

// A verdict is what a handler says about its error.
type verdict struct {
	what  what
	after time.Duration // of a retry
	err   error
}

func (e *verdict) Error() string { return e.err.Error() }
func (e *verdict) Unwrap() error { return e.err }

// what happens to a message.
type what int

const (
	byDefault what = iota
	toRetry
	toWait // retry without counting
	toPark
	toSkip
	toStop
)

// said returns what the outermost verdict of an error says, and the wait of RetryAfter, with
// which it may be combined.
func said(err error) (w what, after time.Duration) {
	for v := (*verdict)(nil); errors.As(err, &v); err = v.err {
		if v.what != toRetry {
			return v.what, after
		}
		if w == byDefault {
			w, after = toRetry, v.after
		}
	}
	return w, after
}

func wrap(err error, what what, after time.Duration) error {
	if err == nil {
		return nil
	}
	return &verdict{what, after, err}
}

// Permanent wraps an error that further attempts cannot change, such as that of a message that
// cannot be decoded. The message is parked immediately. It is replayed as others are, because
// another version of the program may handle it. Like the other functions of its kind, Permanent
// returns nil if err is nil.
func Permanent(err error) error { return wrap(err, toPark, 0) }

// Transient wraps an error that has nothing to do with the message, such as an outage of
// another service. The message is retried for as long as the handler returns such errors, with
// waits of up to a minute, and is not parked. Others wait meanwhile, see [Failure.Retry]. Such
// failures do not count as attempts.
func Transient(err error) error { return wrap(err, toWait, 0) }

// Skip wraps an error after which the message counts as handled. The message is logged, and
// counted in [Stats].
func Skip(err error) error { return wrap(err, toSkip, 0) }

// Stop wraps an error that ends the consumer in this process. Run returns it in a
// [*mdb.HandlerError]. The message is delivered again: here when the consumer next runs, or in
// another process that runs it.
func Stop(err error) error { return wrap(err, toStop, 0) }

// RetryAfter wraps an error after which the message is retried after d instead of the usual
// wait. Others wait meanwhile, see [Failure.Retry]. The failure counts as an attempt,
// unless err is one of [Transient].
func RetryAfter(err error, d time.Duration) error { return wrap(err, toRetry, max(d, 0)) }

// A Failure is a failed attempt to handle a message.
type Failure struct {
	// Message is the message that could not be handled.
	Message mdb.Message
	// Partition is the number of its partition.
	Partition int
	// Attempt is the number of attempts that have failed, including this one, since this
	// process began with the message. Errors wrapped by [Transient] do not count. Nor do the
	// first serialization failures, deadlocks and lost connections in a row.
	Attempt int
	// Replayed is true if the message is of a parked stream that is being replayed. Then Attempt
	// also counts the attempts before it was parked. After [Failure.Retry] and [Failure.Park] the
	// stream remains parked, and is replayed later: after the time that was passed to Retry, or
	// else as the schedule of [Failure.Default] says.
	Replayed bool
	// Err is the error that the handler returned, or a [*mdb.PanicError].
	Err error

	alone     bool // it is parked without those after it
	keyParked bool // something of its key is parked already
}

// An Action says what happens to a message that could not be handled. The methods of
// [Failure] return actions. The zero value is that of [Failure.Default].
type Action struct {
	what  what
	after time.Duration // of a retry; 0 is the usual wait
}

// Retry returns the action that calls the handler again after d, or after the usual wait
// if d is 0. Until then, messages wait that have the same cardinal ID, with [Each], or are of the
// same partition, with the other forms.
func (f Failure) Retry(d time.Duration) Action { return Action{toRetry, max(d, 0)} }

// Park returns the action that parks the message's stream: the message and those after it are
// not handled until they are replayed, and the consumer continues with other streams. While the
// limit of [MaxParked] is reached, the message is retried instead.
func (f Failure) Park() Action { return Action{what: toPark} }

// Skip returns the action after which the message counts as handled, as after [Skip].
func (f Failure) Skip() Action { return Action{what: toSkip} }

// Stop returns the action that ends the consumer in this process, as after [Stop].
func (f Failure) Stop() Action { return Action{what: toStop} }

// Default returns the action of a consumer without OnFailure: what the handler has said
// with [Permanent], [Skip], [Stop] or [RetryAfter], or else a retry after 100 ms, and
// after twice as long each further time, up to 1.6 s, and [Failure.Park] after the sixth
// attempt. All waits vary at random.
//
// A parked stream is replayed after a minute. If that fails, it is replayed after 5 minutes more,
// then after 30 minutes, 2, 8 and 24 hours. After that it is replayed only if [Consumer.Replay] is
// called.
func (f Failure) Default() Action {
	what, after := said(f.Err)
	switch {
	case what != byDefault && what != toRetry && what != toWait:
		return Action{what: what}
	case f.Attempt >= attemptsInPlace:
		return Action{what: toPark}
	}
	return Action{toRetry, after}
}
