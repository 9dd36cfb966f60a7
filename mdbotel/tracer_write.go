package mdbotel

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/messagedb-go/messagedb/mdb"
)

const publish, atomically, group = "publish", "Atomically", "group"

func (t *tracer) OnWriteStart(ctx context.Context, call mdb.WriteCall) context.Context {
	if call.Method == atomically {
		ctx, span := t.tracer.Start(ctx, atomically, trace.WithAttributes(system))
		return withSpan(ctx, span)
	}
	category := call.Stream.Category()
	attrs := append(operation(publish, semconv.MessagingOperationTypeSend, category, call.Stream), keyMethod.String(call.Method))
	if call.Method != "WriteMessage" {
		attrs = append(attrs, semconv.MessagingBatchMessageCount(call.Messages))
	}
	ctx, span := t.tracer.Start(ctx, spanName(publish, category), trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(attrs...))
	return withSpan(ctx, span)
}

func (t *tracer) OnWriteEnd(ctx context.Context, call mdb.WriteCall, _ time.Duration, err error) {
	t.end(spanOf(ctx), err, call.Method == atomically)
}

// OnWrite adds what has become of a write to the span of the call. That of WriteEach has an event for each write that has failed.
func (t *tracer) OnWrite(ctx context.Context, w mdb.WriteOutcome) {
	span := spanOf(ctx)
	if !span.IsRecording() {
		return
	}
	if w.Err != nil {
		span.AddEvent("write failed", trace.WithAttributes(
			semconv.MessagingDestinationName(string(w.Stream)), keyAttempts.Int(w.Attempts), errorType(w.Err)))
		return
	}
	if w.Messages != 1 || len(w.Written) != 1 {
		span.SetAttributes(keyAttempts.Int(w.Attempts))
		return
	}
	written := w.Written[0]
	span.SetAttributes(
		semconv.MessagingMessageID(written.ID.String()), semconv.MessagingMessageBodySize(w.Bytes),
		keyPosition.Int64(written.Position), keyGlobalPosition.Int64(written.GlobalPosition),
		keyAttempts.Int(w.Attempts), keyDuplicate.Bool(written.Duplicate))
}

// OnMetadata returns the trace context.
func (t *tracer) OnMetadata(ctx context.Context, _ mdb.StreamName, _ mdb.ProposedMessage) map[string]any {
	keys := make(added)
	t.propagator.Inject(ctx, keys)
	return keys
}

func (t *tracer) OnGroupStart(ctx context.Context, g mdb.WriteGroup) context.Context {
	var links []trace.Link
	g.Contexts(func(ctx context.Context) {
		if of := trace.SpanContextFromContext(ctx); of.IsValid() {
			links = append(links, trace.Link{SpanContext: of})
		}
	})
	attrs := append(operation(group, attribute.KeyValue{}, g.Category, ""), semconv.MessagingBatchMessageCount(g.Messages))
	ctx, span := t.tracer.Start(ctx, spanName(group, g.Category), trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(attrs...), trace.WithLinks(links...))
	return withSpan(ctx, span)
}

func (t *tracer) OnGroupEnd(ctx context.Context, _ mdb.WriteGroup, _ time.Duration, err error) {
	t.end(spanOf(ctx), err, false)
}
