package mdb

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"

	"github.com/messagedb-go/messagedb/internal/scan"
)

// movedCode is the SQLSTATE of the gate of a shard, which a move installs. PL/Proxy forwards it.
const movedCode = "MD001"

// A class says what an error means for the call that received it.
type class int

const (
	classRefused       class = iota // the server rejected the statement for another reason, or the pool is closed
	classUnsendable                 // pgx can never send it
	classWrongVersion               // the stream is not at the expected version
	classDuplicateID                // a message with the ID exists
	classArgument                   // the server rejected an argument
	classSetup                      // Message DB is missing, or not reachable for this role
	classInternal                   // an internal error of the server, or a function or relation that is being replaced
	classUnavailable                // the server lacks resources, or an operator intervened
	classReadOnly                   // the server is a standby, or read-only for another reason
	classMoved                      // the category is on another shard, or on its way there
	classNoConnection               // the pool had no free connection in time
	classTransient                  // nothing happened, and a retry may succeed
	classStale                      // the prepared statement is gone or outdated; nothing happened
	classAborted                    // an earlier error aborted the transaction
	classNotSent                    // nothing was sent
	classUnreadable                 // it has succeeded, and the result cannot be decoded
	classCancelledWait              // it has succeeded, but without a wait for a synchronous standby
	classUnknown                    // it was sent, and no reply came
)

// A condition says when an error leads to a retry.
type condition int

const (
	never    condition = iota
	onceRead           // if the subscription has read a page before
	always
)

// A limit says what ends the retries of a write or a transaction.
type limit int

const (
	noRetry    limit = iota // the first failure does
	byAttempts              // RetryPolicy.Attempts: another transaction was in the way
	byTime                  // RetryPolicy.For: the server could not be reached, or was read-only, as during a failover, or the category is moved
)

// consequences says what follows from an error of each class.
//
//   - write: how a Store retries a write, with the same IDs. It also applies to
//     statements before a write, and to the search for a write's messages.
//   - read: when a subscription retries a read. A missing schema or a wrong password is a
//     mistake in the set-up at first; later it is an upgrade, a failover or a rotation.
//   - transaction: how Atomically retries a transaction that the error has ended, and that was
//     surely not committed.
//   - lost: whether a write with this error may have happened.
//
// An error of classUnavailable is not retried: a disk that is full stays full, and a statement
// that was cancelled by statement_timeout would take as long again.
var consequences = [...]struct {
	write       limit
	read        condition
	transaction limit
	lost        bool
}{
	classRefused:       {},
	classUnsendable:    {},
	classWrongVersion:  {},
	classDuplicateID:   {},
	classArgument:      {},
	classSetup:         {read: onceRead},
	classInternal:      {read: onceRead},
	classUnavailable:   {read: always},
	classReadOnly:      {read: always, write: byTime, transaction: byTime},
	classMoved:         {read: always, write: byTime, transaction: byTime},
	classNoConnection:  {read: always, write: byTime, transaction: byTime},
	classTransient:     {read: always, write: byAttempts, transaction: byAttempts},
	classStale:         {read: always, transaction: byAttempts}, // the statement is prepared again
	classAborted:       {read: always},
	classNotSent:       {read: always, write: byTime, transaction: byTime},
	classUnreadable:    {write: byAttempts, lost: true},               // the next attempt finds the write
	classCancelledWait: {read: always, write: byAttempts, lost: true}, // likewise
	classUnknown:       {read: always, write: byTime, transaction: byTime, lost: true},
}

func (c class) retryWrite() limit       { return consequences[c].write }
func (c class) retryTransaction() limit { return consequences[c].transaction }
func (c class) lost() bool              { return consequences[c].lost }

// retryRead reports whether to retry a subscription's read. begun says whether the
// subscription has read a page before.
func (c class) retryRead(begun bool) bool {
	when := consequences[c].read
	return when == always || when == onceRead && begun
}

