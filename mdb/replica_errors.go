package mdb

import (
	"context"
	"errors"
)

// elsewhere records err, the result of a read on the replica with ctx, and reports whether to read on the
// primary.
func (r *replica) elsewhere(ctx context.Context, err error) bool {
	switch {
	case err == nil || errors.Is(err, errMoreSteps):
		r.reads.Add(1)
		return false
	case ctx.Err() != nil:
		r.suspect() //nolint:contextcheck // the context has ended, or limits a wait for a connection
		return false
	case failsReplica(ctx, err):
		r.leave(err)
		return true
	}
	switch classify(err) {
	case classNoConnection:
		r.suspect() //nolint:contextcheck // the context has ended, or limits a wait for a connection
		return true
	case classTransient, classInternal, classSetup: // such as a conflict with what the standby replays, or a right that has not arrived
		return true
	}
	return isMissing(err)
}

// failsReplica reports whether err shows that the replica cannot be used.
func failsReplica(ctx context.Context, err error) bool {
	return errors.Is(err, errNotStandby) || isClosedPool(err) || isConnectError(err) && classify(err) == classSetup || isOutage(ctx, err)
}

// isMissing reports whether err says that something is not there, which may not have arrived yet, or that
// a message cannot be read, which may be damaged on the replica alone.
func isMissing(err error) bool {
	return errors.Is(err, ErrNoMessage) || errors.Is(err, ErrNoStream) || errors.Is(err, errGone) || errors.As(err, new(*UnreadableError))
}
