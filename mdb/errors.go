package mdb

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
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

// A class says what an error means for the call that met it.
type class int

const (
	classRefused      class = iota // the server refused the statement for a reason of its own
	classWrongVersion              // the stream is not at the expected version
	classDuplicateID               // a message with the ID exists
	classArgument                  // the server found fault with an argument
	classSetup                     // Message DB is not there, or not reachable
	classTransient                 // nothing happened, and the same may succeed later
	classStale                     // the prepared statement is gone or outdated; nothing happened
	classAborted                   // an earlier error has ended the transaction
	classNotSent                   // nothing was sent
	classUnknown                   // sent, and no answer came
)

// classify is the one place that knows SQLSTATEs and the server's texts.
func classify(err error) class {
	var broken *brokenError
	if errors.As(err, &broken) {
		if broken.sent {
			return classUnknown
		}
		return classNotSent
	}
	var acquire *acquireError
	if errors.As(err, &acquire) && !isConnectError(err) {
		return classRefused // by the pool, which was closed, or has a hook
	}
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		// By the simple protocol, a connection that breaks while the answer is awaited
		// is reported as one that was closed before, and as safe to retry.
		sent := errors.Is(err, pgconn.ErrConnClosed)
		if pgconn.SafeToRetry(err) && !sent || isConnectError(err) {
			return classNotSent
		}
		return classUnknown
	}
	if isConnectError(err) {
		if strings.HasPrefix(pgErr.Code, "28") || pgErr.Code == "3D000" {
			return classSetup // a wrong role, password or database
		}
		return classNotSent
	}
	severity := pgErr.SeverityUnlocalized
	if severity == "" { // as from servers that only speak like PostgreSQL
		severity = pgErr.Severity
	}
	if severity == "FATAL" || severity == "PANIC" {
		return classUnknown
	}
	switch pgErr.Code {
	case "P0001":
		return classifyRaised(pgErr.Message)
	case "23505":
		switch pgErr.ConstraintName {
		case "messages_id":
			return classDuplicateID
		case "messages_stream":
			return classWrongVersion
		case "messages_pkey": // the next number of the sequence may be free
			return classTransient
		}
	case "40001", "40P01", "55P03":
		return classTransient
	case "0A000", "26000":
		return classStale
	case "25P02":
		return classAborted
	case "40003":
		return classUnknown
	case "22P02", "22P05", "22021", "22003", "2201W", "23502", "54000", "54001", "42601", "42703":
		return classArgument
	case "42883", "42P01", "3F000", "42501":
		return classSetup
	}
	if strings.HasPrefix(pgErr.Code, "08") {
		return classUnknown
	}
	return classRefused
}

func isConnectError(err error) bool {
	var connectErr *pgconn.ConnectError
	return errors.As(err, &connectErr)
}

// classifyRaised goes by the text of an error that a function of Message DB has
// raised. A proxy may have put something before it.
func classifyRaised(message string) class {
	if _, ok := versionIn(message); ok {
		return classWrongVersion
	}
	for _, text := range []string{
		"Must be a stream name: ",
		"Must be a category: ",
		"Correlation must be a category ",
		"Consumer group ",
		"Retrieval with SQL condition is not activated",
	} {
		if strings.Contains(message, text) {
			return classArgument
		}
	}
	return classRefused
}

// versionIn returns the digits of the version in a text that tells of a wrong version.
// It goes from the end, because a stream's name may hold anything, this very text
// included. To lose a race is ordinary, so no regular expression has to be slow here.
func versionIn(message string) (digits string, ok bool) {
	const name = "Stream Version: "
	message, closed := strings.CutSuffix(message, ")")
	i := strings.LastIndex(message, name)
	if !closed || i < 0 || !strings.Contains(message[:i], "Wrong expected version: ") {
		return "", false
	}
	digits = message[i+len(name):]
	unsigned := strings.TrimPrefix(digits, "-")
	return digits, unsigned != "" && strings.Trim(unsigned, "0123456789") == ""
}

// actualVersion returns the version that the text of a wrong-version error tells.
func actualVersion(err error) int64 {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		if digits, ok := versionIn(pgErr.Message); ok {
			if version, err := strconv.ParseInt(digits, 10, 64); err == nil {
				return version
			}
		}
	}
	return unknownVersion
}

// scrub returns err without the parts of a server's error that quote rows, JSON
// or statements.
func scrub(err error) error {
	var pgErr *pgconn.PgError
	if isConnectError(err) || !errors.As(err, &pgErr) {
		return err
	}
	clean := *pgErr
	clean.Detail, clean.Where, clean.InternalQuery = "", "", ""
	if strings.HasPrefix(clean.Code, "22") {
		// Data exceptions quote the datum, each language in its own way.
		if i := strings.IndexAny(clean.Message, "\"«»„“”「『"); i >= 0 {
			clean.Message = strings.TrimRight(clean.Message[:i], ": ：")
		}
	}
	for _, cause := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, cause) {
			return fmt.Errorf("%w (%w)", &clean, cause)
		}
	}
	return &clean
}

// explain returns the error of a call that did something about a stream, a
// category or nothing in particular.
func explain(what string, err error) error {
	class := classify(err)
	err = scrub(err)
	switch class {
	case classSetup:
		if setup := explainSetup(err); setup != nil {
			return setup
		}
	case classAborted:
		return fmt.Errorf("mdb: %s: an earlier error has ended the transaction, roll it back: %w", what, err)
	}
	return fmt.Errorf("mdb: %s: %w", what, err)
}

// explainSetup tells the cases apart by names, which are the same in every
// language that the server speaks.
func explainSetup(err error) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return nil
	}
	switch {
	case pgErr.Code == "42501":
		return &SetupError{
			Problem: pgErr.Message,
			Remedy:  "grant the role message_store to the role that connects: GRANT message_store TO …",
			err:     err,
		}
	case pgErr.Code == "3F000" || strings.Contains(pgErr.Message, "message_store."):
		return &SetupError{
			Problem: "Message DB is not installed in this database, or in a version that lacks what was called (" + pgErr.Message + ")",
			Remedy:  "install it, for example by the command mdb install, or by schema.Install of package mdb/schema",
			err:     err,
		}
	case pgErr.Code == "42883" || pgErr.Code == "42P01":
		return &SetupError{
			Problem: "the search path does not lead to the schema message_store (" + pgErr.Message + ")",
			Remedy:  "let Configure prepare the pool's configuration, or ALTER ROLE … SET search_path = message_store, …",
			err:     err,
		}
	}
	return nil
}

// contextError makes sure that an error that a context's end has caused is also
// the context's error: pgx reports some of them as a network timeout.
func contextError(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w (%w)", err, cause)
	}
	return err
}