// classify returns the class of an error. It is the one place that interprets SQLSTATEs and
// the server's texts.
func classify(err error) class {
	if errors.As(err, new(*unsendableError)) {
		return classUnsendable
	}
	if errors.As(err, new(*unreadableError)) {
		return classUnreadable
	}
	if errors.Is(err, errCancelledWait) {
		return classCancelledWait
	}
	if errors.As(err, new(*SetupError)) {
		return classSetup
	}
	if errors.As(err, new(*writableError)) {
		return classTransient
	}
	if errors.As(err, new(*proxiedError)) {
		return classRefused
	}
	if errors.As(err, new(*proxyError)) {
		return classUnknown
	}
	var broken *brokenError
	if errors.As(err, &broken) {
		switch {
		case broken.sent:
			return classUnknown
		case isTooLarge(broken.err):
			return classUnsendable
		}
		return classNotSent
	}
	var acquire *acquireError
	if errors.As(err, &acquire) && !isConnectError(err) {
		return classifyAcquire(acquire.err)
	}
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		if errors.Is(err, ErrNoStream) || errors.As(err, new(*AheadError)) {
			return classRefused
		}
		// With the simple protocol, pgx reports a connection that is lost before the reply
		// as one that was closed before, and as safe to retry.
		sent := errors.Is(err, pgconn.ErrConnClosed)
		if isTooLarge(err) {
			return classUnsendable
		}
		if pgconn.SafeToRetry(err) && !sent || isConnectError(err) {
			return classNotSent
		}
		return classUnknown
	}
	if isConnectError(err) {
		if isRejectedByAll(err) {
			return classSetup
		}
		return classNotSent
	}
	if isFatal(pgErr) {
		if pgErr.Code == "25P03" || pgErr.Code == "57P05" {
			return classNotSent // the session had ended for idleness before the statement arrived
		}
		return classUnknown
	}
	if c, ok := classifyProxied(pgErr); ok {
		return c
	}
	switch pgErr.Code {
	case "P0001":
		return classifyRaised(pgErr.Message)
	case "23505":
		switch name := constraintOf(pgErr); {
		case !isMessages(pgErr): // a trigger may write to a table of its own
		case name == "messages_id":
			return classDuplicateID
		case name == "messages_stream":
			return classWrongVersion
		case isGlobalPositionTaken(pgErr): // the next number of the sequence may be free
			return classTransient
		}
	case "40001", "40P01", "55P03":
		return classTransient
	case "25006":
		return classReadOnly
	case movedCode:
		return classMoved
	case "0A000", "26000":
		return classStale
	case "25P02", "25P01": // 25P01: of a COMMIT AND CHAIN after the transaction's end
		return classAborted
	case "40003":
		return classUnknown
	case "22P02", "22P05", "22021", "22003", "2201W", "23502", "54000", "54001", "42601":
		return classArgument
	case "42883", "42P01", "3F000", "42501":
		return classSetup
	case "XX000":
		if isInRecovery(pgErr) {
			return classReadOnly
		}
		return classInternal
	case "42703", "42704", "42725", "42804": // the latter while functions are replaced
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

// isInRecovery reports whether the server is a standby, and has not rejected the statement,
// but what a function did, such as to assign a transaction ID. Texts of internal errors are
// never translated.
func isInRecovery(e *pgconn.PgError) bool {
	return e.Code == "XX000" && strings.HasSuffix(e.Message, " during recovery")
}

// isRejectedByAll reports whether each host that pgx has tried rejects every connection like
// this one. In a failover, one host may not know a role yet while the next primary does not
// answer.
func isRejectedByAll(err error) bool {
	var connectErr *pgconn.ConnectError
	if !errors.As(err, &connectErr) {
		return false
	}
	attempts := []error{connectErr.Unwrap()}
	if joined, ok := attempts[0].(interface{ Unwrap() []error }); ok {
		attempts = joined.Unwrap()
	}
	rejected := make(map[string]bool)
	for _, attempt := range attempts {
		var pgErr *pgconn.PgError
		host := hostOf(attempt)
		rejected[host] = rejected[host] || errors.As(attempt, &pgErr) && isSetupToConnect(pgErr)
	}
	for _, yes := range rejected {
		if !yes {
			return false
		}
	}
	return true
}

// hostOf returns the name and the port of the host of a failed attempt to connect, which only
// its text contains: "[::1]:5432 (localhost): …". A host may have several addresses, of which
// not all need to answer.
func hostOf(attempt error) string {
	address, rest, ok := strings.Cut(attempt.Error(), " (")
	name, _, closed := strings.Cut(rest, "): ")
	if !ok || !closed {
		return attempt.Error()
	}
	return name + address[strings.LastIndexByte(address, ':')+1:]
}

// isSetupToConnect reports whether the server rejects every connection like this one: the
// role, password, database or a start-up parameter is wrong, or the role may not connect.
func isSetupToConnect(e *pgconn.PgError) bool {
	switch e.Code[:min(2, len(e.Code))] {
	case "22", "28", "42":
		return true
	}
	return e.Code == "3D000" || isUnsupportedParameter(e)
}

// isMessages reports whether the error may be of Message DB's table, and not of another
// one with the same name. Some servers and proxies do not name the table.
func isMessages(e *pgconn.PgError) bool {
	return (e.SchemaName == "" || e.SchemaName == "message_store") && (e.TableName == "" || e.TableName == "messages")
}

func isGlobalPositionTaken(e *pgconn.PgError) bool {
	return e.Code == "23505" && isMessages(e) && constraintOf(e) == "messages_pkey"
}

// isTooLarge reports whether pgx could not encode a message of the protocol. Its error has
// no type, and pgx reports it like a connection that could not be written to.
func isTooLarge(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		switch err.Error() {
		case "message body too large", "too many parameters":
			return true
		}
	}
	return false
}

