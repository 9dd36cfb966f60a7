package mdb

import (
	"context"
	"slices"
	"time"
)

// A ReadCall is a read.
type ReadCall struct {
	// Method is GetStreamMessages, GetCategoryMessages, GetAllMessages, GetMessage, GetLastStreamMessage,
	// StreamVersion or CategoryHead. The pages of StreamMessages, CategoryMessages and AllMessages are read by the methods
	// with Get, and so is what GetLastCategoryMessage reads. Those of a subscription or a consumer are read by SubscribeToStream,
	// SubscribeToCategory or SubscribeToAll.
	Method string
	// Stream is the stream, or empty, and Category the category, or that of the stream. Both are empty for a read of
	// all categories, and of a message by its ID.
	Stream   StreamName
	Category Category
	// InTx is true for a call of a [Tx].
	InTx bool
}

// A ReadOutcome is the result of a read.
type ReadOutcome struct {
	// Messages is the number of messages that were read, and Bytes their size, including those that
	// come with an error.
	Messages int
	Bytes    int64
	// Err is the error. One that a subscription retries is passed here, too.
	Err error
}

// HookRead is called for each read of messages, of a version or of the end of a category. A
// subscription and a consumer read pages also while there is nothing new.
type HookRead interface {
	// OnReadStart is called when the arguments of the call are checked.
	OnReadStart(ctx context.Context, call ReadCall) context.Context
	// OnReadEnd is called with the context of OnReadStart.
	OnReadEnd(ctx context.Context, call ReadCall, took time.Duration, read ReadOutcome)
}

// startRead calls OnReadStart. begun is to be passed to endRead.
func (h *hooks) startRead(ctx context.Context, call ReadCall) (_ context.Context, begun time.Time) {
	if len(h.reads) == 0 {
		return ctx, begun
	}
	begun = time.Now()
	for _, hook := range h.reads {
		ctx = hook.OnReadStart(ctx, call) //nolint:fatcontext // each hook gets the context of the one before it
	}
	return ctx, begun
}

func (h *hooks) endRead(ctx context.Context, call ReadCall, begun time.Time, ms []Message, err error) {
	if len(h.reads) == 0 {
		return
	}
	took := time.Since(begun)
	read := ReadOutcome{Messages: len(ms), Err: err}
	for i := range ms {
		read.Bytes += ms[i].size()
	}
	for _, hook := range slices.Backward(h.reads) {
		hook.OnReadEnd(ctx, call, took, read)
	}
}

// call returns the read of a page by one of the two methods.
func (r *pageRead) call(ofStream, ofCategory string, inTx bool) ReadCall {
	if r.isStream {
		name := StreamName(r.name)
		return ReadCall{ofStream, name, name.Category(), inTx}
	}
	return ReadCall{ofCategory, "", Category(r.name), inTx}
}

func (r *pageRead) subscribedCall() ReadCall {
	if r.all != nil {
		return ReadCall{Method: "SubscribeToAll"}
	}
	return r.call("SubscribeToStream", "SubscribeToCategory", false)
}

// hookedStep takes the next step of a subscription's read, and calls hooks.
func (s *Store) hookedStep(ctx context.Context, r *pageRead) (done bool, err error) {
	before := len(r.page)
	call := r.subscribedCall()
	ctx, begun := s.config.hooks.startRead(ctx, call)
	if r.all != nil {
		done, err = s.allStep(ctx, r)
	} else {
		done, err = s.step(ctx, r)
	}
	s.config.hooks.endRead(ctx, call, begun, r.page[min(before, len(r.page)):], err)
	return done, err
}

// hookedAllPage reads the next page of all categories, and calls hooks.
func (s *Store) hookedAllPage(ctx context.Context, r *pageRead) ([]Message, error) {
	call := ReadCall{Method: "GetAllMessages"}
	ctx, begun := s.config.hooks.startRead(ctx, call)
	ms, err := s.readAllPage(ctx, r)
	s.config.hooks.endRead(ctx, call, begun, ms, err)
	return ms, err
}
