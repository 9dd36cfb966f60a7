package mdb

import (
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/google/uuid"
)

var (
	// ErrNoMessage is wrapped by the error of GetLastStreamMessage, and of other methods that
	// return one message, if there is no such message. The error says which.
	ErrNoMessage = errors.New("mdb: no message")

	// ErrNoStream is wrapped by the error of a read with [RequireStream] if the stream has
	// no messages. The error names the stream.
	ErrNoStream = errors.New("mdb: no such stream")

	// ErrUnavailable is wrapped by the error of a write, or of [Store.Atomically], if the
	// server could not be reached, or was read-only, for as long as [RetryPolicy].For says.
	// Nothing was written. A web service may answer 503 Service Unavailable. The error also
	// wraps the last failure, and says how long the call was retried.
	//
	// If the write may have been sent in any attempt, the error is an [*UnknownOutcomeError]
	// instead. If the context ends first, the error is the context's.
	ErrUnavailable = errors.New("mdb: the server is unavailable")

	// ErrProxied is wrapped by the error of a call that would lose its guarantee through
	// PL/Proxy, in a database whose write_message is a function of PL/Proxy. Nothing was sent.
	// These calls are [Store.Atomically], writes of a [Tx], [Tx.LockCategories], reads of all categories, GetMessage,
	// GetLastCategoryMessage, reads with [Since] or [Backwards], and all calls of a Store with [WithDirectSQL] or
	// [WithReplica]. If the proxy lacks the functions that mdb proxy-sql prints, so are WriteMessages with more than one
	// message, and what [Store.Check] reports. The error says why.
	ErrProxied = errors.New("mdb: not possible through PL/Proxy")
)

// An ArgumentError lists everything that is wrong with the arguments of a call. Nothing
// was sent to the server.
type ArgumentError struct {
	// Faults has at least one element, in the order of the arguments.
	Faults []Fault
}

// A Fault is a problem with one argument. It never contains a payload.
type Fault struct {
	// Argument names the argument, such as "batch size".
	Argument string
	// Given is what was given.
	Given string
	// Allowed describes the valid values.
	Allowed string
}

func (e *ArgumentError) Error() string {
	faults := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		faults[i] = fmt.Sprintf("%s: got %s, want %s", f.Argument, f.Given, f.Allowed)
	}
	return "mdb: " + strings.Join(faults, "; ")
}

// A WrongVersionError means that the stream was not at the version that the write
// expected, because another writer was faster, or that it did not exist, see
// [ExpectStream]. Nothing was written. Read the stream's new messages and decide again.
//
// If Actual is less than a version of the stream that the caller has seen, the stream's last
// messages were deleted, or lost in a failover to a standby that had not received them. Then
// discard what you know of the stream, and read it from the beginning.
type WrongVersionError struct {
	// Stream is the stream of the write.
	Stream StreamName
	// Expected is the version that the call expected. It is -2 if it expected any version,
	// with [ExpectStream] or without an option.
	Expected int64
	// Actual is the version of the stream: the position of its last message, or
	// NoStream. It is -2 if the server did not report it, which happens in transactions
	// with an isolation level stricter than read committed. Such a transaction must be
	// restarted.
	Actual int64

	err error
}

// unknownVersion is the value of WrongVersionError.Actual if the server did not report it.
const unknownVersion int64 = -2

func (e *WrongVersionError) Error() string {
	if e.Actual == unknownVersion {
		return fmt.Sprintf("mdb: stream %s was written to by another transaction", e.Stream)
	}
	if e.Expected == anyVersion && e.Actual == NoStream {
		return fmt.Sprintf("mdb: stream %s does not exist", e.Stream)
	}
	if e.Expected == NoStream {
		return fmt.Sprintf("mdb: stream %s is at version %d, expected no stream", e.Stream, e.Actual)
	}
	return fmt.Sprintf("mdb: stream %s is at version %d, expected %d", e.Stream, e.Actual, e.Expected)
}

