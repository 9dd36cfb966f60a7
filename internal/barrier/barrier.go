// Package barrier says up to which global position the messages of a store are final, in all
// categories: each message up to it is visible or will never exist.
//
// Messages become visible in the order of their global positions in each category, but not
// across categories. A reader that sees the positions 7 and 9 does not know whether 8 was
// rolled back or belongs to a transaction that is still open.
//
// # Protocol
//
// A barrier is a sequence of statements, each with a view of the server of its own:
//
//  1. L is the last value that the sequence has drawn.
//  2. The holders are the transactions that hold an advisory lock of the kind that
//     write_message takes.
//  3. Wait until all of these have ended.
//  4. Read. All messages up to L are final in this read and in later ones.
//
// A writer takes the lock of its category before it draws a position, and holds it until its
// commit is visible. So a writer that has drawn a position up to L either had ended before step
// 2, and is visible to the read, or is one of the holders. A writer that takes its lock later
// draws a position greater than L.
//
//	writer first                          barrier first
//
//	W  locks its category                 B  L = 7
//	W  draws 8                            W  locks its category
//	B  L = 8                              B  the holders: W
//	B  the holders: W                     W  draws 8
//	W  commits: visible, then unlocked    B  waits for W, which costs time and nothing else
//	B  no holder is left; reads: 8 is there
//
// If the holders were read before L, a writer could take its lock and draw a position between
// the two. If the messages were read before the holders have ended, or with a snapshot that is
// as old, a writer could commit after that. If all holders were waited for, instead of those of
// step 2, busy writers would delay a reader for ever.
//
// A holder is a virtual transaction, and not a session, which may hold locks again in its next
// transaction. PREPARE TRANSACTION keeps the name.
//
// # Crashes
//
// After a crash, a prepared transaction has another name, and the sequence may draw positions again
// that nobody has committed. So a barrier that a restart or a crash interrupts begins again, and
// what is final is so up to the next one. Each statement says which server it has run on, and a
// server is another one after a crash.
//
// # Limits
//
// A program that inserts into the table without write_message takes no lock, and may draw a
// position long before it commits. Nothing shows that. Nor does anything show that a failover has
// undone a ROLLBACK PREPARED, so that its transaction may be committed after all.
package barrier

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/messagedb-go/messagedb/internal/backoff"
)

// A Server executes the statements of a barrier.
type Server interface {
	// Draw executes DrawnSQL and then HoldersSQL. It fails if a barrier proves nothing on this
	// server.
	Draw(ctx context.Context) (Drawn, error)
	// Left executes LeftSQL.
	Left(ctx context.Context, holders string) (server int64, left string, err error)
	// Sessions executes SessionsSQL.
	Sessions(ctx context.Context, holders string) (string, error)
}

// Drawn is what a barrier begins with.
type Drawn struct {
	Server  int64  // distinguishes servers, and what one has become by a restart or a crash
	Last    int64  // the last position that was drawn
	Holders string // transactions, separated by commas
}

// Final says that all positions up to one are final on a server. On another server, which a
// failover or a restore has put in its place, transactions may be open that have drawn the same
// positions.
type Final struct{ Server, Position int64 }

// Now is a position that Reach never reaches.
const Now = math.MaxInt64

// patience is how long a barrier waits before it is logged.
const patience = time.Second

var poll = backoff.Policy{Min: time.Millisecond, Max: 100 * time.Millisecond}

// A Barrier remembers what is final. All readers of a store share it. It is safe for concurrent
// use, and has no goroutine: one of the callers executes the statements for all. If its context
// ends, the next caller goes on with the same barrier.
type Barrier struct {
	server Server
	logger *slog.Logger
	turn   chan struct{} // contains a value while a caller executes statements

	pending  *pending // has begun and not ended; nil: none. Whoever has the turn uses it.
	reported string   // the transactions that were logged, likewise

	mu    sync.Mutex
	final Final
	begun int64 // counts the barriers
	ended int64 // the number of the last one that has succeeded
}

// A pending barrier waits for transactions.
type pending struct {
	Drawn

	number int64
	since  time.Time
	looks  int
}

// New returns a barrier of which nothing is final yet.
func New(server Server, logger *slog.Logger) *Barrier {
	return &Barrier{server: server, logger: logger, turn: make(chan struct{}, 1)}
}

// Final returns what is known to be final. It is the zero value if nothing is known.
func (b *Barrier) Final() Final {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.final
}

// Forget forgets what is final on a server. Call it if the server is another one now, or has lost
// messages.
func (b *Barrier) Forget(server int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.final.Server == server {
		b.final = Final{}
	}
}

// Reach returns what is final: at least the position, or what a barrier has found that began
// after the call. The error is that of a statement, or the cause of the context's end.
func (b *Barrier) Reach(ctx context.Context, position int64) (Final, error) {
	b.mu.Lock()
	begun := b.begun
	b.mu.Unlock()
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-ctx.Done():
		return Final{}, context.Cause(ctx)
	}
	for {
		b.mu.Lock()
		final, ended := b.final, b.ended
		b.mu.Unlock()
		if final.Server != 0 && (final.Position >= position || ended > begun) {
			return final, nil
		}
		if err := b.pass(ctx); err != nil {
			return Final{}, err
		}
	}
}

// pass passes the pending barrier, or a new one.
func (b *Barrier) pass(ctx context.Context) error {
	for {
		p := b.pending
		if p == nil {
			b.mu.Lock()
			b.begun++
			p = &pending{number: b.begun, since: time.Now()}
			b.mu.Unlock()
			var err error
			if p.Drawn, err = b.server.Draw(ctx); err != nil {
				return err
			}
			b.pending = p
		}
		server, err := b.wait(ctx, p)
		if err != nil {
			return err
		}
		b.pending = nil
		if server == p.Server {
			b.mu.Lock()
			b.final, b.ended = Final{server, p.Last}, p.number
			b.mu.Unlock()
			return nil
		}
	}
}

// wait waits until no holder is left, or until the server is another one, and returns which it is.
func (b *Barrier) wait(ctx context.Context, p *pending) (server int64, err error) {
	server = p.Server
	for left := p.Holders; left != "" && server == p.Server; {
		if p.looks++; poll.Wait(ctx, p.looks) != nil {
			return 0, context.Cause(ctx)
		}
		if server, left, err = b.server.Left(ctx, p.Holders); err != nil {
			return 0, err
		}
		if waited := time.Since(p.since); left != "" && waited > patience {
			b.report(ctx, left, waited)
		}
	}
	return server, nil
}
