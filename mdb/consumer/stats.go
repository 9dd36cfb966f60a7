package consumer

import (
	"sync/atomic"
	"time"
)

// Stats are counters of a [Consumer], for metrics. They begin at 0 when it is created, and
// are those of this process.
type Stats struct {
	// Partitions is the number of partitions that this process has.
	Partitions int
	// Handled, Failed, Retried, Parked and Skipped count messages: those that were handled;
	// failed calls of the handler; retries; messages whose streams were parked; and those that
	// were skipped by [Skip] or by [OnFailure].
	Handled, Failed, Retried, Parked, Skipped int64
	// Waiting is the number of messages in memory, and Bytes their size, about. Running is the
	// number of calls of the handler that have not returned.
	Waiting int
	Bytes   int64
	Running int
	// Joins counts how often the process has joined the consumer, Ticks its heartbeats, and
	// Losses how often it has lost its lease.
	Joins, Ticks, Losses int64
	// Claims and Releases count partitions that the process has taken, and that it has given
	// to other processes. The latter counts each category.
	Claims, Releases int64
	// Rewound counts checkpoints that were found before the position at which the server had
	// confirmed them, after a failover or a restore. Messages were handled again then.
	Rewound int64
	// Forks counts how often messages that were read are no longer in the store.
	Forks int64
	// LeaseMargin is the shortest time that was left of the lease when it was renewed. If it
	// comes near 0, choose a longer lease, or find out why the server answers late. It is 0
	// before the first heartbeat.
	LeaseMargin time.Duration
}

// counts are those of a member.
type counts struct {
	joins, ticks, losses, claims, releases, rewound, forks, partitions atomic.Int64

	least atomic.Int64 // of the margins; 0: none
}

// margin records how much was left of the lease when it was renewed.
func (c *counts) margin(left time.Duration) {
	left = max(left, 1)
	if least := c.least.Load(); least == 0 || int64(left) < least {
		c.least.Store(int64(left))
	}
}
