package consumer

import (
	"sync/atomic"
	"time"
)

// Stats are counters of a [Consumer], for metrics. They begin at 0 when it is created, and
// are those of this process.
type Stats struct {
	// Partitions is the number of partitions that belong to this process now.
	Partitions int
	// Paused is true while operators have paused the consumer: no handler is called.
	Paused bool
	// Handled counts messages that were handled, and Skipped those that were skipped by [Skip]
	// or [OnFailure]. Parked counts messages whose failure has parked their streams; those that
	// wait for them are not counted. Failed counts failed attempts, see [Failure], and Retried
	// retries, including those after failures that do not count as attempts.
	Handled, Failed, Retried, Parked, Skipped int64
	// Replayed counts the handled messages that were handled in a replay of a parked stream.
	Replayed int64
	// Waiting is the number of messages in memory that are not handled, and Bytes about their
	// size. Running is the number of calls of the handler that have not returned.
	Waiting int
	Bytes   int64
	Running int
	// Oldest is when the first of these messages was written, by the clock of its server, or zero if there is none.
	// It stays the same while a handler hangs, or a message is retried in place.
	Oldest time.Time
	// Full is the number of partitions for which nothing is read, because a few thousand of their messages are in memory, or
	// their share of [WithMaxBytes]. If it stays above 0, a handler is slow or hangs, or a message is retried in place.
	Full int
	// Joins counts how often the process has joined the consumer, Ticks its heartbeats, which
	// renew the lease and store progress, and Losses how often it has lost its lease.
	Joins, Ticks, Losses int64
	// Claims counts partitions that the process has taken, and Releases those that it has given
	// back while it was running, for other processes.
	Claims, Releases int64
	// Rewound counts checkpoints that were found at an earlier position than the server had
	// confirmed, after a failover or a restore. The messages since then are handled again. A
	// checkpoint that an operator has moved does not count.
	Rewound int64
	// Forks counts how often messages that were read were found to be missing from the store,
	// after a failover or a restore.
	Forks int64
	// LeaseMargin is the shortest time for which handlers could still have been called when the
	// lease was renewed. If it comes near 0, choose a longer lease, or find out why the server
	// answers late. It is 0 before the first heartbeat.
	LeaseMargin time.Duration
}

// counts are those of a member.
type counts struct {
	joins, ticks, losses, claims, releases, rewound, forks, partitions atomic.Int64

	paused atomic.Bool

	least atomic.Int64 // of the margins; 0: none
}

// margin records how much was left of the lease when it was renewed.
func (c *counts) margin(left time.Duration) {
	left = max(left, 1)
	if least := c.least.Load(); least == 0 || int64(left) < least {
		c.least.Store(int64(left))
	}
}
