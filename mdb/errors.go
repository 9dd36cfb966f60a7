package mdb

import (
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/google/uuid"
)

// ErrNoMessage is returned by GetLastStreamMessage when there is none.
var ErrNoMessage = errors.New("mdb: no message")

// An ArgumentError says what is wrong with the arguments of a call, all of it at
// once. Nothing was sent to the server.
type ArgumentError struct {
	// Faults are in the order of the arguments; there is at least one.
	Faults []Fault
}

// A Fault is one thing that is wrong with an argument. It holds nothing of a
// message's payload.
type Fault struct {
	// Argument names the argument, such as "batch size".
	Argument string
	// Given is what was given.
	Given string
	// Allowed says what would have been right.
	Allowed string
}

func (e *ArgumentError) Error() string {
	faults := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		faults[i] = fmt.Sprintf("%s: given %s, want %s", f.Argument, f.Given, f.Allowed)
	}
	return "mdb: " + strings.Join(faults, "; ")
}

// A WrongVersionError says that a stream was not at the version that the write
// expected. Nothing was written. Read the stream's new messages and decide again.
type WrongVersionError struct {
	// Stream is the stream that was to be written to.
	Stream StreamName
	// Expected is the version that the call expected.
	Expected int64
	// Actual is the version that the stream had: the position of its last message,
	// or NoStream. It is -2 if the server did not say, which it does not where the
	// transaction's isolation is stricter than read committed; such a transaction
	// has to be begun again.
	Actual int64

	err error
}

// unknownVersion is what WrongVersionError.Actual is when the server did not say.
const unknownVersion int64 = -2

func (e *WrongVersionError) Error() string {
	if e.Actual == unknownVersion {
		return fmt.Sprintf("mdb: stream %s was written to meanwhile", e.Stream)
	}
	return fmt.Sprintf("mdb: stream %s is at version %d, expected %d", e.Stream, e.Actual, e.Expected)
}

// Unwrap returns the server's error, a [*pgconn.PgError].
func (e *WrongVersionError) Unwrap() error { return e.err }

// A DuplicateIDError says that the store holds a message with the ID already, and
// that it was not recognised as the one to be written. Nothing was written. See
// [Idempotent].
type DuplicateIDError struct {
	// IDs are those of the call's messages that are in the store, as far as it was
	// looked for: within a caller's transaction, and without [Idempotent], it was
	// not, and IDs are all of the call's.
	IDs []uuid.UUID

	err error
}

func (e *DuplicateIDError) Error() string {
	switch len(e.IDs) {
	case 0: // as a program may make one
		return "mdb: a message with the ID exists already"
	case 1:
		return fmt.Sprintf("mdb: a message with ID %s exists already", e.IDs[0])
	}
	return fmt.Sprintf("mdb: a message with one of %d IDs exists already, the first of them %s", len(e.IDs), e.IDs[0])
}

// Unwrap returns the server's error, a [*pgconn.PgError].
func (e *DuplicateIDError) Unwrap() error { return e.err }

// An UnknownOutcomeError says that the connection was lost, or the context ended,
// after a write was sent and before its outcome arrived: it may have happened or
// not. With [Idempotent] it may also say that messages with the IDs are there, and that
// the look at them has failed. Calling again with the same messages, their IDs
// included, and with [Idempotent] settles it. errors.Is finds the context's error in
// it.
type UnknownOutcomeError struct {
	// IDs are those of the messages of the write, in order.
	IDs []uuid.UUID

	err error
}

func (e *UnknownOutcomeError) Error() string {
	if len(e.IDs) == 0 { // as a program may make one
		return "mdb: the outcome of the write is unknown"
	}
	return fmt.Sprintf("mdb: the outcome of writing %d message(s), the first with ID %s, is unknown: %v", len(e.IDs), e.IDs[0], e.err)
}

// Unwrap returns what broke the write off.
func (e *UnknownOutcomeError) Unwrap() error { return e.err }

// A SkippedError says that a write of [Store.WriteEach] was not done, because an
// earlier one to the same stream in the call had failed. Nothing was written. It
// unwraps to the earlier one's error, so ask for it first: errors.As finds a
// [*DuplicateIDError] in it that is not about this write.
type SkippedError struct {
	// Stream is the stream that was to be written to.
	Stream StreamName
	// Failed is the index, among the writes of the call, of the one that failed.
	Failed int

	err error
}

func (e *SkippedError) Error() string {
	return fmt.Sprintf("mdb: not written to stream %s, as write %d of the call, to the same stream, has failed: %v", e.Stream, e.Failed, e.err)
}

// Unwrap returns the error of the write that failed.
func (e *SkippedError) Unwrap() error { return e.err }

// A SetupError says that the database, the role or the connection is not set up
// as Message DB needs it.
type SetupError struct {
	// Problem is what is wrong.
	Problem string
	// Remedy is what to do.
	Remedy string

	err error
}

func (e *SetupError) Error() string {
	return "mdb: " + e.Problem + "; " + e.Remedy
}

// Unwrap returns the server's error, if it was one that showed the problem.
func (e *SetupError) Unwrap() error { return e.err }

// A HandlerError says that a callback of a subscription has failed or panicked,
// which has ended the subscription.
type HandlerError struct {
	// Stream, Position and GlobalPosition are those of the message that the handler
	// was given. For other callbacks Stream is empty, and Position is the last one
	// that was handled.
	Stream                   StreamName
	Position, GlobalPosition int64

	err error
}

func (e *HandlerError) Error() string {
	if e.Stream == "" {
		return fmt.Sprintf("mdb: a callback of the subscription failed behind position %d: %v", e.Position, e.err)
	}
	return fmt.Sprintf("mdb: the handler failed on %s/%d, global position %d: %v", e.Stream, e.Position, e.GlobalPosition, e.err)
}

// Unwrap returns the callback's error, or a [*PanicError].
func (e *HandlerError) Unwrap() error { return e.err }

// A PanicError is a panic of a callback.
type PanicError struct {
	// Value is what was given to panic.
	Value any
	// Stack is that of the goroutine, as [debug.Stack] returns it.
	Stack []byte
}

// Error tells a panic of the Go runtime's in full, and of others only the type of
// the value, which may hold a payload.
func (e *PanicError) Error() string {
	if err, ok := e.Value.(runtime.Error); ok {
		return "panic: " + err.Error()
	}
	return fmt.Sprintf("panic with a value of type %T", e.Value)
}
