package mdb

import (
	"context"
	"time"
)

// A ReplicaLag says what the replica of [WithReplica] lacks of the messages that the primary has.
type ReplicaLag struct {
	// Positions is the difference between the last global position on the primary and that on the
	// replica. It is about the number of messages that the replica lacks, because few positions have none.
	Positions int64
	// Time is how long ago the transaction began, by the primary's clock, that has written the first
	// message which the replica lacks. It is 0 if it lacks none.
	Time time.Duration
}

// ReplicaLag returns how far the replica lags, whether or not reads use it now. Record it as a metric:
// nothing else shows a replica that answers but no longer replays, while subscriptions poll.
//
// It asks the primary, then the replica, and the primary again if the replica lacks something. It
// reads the table messages; if the role may not do that, the error is a [*SetupError]. Without
// WithReplica the error is an [*ArgumentError].
func (s *Store) ReplicaLag(ctx context.Context) (ReplicaLag, error) {
	const what = "find the lag of the replica"
	if s.replica == nil {
		return ReplicaLag{}, &ArgumentError{Faults: []Fault{{"store", "one without a replica", "one created with WithReplica"}}}
	}
	var here, there, micros int64
	if err := s.run(ctx, lastPosition, number(&here)); err != nil {
		return ReplicaLag{}, explain(what, err)
	}
	if err := s.replica.store.run(ctx, lastPosition, number(&there)); err != nil {
		return ReplicaLag{}, explain(what, err)
	}
	if there >= here {
		return ReplicaLag{}, nil
	}
	if err := s.run(ctx, ageAfter, number(&micros), there); err != nil {
		return ReplicaLag{}, explain(what, err)
	}
	return ReplicaLag{Positions: here - there, Time: time.Duration(micros) * time.Microsecond}, nil
}

// ageAfter is the age of the first message after a global position.
var ageAfter = newStatement("age_after", `SELECT (extract(epoch FROM (clock_timestamp() AT TIME ZONE 'utc') - time) * 1000000)::bigint
FROM message_store.messages WHERE global_position > (SELECT $1::bigint) ORDER BY global_position LIMIT 1`)