// classifyAcquire returns the class of the error of a pool that gave no connection. If it is
// the server's, to what a hook of the pool has sent, it decides as it would for a read.
// Another error of a hook is like a failure to connect.
func classifyAcquire(err error) class {
	if errors.As(err, new(*pgconn.PgError)) {
		switch c := classify(err); {
		case c.retryRead(false):
			return classNotSent
		case c.retryRead(true):
			return classInternal
		}
		return classRefused
	}
	switch {
	case isClosedPool(err):
		return classRefused
	case isContextError(err): // no connection was free, unless a hook took too long
		return classNoConnection
	}
	return classNotSent
}

// isFatal reports whether the error has ended the session.
func isFatal(pgErr *pgconn.PgError) bool {
	severity := pgErr.SeverityUnlocalized
	if severity == "" { // from servers that only implement PostgreSQL's protocol
		severity = pgErr.Severity
	}
	return severity == "FATAL" || severity == "PANIC"
}

// isUnsupportedParameter reports whether PgBouncer rejects a start-up parameter. It uses the
// same SQLSTATE for its transient errors, and has one language.
func isUnsupportedParameter(pgErr *pgconn.PgError) bool {
	return pgErr.Code == "08P01" && strings.HasPrefix(pgErr.Message, "unsupported startup parameter")
}

func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// isConnectionLoss reports whether err, which is none of the server's, is that of a
// connection.
func isConnectionLoss(err error) bool {
	return errors.As(err, new(*brokenError)) || errors.As(err, new(net.Error)) || errors.As(err, new(syscall.Errno)) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, pgconn.ErrConnClosed) || pgconn.SafeToRetry(err) || pgconn.Timeout(err)
}

// isOfConnection reports whether err, of one of the classes of a connection, is that of the
// store's connection, and not one that a caller's function has made up.
func isOfConnection(err error) bool {
	return errors.As(err, new(*pgconn.PgError)) || errors.As(err, new(*acquireError)) || isConnectError(err) || isConnectionLoss(err)
}

