package consumertest

import (
	"fmt"
	"strings"

	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// A Result says what became of the messages of one run.
type Result struct {
	// Handled is the number of messages that were handled. A message that failed before is one
	// of them.
	Handled int
	// Failures are the failed attempts that count as attempts, see [consumer.Failure], in
	// their order.
	Failures []consumer.Failure
	// Skipped are those after which the message counts as handled. The message is not one of
	// Handled.
	Skipped []consumer.Failure
	// Parked are those after which the message's stream was parked.
	Parked []consumer.Failure
	// Waiting are messages that are neither handled nor parked, because the handler was called
	// for them a hundred times in a row, for example with [consumer.Transient] errors. Attempt
	// is the number of these calls. Messages after them, with the same cardinal ID, wait too.
	// [CatchUp] never returns any.
	Waiting []consumer.Failure
	// Err is the [*mdb.HandlerError] that has stopped the consumer, or nil.
	Err error
}

// String describes the result for the message of a failed test. It contains the errors, but not
// the messages' data.
func (r Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d handled", r.Handled)
	for _, list := range []struct {
		what     string
		failures []consumer.Failure
	}{{"failed", r.Failures}, {"skipped", r.Skipped}, {"parked", r.Parked}, {"waiting", r.Waiting}} {
		for i := range list.failures {
			f := &list.failures[i]
			fmt.Fprintf(&b, "\n%s: %s/%d %s, attempt %d: %v", list.what, f.Message.Stream, f.Message.Position, f.Message.Type, f.Attempt, f.Err)
		}
	}
	if r.Err != nil {
		fmt.Fprintf(&b, "\nstopped: %v", r.Err)
	}
	return b.String()
}
