package mdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/barrier"
	"github.com/messagedb-go/messagedb/internal/inspection"
)

// A barrierServer executes the statements of a store's barrier.
type barrierServer struct{ s *procedures }

// A drawn is the row of barrierDrawn.
type drawn struct {
	server, last     int64
	stored           int64 // the greatest position in the table
	start, stride    int64 // positions of the sequence are this far apart
	standby          bool
	cache, increment int64
	cycle            bool
}

func (d *drawn) read(rows pgx.Rows) error {
	return one(&d.server, &d.standby, &d.last, &d.cache, &d.cycle, &d.increment, &d.stored, &d.start, &d.stride)(rows)
}

// missing reports whether the sequence has a position between two others. What a shard has received from
// another one has positions of that one's sequence, between which nothing is missing.
//
// The stride may have been another one before. But ALTER SEQUENCE waits for the transactions that have
// drawn a position, so none of them is open any more.
func (d *drawn) missing(before, position int64) bool {
	return d.upTo(position-1) > d.upTo(before)
}

// upTo returns the number of positions of the sequence up to one, and a constant.
func (d *drawn) upTo(position int64) int64 {
	stride := max(d.stride, 1)
	n := position / stride
	if position%stride >= d.start%stride {
		n++
	}
	return n
}

const sequenceName = "message_store.messages_global_position_seq"

// check returns an error if the server does not show what is final.
func (d *drawn) check() error {
	sequence := func(problem, change string) error {
		return &SetupError{
			Problem: "all categories cannot be read in order: the sequence " + sequenceName + " " + problem,
			Remedy:  "let its owner execute ALTER SEQUENCE " + sequenceName + " " + change,
		}
	}
	switch {
	case d.standby:
		return &SetupError{
			Problem: "all categories cannot be read from a standby, which does not show the open transactions of its primary",
			Remedy:  "connect to the primary, for example with target_session_attrs=read-write",
		}
	case d.cache != 1:
		return sequence(fmt.Sprintf("has CACHE %d, so sessions draw positions long before they use them", d.cache), "CACHE 1, and restart its clients")
	case d.cycle:
		return sequence("has CYCLE, so positions are used again", "NO CYCLE")
	case d.increment < 1:
		return sequence("descends", "INCREMENT BY 1, and correct the positions")
	case d.stored > d.last:
		return errSequenceLow
	}
	return nil
}

// errSequenceLow is the error if a message has a position that the sequence has not drawn.
var errSequenceLow = &SetupError{
	Problem: "the sequence of global positions is lower than those in the table, so it does not show which positions are in use; this is also so on a logical replica, which cannot be read as a whole",
	Remedy:  setSequence + inspection.SequenceRemedy,
}

// runFinal runs steps, of which the first reads d, and fails if the server does not show what is
// final.
func (s *procedures) runFinal(ctx context.Context, d *drawn, steps ...step) error {
	proxied := &proxiedError{"read all categories", whyNoAll}
	if s.proxied() {
		return proxied
	}
	err := s.runBatch(ctx, nil, steps...)
	if s.proxied() { // as the first call has found out; the proxy may have tables, which are none of the shards'
		return proxied
	}
	if err == nil {
		err = d.check()
	}
	return err
}

func (b barrierServer) Draw(ctx context.Context) (barrier.Drawn, error) {
	var d drawn
	holders := ""
	err := b.s.runFinal(ctx, &d,
		step{st: barrierDrawn, read: d.read},
		step{st: barrierHolders, read: one(&holders)})
	return barrier.Drawn{Server: d.server, Last: d.last, Holders: holders}, b.explain(err)
}

func (b barrierServer) Left(ctx context.Context, holders string) (server int64, left string, err error) {
	err = b.s.run(ctx, barrierLeft, one(&server, &left), holders)
	return server, left, b.explain(err)
}

func (b barrierServer) Sessions(ctx context.Context, holders string) (sessions string, err error) {
	err = b.s.run(ctx, barrierSessions, one(&sessions), holders)
	return sessions, b.explain(err)
}

func (b barrierServer) explain(err error) error {
	if err == nil {
		return nil
	}
	return explain("find out up to where all messages are final", err)
}

// Head returns the global position up to which the messages of all categories are final: those
// that are written later get greater positions, and no message up to it is still to become
// visible. It is not the position of the last message: the transactions that have drawn the
// positions between the two may have been rolled back. A subscription with [FromEnd] starts
// after it.
//
// It waits until the transactions have ended that were writing when it was called, see
// [Store.GetAllMessages], and takes at least one round trip.
func (s *Store) Head(ctx context.Context) (int64, error) {
	final, err := s.reach(ctx, barrier.Now)
	return final.Position, err
}

// reach passes a barrier, see [barrier.Barrier.Reach].
func (s *Store) reach(ctx context.Context, position int64) (barrier.Final, error) {
	final, err := s.barrier.Reach(ctx, position)
	if err != nil && err != errPatience && err == context.Cause(ctx) { //nolint:errorlint // what Reach returns
		err = fmt.Errorf("mdb: wait for the end of transactions that may have drawn earlier positions: %w", err)
	}
	return final, err
}

// patience is how long a read of all categories waits for a barrier before it looks for something
// that it can do meanwhile.
const patience = time.Second

// errPatience is the cause of the end of a context after that.
var errPatience = errors.New("a transaction stays open")

// reachSoon is reach, with errPatience after a while.
func (s *Store) reachSoon(ctx context.Context, position int64) (barrier.Final, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errPatience)
	defer cancel()
	final, err := s.reach(ctx, position)
	if err != nil && context.Cause(ctx) == errPatience { //nolint:errorlint // the cause itself
		err = errPatience
	}
	return final, err
}