// isLost reports whether err is that of a connection that was lost, and not the server's.
func isLost(err error) bool {
	return !errors.As(err, new(*pgconn.PgError)) && !errors.As(err, new(*unreadableError)) && isConnectionLoss(err)
}

// isMessageFault reports whether a read may have failed because of one message, with which
// it always fails: its text is too long, it is damaged, or it cannot be converted or decoded.
func isMessageFault(err error) bool {
	if errors.As(err, new(*scan.RowError)) {
		return true
	}
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return false
	}
	switch pgErr.Code {
	case "54000", "22021", "22P05", "XX001", "XX002":
		return true
	}
	return pgErr.Code == "XX000" && strings.HasPrefix(pgErr.Message, "invalid memory alloc request size") // never translated
}

// isPageTooLarge reports whether a read may succeed with a smaller page.
func isPageTooLarge(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return false
	}
	switch pgErr.Code {
	case "53100", "53200", "53400": // of the disk, of memory, of the limit of temporary files
		return true
	}
	return false
}

func isClosedPool(err error) bool { return errors.Is(err, puddle.ErrClosedPool) }

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

// An unsendableError is the error of a statement that pgx rejects before it sends anything,
// for example because it cannot encode an argument.
type unsendableError struct{ err error }

func (e *unsendableError) Error() string { return e.err.Error() }
func (e *unsendableError) Unwrap() error { return e.err }

// An unreadableError is the error of a statement that the server has executed, and whose
// result cannot be decoded.
type unreadableError struct{ err error }

func (e *unreadableError) Error() string { return e.err.Error() }
func (e *unreadableError) Unwrap() error { return e.err }

// A brokenError is the error of a write on a connection that was lost.
type brokenError struct {
	sent bool // whether the write may have been sent
	err  error
}

func (e *brokenError) Error() string { return "the connection was lost: " + e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// IsTransient reports whether a retry of what failed with err may succeed, although neither
// the program nor the set-up changes. A [Store] has retried writes already, as [WithRetry]
// says, and a subscription retries its reads itself. It is meant for reads, for [Tx] and
// [Store.Atomically], for subscriptions that a handler has ended, and for statements of your
// own on the same pool.
//
// It is true for [ErrUnavailable], for lost connections and failures to connect, for a closed
// connection, and for errors of the server, a [*pgconn.PgError], that say: serialization
// failure, deadlock or lock timeout; too few resources, such as connections; an intervention
// by an operator, a shutdown or a statement timeout; a server that is a standby or otherwise
// read-only; a prepared statement that is gone. After an error within a transaction, retry
// the whole transaction.
//
// It is false for nil, for an [*ArgumentError], [*WrongVersionError], [*DuplicateIDError],
// [*SetupError] and [ErrNoMessage], for the end of a context, and for all other errors. It
// is false for an [*UnknownOutcomeError], because a retry with other IDs may write twice:
// repeat that call with [Idempotent] and the same IDs. For a [*HandlerError] or a
// [*SkippedError], the wrapped error decides.
func IsTransient(err error) bool {
	if errors.Is(err, ErrUnavailable) {
		return true
	}
	for _, definite := range []any{
		new(*ArgumentError), new(*WrongVersionError), new(*DuplicateIDError), new(*SetupError),
		new(*UnknownOutcomeError), new(*PanicError), new(*unreadableError),
	} {
		if errors.As(err, definite) {
			return false
		}
	}
	if err == nil || !isConnectError(err) && isContextError(err) {
		return false
	}
	switch c := classify(err); c {
	case classAborted: // the error that aborted the transaction decides
		return false
	case classUnknown, classNoConnection, classNotSent:
		return isOfConnection(err)
	default:
		return c.retryRead(false)
	}
}
