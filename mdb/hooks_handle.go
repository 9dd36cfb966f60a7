package mdb

import (
	"context"
	"runtime/debug"
	"slices"
	"time"

	"github.com/messagedb-go/messagedb/internal/beside"
)

// A Handling is a call of a handler.
type Handling struct {
	// Subscriber is the subscription or consumer that calls the handler.
	Subscriber
	// Partition is the number of the consumer's partition.
	Partition int
	// Attempt is 1 in the first call with the message, and greater in later ones of a consumer.
	Attempt int
	// Replayed is true if a consumer replays a parked stream.
	Replayed bool
	// Message is the message, and the first one of a batch.
	Message Message
	// Batch are all messages of a batch. It is nil if the handler receives one message at a time,
	// and valid during the call only.
	Batch []Message
}

// HookHandle is called for each call of a handler of a subscription or a consumer.
type HookHandle interface {
	// OnHandleStart is called before the handler, which gets the context.
	OnHandleStart(ctx context.Context, h Handling) context.Context
	// OnHandleEnd is called with the context of OnHandleStart and with the error of the handler,
	// which is a [*PanicError] if it has panicked.
	OnHandleEnd(ctx context.Context, h Handling, took time.Duration, err error)
}

func init() {
	beside.Handling = func(s *Store) (
		start func(context.Context, Handling) (context.Context, time.Time),
		end func(context.Context, Handling, time.Time, error),
	) {
		if h := &s.config.hooks; len(h.handles) > 0 {
			start, end = h.startHandle, h.endHandle
		}
		return start, end
	}
}

func (h *hooks) startHandle(ctx context.Context, of Handling) (_ context.Context, begun time.Time) {
	begun = time.Now()
	for _, hook := range h.handles {
		ctx = hook.OnHandleStart(ctx, of) //nolint:fatcontext // each hook gets the context of the one before it
	}
	return ctx, begun
}

func (h *hooks) endHandle(ctx context.Context, of Handling, begun time.Time, err error) {
	took := time.Since(begun)
	for _, hook := range slices.Backward(h.handles) {
		hook.OnHandleEnd(ctx, of, took, err)
	}
}

// handler returns f with the hooks of a subscription.
func (h *hooks) handler(by Subscriber, f Handler) Handler {
	if len(h.handles) == 0 {
		return f
	}
	return func(ctx context.Context, m Message) (err error) {
		of := Handling{Subscriber: by, Attempt: 1, Message: m}
		ctx, begun := h.startHandle(ctx, of)
		returned := false
		defer func() {
			if v := recover(); v != nil {
				err = &PanicError{Value: v, Stack: debug.Stack()}
			} else if !returned {
				err = errHandlerExits
			}
			h.endHandle(ctx, of, begun, err)
		}()
		err = f(ctx, m)
		returned = true
		return err
	}
}
