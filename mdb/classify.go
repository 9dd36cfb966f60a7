package mdb

import (
	"errors"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"
)

// A class says what an error means for the call that received it.
type class int

const (
	classRefused      class = iota // the server rejected the statement for another reason, or the pool is closed
	classWrongVersion              // the stream is not at the expected version
	classDuplicateID               // a message with the ID exists
	classArgument                  // the server rejected an argument
	classSetup                     // Message DB is missing, or not reachable for this role
	classInternal                  // an internal error of the server, such as a relation that is being replaced
	classUnavailable               // the server lacks resources, an operator intervened, or it is a standby
	classNoConnection              // the pool had no free connection in time
	classTransient                 // nothing happened, and a retry may succeed
	classStale                     // the prepared statement is gone or outdated; nothing happened
	classAborted                   // an earlier error aborted the transaction
	classNotSent                   // nothing was sent
	classUnknown                   // it was sent, and no reply came
)

// A condition says when an error leads to a retry.
type condition int

const (
	never    condition = iota
	onceRead           // if the subscription has read a page before
	always
)

// consequences says what follows from an error of each class.
//
//   - write: whether a Store retries a write, with the same IDs. It also applies to
//     statements before a write, and to the search for a write's messages.
//   - read: when a subscription retries a read. A missing schema or a wrong password is a
//     mistake in the set-up at first; later it is an upgrade, a failover or a rotation.
//   - transaction: whether Atomically retries a transaction that the error has ended.
//   - lost: whether a write with this error may have happened.
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

// retryRead reports whether to retry a subscription's read. begun says whether the
// subscription has read a page before.
func (c class) retryRead(begun bool) bool {
	when := consequences[c].read
	return when == always || when == onceRead && begun
}

// classify returns the class of an error. It is the one place that interprets SQLSTATEs and
// the server's texts.
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
		return classifyAcquire(acquire.err)
	}
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		// With the simple protocol, pgx reports a connection that is lost before the reply
		// as one that was closed before, and as safe to retry.
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
	if severity == "" { // from servers that only implement PostgreSQL's protocol
		severity = pgErr.Severity
	}
	if severity == "FATAL" || severity == "PANIC" {
		if pgErr.Code == "25P03" {
			// The session had been idle in its transaction for too long, so it has ended
			// before it received what the client has sent.
			return classNotSent
		}
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

// classifyAcquire returns the class of the error of a pool that gave no connection. If it is
// the server's, to what a hook of the pool has sent, it decides when a read is retried, as
// in a read. A write is never retried.
func classifyAcquire(err error) class {
	if errors.As(err, new(*pgconn.PgError)) {
		switch c := classify(err); {
		case c.retryRead(false):
			return classNoConnection
		case c.retryRead(true):
			return classInternal
		}
		return classRefused
	}
	if errors.Is(err, puddle.ErrClosedPool) {
		return classRefused
	}
	return classNoConnection
}

func isConnectError(err error) bool {
	var connectErr *pgconn.ConnectError
	return errors.As(err, &connectErr)
}

// argumentTexts are the beginnings of errors that functions of Message DB raise for an
// argument.
var argumentTexts = []string{
	"Must be a stream name: ",
	"Must be a category: ",
	"Correlation must be a category ",
	"Consumer group ",
	"Retrieval with SQL condition is not activated",
}

const versionText = "Wrong expected version: "

// classifyRaised classifies an error that a function has raised, by its text. A proxy may
// have put something before the text.
func classifyRaised(message string) class {
	if _, ok := versionIn(message); ok {
		return classWrongVersion
	}
	if raisedAt(message) >= 0 {
		return classArgument
	}
	return classRefused
}

// raisedAt returns the index in the message at which the text of a function of Message DB
// begins, or -1.
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

// versionIn returns the digits of the version in the text of a wrong-version error. It
// searches from the end, because the name of a stream may contain any text, including this
// one. It uses no regular expression, because losing a race is ordinary and must be fast.
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

// actualVersion returns the version in the text of a wrong-version error.
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

// An acquireError is the error of a call that got no connection, and so sent nothing.
type acquireError struct{ err error }

func (e *acquireError) Error() string { return "no connection: " + e.err.Error() }
func (e *acquireError) Unwrap() error { return e.err }

// A brokenError is the error of a write on a connection that was lost.
type brokenError struct {
	sent bool // whether the write may have been sent
	err  error
}

func (e *brokenError) Error() string { return "the connection was lost: " + e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }
