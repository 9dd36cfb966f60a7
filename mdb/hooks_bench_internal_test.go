package mdb

import (
	"context"
	"testing"
)

// BenchmarkNoHooks measures what the calls of hooks add to a write of one message, and to a read, of a store that has none.
func BenchmarkNoHooks(b *testing.B) {
	s := &procedures{config: new(storeConfig)}
	h := &s.config.hooks
	b.Run("write", func(b *testing.B) {
		w := &proposedWrite{stream: "account-1"}
		b.ReportAllocs()
		for b.Loop() {
			call := WriteCall{Method: "WriteMessage", Stream: w.stream, Writes: 1, Messages: 1, InTx: s.tx != nil}
			ctx, begun := h.startCall(context.Background(), call)
			h.addMetadata(ctx, &w.faults, w.stream, ProposedMessage{}, nil)
			s.ended(ctx, w, nil)
			h.endCall(ctx, call, begun, nil)
		}
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			call := ReadCall{Method: "GetStreamMessages", Stream: "account-1", Category: StreamName("account-1").Category()}
			ctx, begun := h.startRead(context.Background(), call)
			h.endRead(ctx, call, begun, nil, nil)
		}
	})
}
