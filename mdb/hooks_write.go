package mdb

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"time"
)

// A WriteCall is a call that writes.
type WriteCall struct {
	// Method is WriteMessage, WriteMessages, WriteEach or Atomically.
	Method string
	// Stream is the stream of WriteMessage and WriteMessages.
	Stream StreamName
	// Writes is the number of independent writes, and Messages that of their messages. Both
	// are 0 for Atomically, in which the calls of the [Tx] are calls of their own.
	Writes, Messages int
	// InTx is true for a call of a [Tx]. Its messages are written when the transaction commits.
	InTx bool
}

// HookWriteCall is called for each call that writes, for example to make a span.
type HookWriteCall interface {
	// OnWriteStart is called before anything is checked or sent.
	OnWriteStart(ctx context.Context, call WriteCall) context.Context
	// OnWriteEnd is called with the context of OnWriteStart when the call returns: with its error,
	// or that of the first write of WriteEach that has failed.
	OnWriteEnd(ctx context.Context, call WriteCall, took time.Duration, err error)
}

// A WriteOutcome is what has become of a write.
type WriteOutcome struct {
	// Stream is the stream, Messages the number of messages, and Bytes the size of their data and
	// metadata as they are sent.
	Stream          StreamName
	Messages, Bytes int
	// Attempts is how often the write was sent, or was about to be: 0 if the call is invalid, more
	// than 1 after retries.
	Attempts int
	// Grouped is true if its first attempt was that of a group, see [WithGroupCommit].
	Grouped bool
	// InTx is true for a write of a [Tx]. Its messages are written when the transaction commits.
	InTx bool
	// Written says where the messages are, if Err is nil. It is valid during the call only.
	Written []Written
	// Err is the error of the write, which is an [*UnknownOutcomeError] if it may have happened.
	Err error
}

// HookWrite is called for each write, for example to count outcomes, or for an audit log.
// WriteMessage and WriteMessages are one write, and WriteEach is many.
type HookWrite interface {
	// OnWrite is called when the outcome of the write is known, before OnWriteEnd and with its
	// context. WriteEach calls it for some of its writes while others are not done.
	OnWrite(ctx context.Context, w WriteOutcome)
}

// HookMetadata adds keys to the metadata of messages that are written, for example the context of
// a trace.
type HookMetadata interface {
	// OnMetadata is called for each message before it is encoded, with the context of OnWriteStart.
	// The message has its ID. The keys are encoded with [json.Marshal], and replace those that the
	// metadata has. Metadata that is another JSON value than an object or null is left as it is.
	// What cannot be stored is an [*ArgumentError] of the write.
	OnMetadata(ctx context.Context, stream StreamName, m ProposedMessage) map[string]any
}

// A WriteGroup is a group of writes that become one transaction, see [WithGroupCommit].
type WriteGroup struct {
	// Category is that of the streams.
	Category Category
	// Writes is the number of writes, Messages that of their messages, and Bytes about the size of
	// all of them.
	Writes, Messages, Bytes int

	members []*member
}

// Contexts calls f with the context of each of the calls whose writes are in the group, as
// OnWriteStart has returned it, for example to link their spans.
func (g WriteGroup) Contexts(f func(ctx context.Context)) {
	for _, m := range g.members {
		f(m.ctx)
	}
}

// HookGroup is called for each group of writes that becomes a transaction. Other writes to the
// category wait meanwhile.
type HookGroup interface {
	// OnGroupStart is called before the group is sent. Its context has no values and no end,
	// because the group goes on whichever of the calls end.
	OnGroupStart(ctx context.Context, g WriteGroup) context.Context
	// OnGroupEnd is called with the context of OnGroupStart before the calls return. The error is
	// that of the transaction. The outcomes of its writes are passed to OnWrite.
	OnGroupEnd(ctx context.Context, g WriteGroup, took time.Duration, err error)
}

