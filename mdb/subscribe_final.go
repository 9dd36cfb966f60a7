package mdb

import (
	"context"
	"errors"
)

// A standby can show a commit before its primary does: with synchronous replication, for as long as the commit waits for a standby. So a
// message that was read from a standby may not be visible on the primary yet, and is not lost. A writer holds the lock of its category
// until its message is visible. So who gets that lock sees all that the standbys have shown before.

// lockSoon limits the wait for the lock, so that the statement does not hold its connection for long. The next attempt waits again.
var lockSoon = newStatement("lock_soon", `SELECT pg_catalog.set_config('lock_timeout', '1s', true)`)

// awaitWriters waits for those who write to the category. It reports false if the role may not, or the database is a proxy, where
// the lock would be another one.
func (s *Store) awaitWriters(ctx context.Context, r *pageRead) (done bool, err error) {
	if s.proxied() {
		return false, nil
	}
	var none int64
	err = s.runBatch(ctx, nil, step{st: lockSoon, read: drain}, step{st: acquireLock, read: number(&none), args: []any{r.name}})
	switch {
	case err == nil:
		return true, nil
	case classify(err) == classSetup:
		return false, nil
	}
	return false, explain("wait for those who write to "+r.kind(), err)
}

// compareFinally is compareAnchors, but the first anchor is not missing because its message is not visible yet.
func (s *Store) compareFinally(ctx context.Context, r *pageRead, known []anchor) (there []bool, err error) {
	there, err = s.compareAnchors(ctx, r, known)
	if err != nil || there[0] {
		return there, err
	}
	if done, err := s.awaitWriters(ctx, r); !done {
		return there, err
	}
	return s.compareAnchors(ctx, r, known)
}

// anchorBeforeFinally is anchorBefore, but a stream does not end before the position because a message is not visible yet.
func (s *Store) anchorBeforeFinally(ctx context.Context, r *pageRead, position int64) (checkpoint, error) {
	found, err := s.anchorBefore(ctx, r, position)
	if !r.isStream || !errors.As(err, new(*AheadError)) {
		return found, err
	}
	done, failed := s.awaitWriters(ctx, r)
	switch {
	case failed != nil:
		return found, failed
	case !done:
		return found, err
	}
	return s.anchorBefore(ctx, r, position)
}
