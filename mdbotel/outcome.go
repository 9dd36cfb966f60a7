package mdbotel

import (
	"context"
	"errors"

	"github.com/messagedb-go/messagedb/mdb"
)

// The outcomes of calls, which metrics have as an attribute. Spans have those of errors as error.type.
const (
	outcomeOK          = "ok"
	outcomeDuplicate   = "duplicate"
	outcomeConflict    = "conflict"
	outcomeDuplicateID = "duplicate_id"
	outcomeUnknown     = "unknown"
	outcomeUnavailable = "unavailable"
	outcomeInvalid     = "invalid"
	outcomeSkipped     = "skipped"
	outcomeNotFound    = "not_found"
	outcomeUnreadable  = "unreadable"
	outcomePanic       = "panic"
	outcomeEnded       = "context_ended"
	outcomeError       = "error"
)

// outcomeOf returns what an error says of a call.
func outcomeOf(err error) string {
	switch {
	case err == nil:
		return outcomeOK
	case errors.As(err, new(*mdb.SkippedError)): // it wraps the error of another write
		return outcomeSkipped
	case errors.As(err, new(*mdb.UnknownOutcomeError)): // it may wrap what has ended the call
		return outcomeUnknown
	case errors.As(err, new(*mdb.WrongVersionError)):
		return outcomeConflict
	case errors.As(err, new(*mdb.DuplicateIDError)):
		return outcomeDuplicateID
	case errors.As(err, new(*mdb.ArgumentError)):
		return outcomeInvalid
	case errors.As(err, new(*mdb.UnreadableError)):
		return outcomeUnreadable
	case errors.As(err, new(*mdb.PanicError)):
		return outcomePanic
	case errors.Is(err, mdb.ErrNoMessage), errors.Is(err, mdb.ErrNoStream):
		return outcomeNotFound
	case errors.Is(err, mdb.ErrUnavailable):
		return outcomeUnavailable
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return outcomeEnded
	}
	return outcomeError
}

// outcomeOfWrite returns what has become of a write.
func outcomeOfWrite(w *mdb.WriteOutcome) string {
	if w.Err != nil {
		return outcomeOf(w.Err)
	}
	for _, written := range w.Written {
		if !written.Duplicate {
			return outcomeOK
		}
	}
	if len(w.Written) == 0 {
		return outcomeOK
	}
	return outcomeDuplicate
}