// startCall calls OnWriteStart. begun is set if it is to be passed to endCall.
func (h *hooks) startCall(ctx context.Context, call WriteCall) (_ context.Context, begun time.Time) {
	if len(h.calls) == 0 {
		return ctx, begun
	}
	begun = time.Now()
	for _, hook := range h.calls {
		ctx = hook.OnWriteStart(ctx, call) //nolint:fatcontext // each hook gets the context of the one before it
	}
	return ctx, begun
}

func (h *hooks) endCall(ctx context.Context, call WriteCall, begun time.Time, err error) {
	if len(h.calls) == 0 {
		return
	}
	took := time.Since(begun)
	for _, hook := range slices.Backward(h.calls) {
		hook.OnWriteEnd(ctx, call, took, err)
	}
}

// ended records the result of w, and calls OnWrite.
func (s *procedures) ended(ctx context.Context, w *proposedWrite, err error) {
	s.conflicts.note(w.stream, err)
	if len(s.config.hooks.writes) == 0 {
		return
	}
	outcome := WriteOutcome{
		Stream: w.stream, Messages: len(w.ids), Attempts: w.attempts, Grouped: w.grouped, InTx: s.tx != nil, Err: err,
	}
	if err == nil {
		outcome.Written = w.written
	}
	for i := range w.ids {
		outcome.Bytes += textSize(w.data[i]) + textSize(w.metadata[i])
	}
	for _, hook := range slices.Backward(s.config.hooks.writes) {
		hook.OnWrite(ctx, outcome)
	}
}

func textSize(text *string) int {
	if text == nil {
		return 0
	}
	return len(*text)
}

// addMetadata returns metadata with what hooks add to it.
func (h *hooks) addMetadata(ctx context.Context, f *argumentFaults, stream StreamName, m ProposedMessage, metadata []byte) []byte {
	for _, hook := range h.metadata {
		keys := hook.OnMetadata(ctx, stream, m)
		if len(keys) == 0 {
			continue
		}
		added, err := encode(keys)
		if err != nil {
			f.add("metadata of a hook", err.Error(), "values that PostgreSQL can store as JSON")
			continue
		}
		metadata = withKeys(metadata, added)
	}
	return metadata
}

// withKeys returns a JSON object with the keys of another one, which is not empty. Those that
// both have come last, and the server keeps the last ones.
func withKeys(object, keys json.RawMessage) json.RawMessage {
	trimmed := bytes.TrimSpace(object)
	switch {
	case len(trimmed) == 0 || string(trimmed) == "null":
		return keys
	case trimmed[0] != '{':
		return object
	}
	members := bytes.TrimSpace(trimmed[1 : len(trimmed)-1])
	if len(members) == 0 {
		return keys
	}
	merged := make([]byte, 0, len(members)+len(keys)+2)
	merged = append(append(append(merged, '{'), members...), ',')
	return append(merged, keys[1:]...)
}

// startGroup calls OnGroupStart.
func (h *hooks) startGroup(ctx context.Context, members []*member) (_ context.Context, g WriteGroup, begun time.Time) {
	if len(h.groups) == 0 {
		return ctx, g, begun
	}
	g = WriteGroup{Category: members[0].stream.Category(), Writes: len(members), members: members}
	for _, m := range members {
		g.Messages += len(m.ids)
		g.Bytes += m.bytes
	}
	begun = time.Now()
	for _, hook := range h.groups {
		ctx = hook.OnGroupStart(ctx, g) //nolint:fatcontext // each hook gets the context of the one before it
	}
	return ctx, g, begun
}

func (h *hooks) endGroup(ctx context.Context, g WriteGroup, begun time.Time, err error) {
	if len(h.groups) == 0 {
		return
	}
	took := time.Since(begun)
	if err != nil {
		err = scrub(err)
	}
	for _, hook := range slices.Backward(h.groups) {
		hook.OnGroupEnd(ctx, g, took, err)
	}
}