// Unwrap returns the server's error, a [*pgconn.PgError].
func (e *WrongVersionError) Unwrap() error { return e.err }

// A DuplicateIDError means that the store already contains a message with one of the IDs.
// With [Idempotent] it means that the messages in the store are not the same as those to be
// written, or that only some of them are there. Nothing was written.
type DuplicateIDError struct {
	// IDs are the IDs that are in the store. Within a caller's transaction, and without
	// [Idempotent], the call does not look them up, and IDs are all IDs of the call.
	IDs []uuid.UUID
	// Differs is the part in which a message in the store differs from the message with
	// its ID that was to be written: "stream", "position", "type" or "data". The position
	// differs if the messages are not consecutive, or not after the expected version. It
	// is empty if the call did not look, or if no message differs, but some are missing.
	Differs string

	differing uuid.UUID // the ID of the first message that differs
	err       error
}

func (e *DuplicateIDError) Error() string {
	var text string
	switch len(e.IDs) {
	case 0: // as a program may make one
		text = "mdb: a message with the same ID already exists"
	case 1:
		text = fmt.Sprintf("mdb: a message with ID %s already exists", e.IDs[0])
	default:
		text = fmt.Sprintf("mdb: a message with one of %d IDs already exists, the first of them %s", len(e.IDs), e.IDs[0])
	}
	switch {
	case e.Differs == "":
		return text
	case len(e.IDs) > 1 && e.differing != uuid.Nil:
		return fmt.Sprintf("%s, and that with ID %s differs in its %s", text, e.differing, e.Differs)
	}
	return text + " and differs in its " + e.Differs
}

// Unwrap returns the server's error, a [*pgconn.PgError].
func (e *DuplicateIDError) Unwrap() error { return e.err }

// An UnknownOutcomeError means that the connection was lost, or the context ended, after
// a write was sent and before its result arrived, so the write may or may not have
// happened. To find out, repeat the call with [Idempotent] and the same messages, including
// their IDs. A [*WrongVersionError] of the repeated call whose Actual is less than Expected
// does not settle it: the first call may still arrive at the server.
//
// With synchronous standbys, the error can also mean that the wait for them was cancelled:
// the message is visible, but a failover may lose it.
//
// The error can also mean that messages with the IDs exist but could not be compared, or
// that they exist in their place but differ, for example because a trigger has changed
// them. It unwraps to the context's error, if there is one.
type UnknownOutcomeError struct {
	// IDs are the IDs of the messages of the write, in order.
	IDs []uuid.UUID

	err error
}

func (e *UnknownOutcomeError) Error() string {
	if len(e.IDs) == 0 { // as a program may make one
		return "mdb: the outcome of the write is unknown"
	}
	return fmt.Sprintf("mdb: the outcome of writing %d message(s), the first with ID %s, is unknown: %v", len(e.IDs), e.IDs[0], e.err)
}

// Unwrap returns the error that interrupted the write.
func (e *UnknownOutcomeError) Unwrap() error { return e.err }

// A SkippedError means that [Store.WriteEach] skipped a write, because an earlier write
// to the same stream in the call failed. Nothing was written. It unwraps to the error of
// the earlier write, so check for it first: a [*DuplicateIDError] found by errors.As, for
// example, is about the earlier write.
type SkippedError struct {
	// Stream is the stream of the write.
	Stream StreamName
	// Failed is the index of the failed write in the call.
	Failed int

	err error
}

func (e *SkippedError) Error() string {
	return fmt.Sprintf("mdb: write to stream %s skipped, because write %d to the same stream failed: %v", e.Stream, e.Failed, e.err)
}

// Unwrap returns the error of the write that failed.
func (e *SkippedError) Unwrap() error { return e.err }

// A MovedError means that the shard to which the store is connected rejects messages of the category, because it was moved to
// another shard, or is being moved. Nothing was written. The call was retried for
// [RetryPolicy].For. Through a proxy of PL/Proxy, that is usually enough for the write to get to the
// other shard; a store that is connected to a shard must be connected to the other one.
type MovedError struct {
	what string
	err  error
}

