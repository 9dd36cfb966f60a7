package mdb

import (
	"context"
	"fmt"
	"strconv"

	"github.com/google/uuid"
)

// AwaitWrite waits until the server that serves reads has a message, which a write to the stream has
// returned. Call it before a read that must contain the message. Without [WithReplica], and while reads use
// the primary, it returns immediately.
//
// Its context limits how long it waits. If the message's position has another message, because a
// failover has lost the message, the error wraps [ErrNoMessage].
func (s *Store) AwaitWrite(ctx context.Context, stream StreamName, written Written) error {
	var f argumentFaults
	f.stream(stream)
	if written.ID == uuid.Nil {
		f.add("written", "no ID", "what a write has returned")
	}
	if written.Position < 0 {
		f.add("written", "position "+strconv.FormatInt(written.Position, 10), "what a write has returned")
	}
	if err := f.err(); err != nil {
		return err
	}
	r := s.replica
	for attempt := 1; r != nil && (r.joins.Load() || r.serves.Load()); attempt++ {
		there, err := r.has(ctx, stream, written)
		if there {
			return nil
		}
		if err != nil && failsReplica(ctx, err) {
			r.leave(err)
			err = nil
		}
		if err == nil || ctx.Err() == nil && IsTransient(err) {
			err = catchUp.Wait(ctx, attempt)
		}
		if err != nil {
			return explain("wait for the replica to have message "+written.ID.String(), contextError(ctx, err))
		}
	}
	return nil
}

// has reports whether the replica has a message. The error wraps ErrNoMessage if another one has its place.
func (r *replica) has(ctx context.Context, stream StreamName, written Written) (bool, error) {
	look := pageRead{name: string(stream), isStream: true, anchor: anchor{Position: written.Position}, tableless: r.store.headless.Load()}
	ask := func() error {
		st := look.lookStep()
		return r.store.run(ctx, st.st, st.read, st.args...)
	}
	err := ask()
	if err != nil && classify(err) == classSetup && !look.tableless && !isConnectError(err) {
		look.tableless = true
		err = ask()
	}
	switch {
	case err != nil || look.found.Position != written.Position:
		return false, err
	case look.found.ID != written.ID:
		return false, &replacedError{stream, written, look.found.ID}
	}
	return true, nil
}

// A replacedError says that another message has a message's place.
type replacedError struct {
	stream  StreamName
	written Written
	found   uuid.UUID
}

func (e *replacedError) Error() string {
	return fmt.Sprintf("%v with the ID %s at position %d of stream %s, where the message %s is", ErrNoMessage, e.written.ID, e.written.Position, e.stream, e.found)
}

func (e *replacedError) Unwrap() error { return ErrNoMessage }
