package mdbotel

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/messagedb-go/messagedb/mdb"
)

// The attributes of spans for which the semantic conventions have none.
const (
	keyMessageType    = attribute.Key("messagedb.message.type")
	keyPosition       = attribute.Key("messagedb.position")
	keyGlobalPosition = attribute.Key("messagedb.global_position")
	keyAttempts       = attribute.Key("messagedb.attempts")
	keyDuplicate      = attribute.Key("messagedb.duplicate")
	keyReplayed       = attribute.Key("messagedb.replayed")
	keyMethod         = attribute.Key("messagedb.method")
)

var system = semconv.MessagingSystemKey.String("messagedb")

// A tracer makes spans.
type tracer struct {
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
	within     time.Duration
	texts      bool // whether spans have the texts of handlers' errors
}

var (
	_ mdb.HookWriteCall = (*tracer)(nil)
	_ mdb.HookWrite     = (*tracer)(nil)
	_ mdb.HookMetadata  = (*tracer)(nil)
	_ mdb.HookGroup     = (*tracer)(nil)
	_ mdb.HookRead      = (*tracer)(nil)
	_ mdb.HookHandle    = (*tracer)(nil)
)

// operation returns the attributes of an operation, and with a category those of its destination, which is a stream or the category.
func operation(name string, typ attribute.KeyValue, category mdb.Category, stream mdb.StreamName) []attribute.KeyValue {
	attrs := append(make([]attribute.KeyValue, 0, 16), system, semconv.MessagingOperationName(name))
	if typ.Valid() {
		attrs = append(attrs, typ)
	}
	if category == "" {
		return attrs
	}
	destination := string(stream)
	if stream == "" {
		destination = string(category)
	}
	return append(attrs, semconv.MessagingDestinationName(destination), semconv.MessagingDestinationTemplate(string(category)))
}

// spanName returns the name of a span. That has no stream, so that there are few names.
func spanName(operation string, category mdb.Category) string {
	if category == "" {
		return operation
	}
	return operation + " " + string(category)
}

// spanKey is the key of a context's value that is the last span which this package has begun. The span of a context may be
// that of another hook.
type spanKey struct{}

// noSpan does nothing.
var noSpan = trace.SpanFromContext(context.Background())

func withSpan(ctx context.Context, span trace.Span) context.Context {
	return context.WithValue(ctx, spanKey{}, span)
}

func spanOf(ctx context.Context) trace.Span {
	span, ok := ctx.Value(spanKey{}).(trace.Span)
	if !ok {
		return noSpan
	}
	return span
}

// end ends a span. The text of an error is part of it unless the error is foreign, that is, may be that of a function of the
// caller's.
func (t *tracer) end(span trace.Span, err error, foreign bool) {
	if err != nil && span.IsRecording() {
		typ := errorType(err)
		text := typ.Value.AsString()
		if !foreign || t.texts {
			text = err.Error()
		}
		span.SetAttributes(typ)
		span.SetStatus(codes.Error, text)
	}
	span.End()
}

// errorType returns error.type: one of the outcomes of metrics, or the type of the innermost error.
func errorType(err error) attribute.KeyValue {
	if outcome := outcomeOf(err); outcome != outcomeError {
		return semconv.ErrorTypeKey.String(outcome)
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return semconv.ErrorType(err)
}
