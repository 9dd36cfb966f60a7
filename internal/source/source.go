package source

import "context"

// A Source reads the messages of a category or of a stream. Several cursors may use one
// source, in turn: it is not safe for concurrent use.
type Source[M any] interface {
	// Next reads at most the given number of messages after the checkpoint. It retries
	// transient errors for as long as they last, and waits between the attempts.
	Next(ctx context.Context, from Checkpoint, most int) (Page[M], error)
}

// A Page is what Next returns.
type Page[M any] struct {
	Messages []M

	// End is where the next page begins: after the last message, or, in a page that is not
	// full, after those that a filter has left out.
	End Checkpoint

	// Full says that there may be more to read.
	Full bool

	// Unreadable is the error of the message after the page, which cannot be read, or nil.
	// Past is the checkpoint after it.
	Unreadable error
	Past       Checkpoint

	// Forked says that messages up to the checkpoint are no longer in the store. Then there
	// are no messages, End is the last known message that is there, and Gone are the
	// messages after it that are not, in ascending order.
	Forked bool
	Gone   []Anchor
}

// Opener is set by package mdb to a func(*mdb.Store, mdb.Category, Hooks) (*Opened[mdb.Message], error),
// which this package cannot name.
var Opener any

// NewHandlerError is set by package mdb to a func(mdb.Message, error) *mdb.HandlerError.
var NewHandlerError any

// Hooks are called by a source. Each may be nil.
type Hooks struct {
	// BeforeRead is called before each read, also before one that is repeated. It reports whether
	// the reader was woken because something was written, and not by the end of a delay.
	BeforeRead func() (woken bool)
	// Retried is called for each failure that is retried. An error ends Next.
	Retried func(ctx context.Context, attempt int, err error) error
	// Wanted is called before each read, and says which messages of the page are wanted: those of some of the partitions into which
	// the cardinal IDs are divided, as an array of PostgreSQL, or all if it is empty. The others come without data. The store must use
	// direct SQL. It may be nil.
	Wanted func() (partitions int64, wanted string)
}