func (e *MovedError) Error() string {
	return "mdb: " + e.what + ": the category was moved to another shard, or is being moved: " + e.err.Error()
}

// Unwrap returns the server's error, a [*pgconn.PgError] with the SQLSTATE MD001.
func (e *MovedError) Unwrap() error { return e.err }

// A SetupError means that the database, the role or the connection is not set up
// correctly for Message DB.
type SetupError struct {
	// Problem says what is wrong.
	Problem string
	// Remedy says what to do.
	Remedy string

	err error
}

func (e *SetupError) Error() string {
	return "mdb: " + e.Problem + "; " + e.Remedy
}

// Unwrap returns the server's error, if an error of the server showed the problem.
func (e *SetupError) Unwrap() error { return e.err }

// An UnreadableError means that a message is in the store and cannot be read: the server
// fails to print its data or metadata, for example because they are too long as text or
// damaged, or the row cannot be decoded. Other messages are not affected. To skip it,
// read after its position (for a category, its global position); a subscription does so
// with [OnUnreadable].
//
// In a transaction the server's failure aborts the transaction, so the methods of a [Tx]
// return it as it is, unless it was the decoding that failed.
type UnreadableError struct {
	// ID, Stream, Type, Position and GlobalPosition identify the message. If the role may
	// not read the table messages, only the position that the read was by is known, and the
	// stream's name in a read of a stream. Position is then -1 in a read of a category.
	ID                       uuid.UUID
	Stream                   StreamName
	Type                     string
	Position, GlobalPosition int64

	err error
}

// unknownPosition is the value of UnreadableError.Position if the position is unknown.
const unknownPosition = -1

func (e *UnreadableError) Error() string {
	text := fmt.Sprintf("global position %d", e.GlobalPosition)
	if e.Stream != "" {
		text = fmt.Sprintf("%s/%d", e.Stream, e.Position)
		if e.GlobalPosition != 0 {
			text += fmt.Sprintf(", global position %d", e.GlobalPosition)
		}
	}
	if e.err == nil { // as a program may make one
		return "mdb: the message at " + text + " cannot be read"
	}
	return fmt.Sprintf("mdb: the message at %s cannot be read: %v", text, scrub(e.err))
}

// Unwrap returns the error of the read: the server's, a [*pgconn.PgError], or that of
// decoding the row.
func (e *UnreadableError) Unwrap() error { return e.err }

// A HandlerError means that a callback of a subscription returned an error or panicked,
// which ended the subscription. Package consumer returns it if a handler stops a consumer.
type HandlerError struct {
	// Stream, Position and GlobalPosition identify the message that the handler received, or
	// the one that [OnUnreadable] was called for.
	// For other callbacks Stream is empty, and Position is the last handled position.
	Stream                   StreamName
	Position, GlobalPosition int64

	err error
}

func (e *HandlerError) Error() string {
	if e.Stream == "" {
		return fmt.Sprintf("mdb: a callback of the subscription failed after position %d: %v", e.Position, e.err)
	}
	return fmt.Sprintf("mdb: the handler failed on %s/%d, global position %d: %v", e.Stream, e.Position, e.GlobalPosition, e.err)
}

func newHandlerError(m Message, err error) *HandlerError {
	return &HandlerError{m.Stream, m.Position, m.GlobalPosition, err}
}

// Unwrap returns the callback's error, or a [*PanicError].
func (e *HandlerError) Unwrap() error { return e.err }

// A PanicError reports a panic of a callback.
type PanicError struct {
	// Value is the argument of panic.
	Value any
	// Stack is the stack of the goroutine, as [debug.Stack] returns it.
	Stack []byte
}

// Error returns the full text of a panic of the Go runtime. Of other panics it returns
// only the type of the value, because the value may contain a payload.
func (e *PanicError) Error() string {
	if err, ok := e.Value.(runtime.Error); ok {
		return "panic: " + err.Error()
	}
	return fmt.Sprintf("panic with a value of type %T", e.Value)
}
