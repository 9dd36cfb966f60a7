package mdb

import (
	"errors"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"
)

// A class says what an error means for the call that met it.
type class int

const (
	classRefused      class = iota // the server rejected the statement for a reason of its own, or the pool is closed
	classWrongVersion              // the stream is not at the expected version
	classDuplicateID               // a message with the ID exists
	classArgument                  // the server rejected an argument
	classSetup                     // Message DB is missing, or not reachable for this role
	classInternal                  // an internal error of the server, such as a relation that is just being replaced
	classUnavailable               // the server lacks resources, or somebody intervened, or it is a standby
	classNoConnection              // the pool gave no connection, and no attempt to connect failed
	classTransient                 // nothing happened, and the same may succeed later
	classStale                     // the prepared statement is gone or outdated; nothing happened
	classAborted                   // an earlier error has ended the transaction
	classNotSent                   // nothing was sent
	classUnknown                   // sent, and no answer came
)

// A condition says when something is done about an error.
type condition int

const (
	never    condition = iota
	onceRead           // once the subscription has read a page
	always
)

// consequences has what a caller does about an error of each class.
//
//   - write: whether a Store sends a write again, with the same IDs. It holds as well for
//     what comes before any write, and for the look at a write's outcome.
//   - read: when a subscription retries a read. A missing schema or a wrong password is a
//     mistake in the set-up at first; later it is an upgrade, a failover or a rotation.
//   - transaction: whether Atomically runs a transaction again that the error has ended.
//   - lost: whether a write that met the error may have happened.
var consequences = [...]struct {
	write       bool
	read        condition
	transaction bool
	lost        bool
}{
	classRefused:      {},
	classWrongVersion: {},
	classDuplicateID:  {},
	classArgument:     {},
	classSetup:        {read: onceRead},
	classInternal:     {read: onceRead},
	classUnavailable:  {read: always},
	classNoConnection: {read: always},
	classTransient:    {read: always, write: true, transaction: true},
	classStale:        {read: always, transaction: true}, // the statement is prepared again
	classAborted:      {read: always},
	classNotSent:      {read: always, write: true},
	classUnknown:      {read: always, write: true, lost: true},
}

func (c class) retryWrite() bool       { return consequences[c].write }
func (c class) retryTransaction() bool { return consequences[c].transaction }
func (c class) lost() bool             { return consequences[c].lost }

// retryRead reports whether to retry a subscription's read. begun is whether the
// subscription has read a page before.
func (c class) retryRead(begun bool) bool {
	when := consequences[c].read
	return when == always || when == onceRead && begun
}

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
		if errors.Is(err, puddle.ErrClosedPool) {
			return classRefused
		}
		return classNoConnection
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
	case "25P02", "25P01": // 25P01: of a COMMIT AND CHAIN after the transaction's end
		return classAborted
	case "40003":
		return classUnknown
	case "22P02", "22P05", "22021", "22003", "2201W", "23502", "54000", "54001", "42601", "42703":
		return classArgument
	case "42883", "42P01", "3F000", "42501":
		return classSetup
	case "XX000":
		return classInternal
	}
	switch pgErr.Code[:min(2, len(pgErr.Code))] {
	case "08":
		return classUnknown
	case "25", "53", "57", "58":
		return classUnavailable
	}
	return classRefused
}

func isConnectError(err error) bool {
	var connectErr *pgconn.ConnectError
	return errors.As(err, &connectErr)
}

// argumentTexts begin the errors that functions of Message DB raise for an argument.
var argumentTexts = []string{
	"Must be a stream name: ",
	"Must be a category: ",
	"Correlation must be a category ",
	"Consumer group ",
	"Retrieval with SQL condition is not activated",
}

const versionText = "Wrong expected version: "

// classifyRaised goes by the text of an error that a function of Message DB has
// raised. A proxy may have put something before it.
func classifyRaised(message string) class {
	if _, ok := versionIn(message); ok {
		return classWrongVersion
	}
	if raisedAt(message) >= 0 {
		return classArgument
	}
	return classRefused
}

// raisedAt returns where the text of a function of Message DB begins in the message,
// or -1.
func raisedAt(message string) int {
	if _, ok := versionIn(message); ok {
		return strings.Index(message, versionText)
	}
	for _, text := range argumentTexts {
		if i := strings.Index(message, text); i >= 0 {
			return i
		}
	}
	return -1
}

// versionIn returns the digits of the version in a text that tells of a wrong version.
// It goes from the end, because a stream's name may hold anything, this very text
// included. To lose a race is ordinary, so no regular expression has to be slow here.
func versionIn(message string) (digits string, ok bool) {
	const name = "Stream Version: "
	message, closed := strings.CutSuffix(message, ")")
	i := strings.LastIndex(message, name)
	if !closed || i < 0 || !strings.Contains(message[:i], versionText) {
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

// acquireError is that of a call that got no connection and so sent nothing.
type acquireError struct{ err error }

func (e *acquireError) Error() string { return "no connection: " + e.err.Error() }
func (e *acquireError) Unwrap() error { return e.err }

// brokenError is that of the writes on a connection that has broken.
type brokenError struct {
	sent bool
	err  error
}

func (e *brokenError) Error() string { return "the connection broke: " + e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }
