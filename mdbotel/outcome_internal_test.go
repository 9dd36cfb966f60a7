package mdbotel

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
)

// TestOutcomes checks the outcome of each kind of error, also if it is wrapped.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"ok": nil, "conflict": &mdb.WrongVersionError{}, "duplicate_id": &mdb.DuplicateIDError{}, "unknown": &mdb.UnknownOutcomeError{},
		"unavailable": mdb.ErrUnavailable, "invalid": &mdb.ArgumentError{}, "skipped": &mdb.SkippedError{}, "not_found": mdb.ErrNoMessage,
		"unreadable": &mdb.UnreadableError{}, "panic": &mdb.PanicError{}, "context_ended": context.Canceled, "error": errors.New("another one"),
	} {
		if got := outcomeOf(err); got != want {
			t.Errorf("%v: got %s, want %s", err, got, want)
		}
		if err == nil {
			continue
		}
		if got := outcomeOf(fmt.Errorf("wrapped: %w", err)); got != want {
			t.Errorf("%v, wrapped: got %s, want %s", err, got, want)
		}
	}
	for _, err := range []error{mdb.ErrNoStream, context.DeadlineExceeded} {
		if got := outcomeOf(err); got == "error" {
			t.Errorf("%v: got %s", err, got)
		}
	}
}
