package consumer

import (
	"math"
	"sync"
	"sync/atomic"

	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// A readerConfig configures a reader. Its functions are called by the goroutine of run.
type readerConfig struct {
	category   string
	partitions int           // of the consumer
	batch      int           // messages of a page, at most
	polling    poll.Strategy // nil: the store's
	open       func(source.Hooks) (*source.Opened[mdb.Message], error)
	sink       readerSink
	trail      *trail // remembers the messages; nil: nothing needs them
	filters    bool   // the server leaves out the data of messages that are not wanted

	// rewound is called when messages that were read are no longer in the store, which ends
	// after the position. All partitions are closed then. The member reads its rows again, and
	// opens them. gone are the messages, as far as they are known.
	rewound func(category string, end int64, gone []source.Anchor)

	// live is called with true when all partitions have been read to the end, which is at a
	// position, and with false when two pages in a row have shown that they have not. It may be
	// nil.
	live func(category string, live bool, upto int64)
}

// A readerSink receives what a reader has read. It is called with the reader's lock held, so
// it must not call the reader.
type readerSink interface {
	// feed and room are the engine's. The messages are the sink's only during the call.
	feed(p partition, epoch int64, ms []mdb.Message, end source.Checkpoint)
	room(p partition) bool
	// unreadable is like feed for a message that cannot be read. It counts as a message whose
	// handling has failed permanently with this error.
	unreadable(p partition, epoch int64, err *mdb.UnreadableError, end source.Checkpoint)
}

// openCategory returns readerConfig.open for a category of a store.
func openCategory(s *mdb.Store, category mdb.Category) func(source.Hooks) (*source.Opened[mdb.Message], error) {
	open := source.Opener.(func(*mdb.Store, mdb.Category, source.Hooks) (*source.Opened[mdb.Message], error)) //nolint:forcetypeassert // what mdb sets
	return func(hooks source.Hooks) (*source.Opened[mdb.Message], error) { return open(s, category, hooks) }
}

// A reader reads a category once for all its partitions that the member has claimed, and
// drops the messages of others.
//
// Each partition has a cursor. A page is read from one of the cursors, and passed to all
// partitions whose cursors it covers: it contains everything after them up to its end. So
// partitions at the same position, or less than a page apart, share their reads. A partition
// that has no room for its messages of a page stays where it is, while the others move on,
// and is read separately when it has room. See [reader.plan] for whose turn it is.
//
// Its methods are safe for concurrent use, except those that belong to the goroutine of run.
type reader struct {
	readerConfig

	woken   chan struct{} // contains a value if the plan may have changed
	starved atomic.Bool   // a partition without room has been left out
	held    []atomic.Bool // by partition, for the sleeper, which asks with its own lock held

	// mu guards the following fields, and is held while messages are passed to the sink, so
	// that a partition receives none after close has returned.
	mu      sync.Mutex
	cursors []*cursor // by partition; nil: not open
	paused  bool
	barrier int64 // nothing beyond it is passed on

	// The following fields belong to the goroutine of run.
	source    *source.Opened[mdb.Message]
	sleeper   source.Sleeper
	turn      int
	used      int64          // the store has used the global positions up to it
	front     bool           // the page that is being read decides whether to sleep
	due       bool           // a poll need not wait
	found     int            // messages of the last short page that were passed on
	seen      poll.Seen      // what the strategy knows
	late      int            // pages in a row that have not shown that everything is read
	wasLive   *bool          // the last value passed to live; nil: none
	ahead     map[int64]bool // positions that the store had not used when they were first asked for
	span      int64          // the positions of the last full page
	numbering numbering
	numbers   []int         // the partitions of the page's messages
	shares    []mdb.Message // the page's messages by partition
	below     []int64       // positions, of plan
	wanted    []byte        // the partitions that the page is for, as an array of PostgreSQL; empty: all
}

func newReader(c readerConfig) *reader {
	return &reader{
		readerConfig: c,
		woken:        make(chan struct{}, 1),
		held:         make([]atomic.Bool, c.partitions),
		cursors:      make([]*cursor, c.partitions),
		barrier:      math.MaxInt64,
		ahead:        make(map[int64]bool),
	}
}

// An opening is a partition that begins after a checkpoint.
type opening struct {
	partition partition
	epoch     int64
	from      source.Checkpoint
}

// open begins partitions, or begins them again. A page that is being read is not for them:
// their checkpoints may be from a later history than the page. Those of one call share their
// reads from the beginning.
func (r *reader) open(openings ...opening) {
	r.mu.Lock()
	for _, o := range openings {
		r.cursors[o.partition.Number] = &cursor{partition: o.partition, epoch: o.epoch, at: o.from, checked: len(o.from.Anchors()) > 0}
		r.held[o.partition.Number].Store(true)
	}
	r.mu.Unlock()
	r.signal()
}

// close ends partitions. They receive no messages after it has returned.
func (r *reader) close(ps []partition) {
	r.mu.Lock()
	for _, p := range ps {
		r.cursors[p.Number] = nil
		r.held[p.Number].Store(false)
	}
	r.mu.Unlock()
	r.signal()
}

// limit stops reading at the barrier, if it is not nil, or everywhere. Nothing beyond it is
// passed on after limit has returned.
func (r *reader) limit(barrier *int64, paused bool) {
	r.mu.Lock()
	before, was := r.barrier, r.paused
	r.barrier, r.paused = math.MaxInt64, paused
	if barrier != nil {
		r.barrier = *barrier
	}
	changed := r.barrier != before || paused != was
	for _, c := range r.cursors {
		if c != nil && changed {
			c.live = false // a page may have been dropped, or cut
		}
	}
	r.mu.Unlock()
	if changed {
		r.signal()
	}
}

// forget closes all partitions.
func (r *reader) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.cursors {
		r.cursors[i] = nil
		r.held[i].Store(false)
	}
	r.used = 0
}

// wake is called when a partition may have room again.
func (r *reader) wake() {
	if r.starved.Load() {
		r.signal()
	}
}

func (r *reader) signal() {
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// caughtUp reports whether the last pages have shown that everything is read for all open
// partitions, and up to where that is: math.MaxInt64 if none is open.
func (r *reader) caughtUp() (upto int64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	upto = math.MaxInt64
	for _, c := range r.cursors {
		if c != nil {
			if !c.live {
				return 0, false
			}
			upto = min(upto, c.at.Position)
		}
	}
	return upto, true
}

func (r *reader) wants(stream string) bool {
	return r.held[partitionOf(mdb.StreamName(stream), len(r.held))].Load()
}
