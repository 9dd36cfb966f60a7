package source

import (
	"context"
	"time"

	"github.com/messagedb-go/messagedb/mdb/poll"
)

// An Opened is a source of a whole category, and what its reader needs beside it.
type Opened[M any] struct {
	Source[M]

	// After returns the checkpoint of a position. Its anchor is the last message up to it. It
	// retries transient errors as Next does, and is not safe for concurrent use with it. The
	// error is mdb's AheadError if the store has not used the position yet.
	After func(ctx context.Context, position int64) (Checkpoint, error)
	// First is After and Next in one round trip: it reads a page after a position of which nothing is known. The store must have
	// used the global position used, too. If ok is false, nothing was read, and After and Next say why. It retries nothing.
	First func(ctx context.Context, position, used int64, most int) (from Checkpoint, page Page[M], ok bool)
	// Subscribe returns what a reader waits with that has caught up. It is woken for a stream
	// only if wants, which is called with locks held, returns true. Wants may be nil.
	Subscribe func(wants func(stream string) bool) Sleeper
	// Polling is the strategy of the store.
	Polling poll.Strategy
}

// A Sleeper waits until there may be something to read.
type Sleeper interface {
	// BeforeRead must be called before each read that decides whether to sleep. It reports whether
	// something was written since its last call, or may have been, and was noticed.
	BeforeRead() (woken bool)
	// Sleep returns when something was written or may have been, or when ctx ends. d is the
	// delay of the strategy, and found the number of messages in the last read. For each value
	// from moved, Sleep calls progress, and returns its error if there is one.
	Sleep(ctx context.Context, d time.Duration, found int, moved <-chan struct{}, progress func() error) error
	Close()
}
