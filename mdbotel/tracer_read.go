package mdbotel

import (
	"context"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/messagedb-go/messagedb/mdb"
)

const receive = "receive"

// polls reports whether a read is one of a subscription or a consumer, which also read while there is nothing new.
func polls(call *mdb.ReadCall) bool { return strings.HasPrefix(call.Method, "Subscribe") }

func (t *tracer) OnReadStart(ctx context.Context, call mdb.ReadCall) context.Context {
	if polls(&call) {
		return ctx
	}
	return t.startRead(ctx, &call)
}

func (t *tracer) startRead(ctx context.Context, call *mdb.ReadCall, opts ...trace.SpanStartOption) context.Context {
	name, typ := receive, semconv.MessagingOperationTypeReceive
	switch call.Method {
	case "StreamVersion", "CategoryHead":
		name, typ = call.Method, attribute.KeyValue{}
	}
	attrs := append(operation(name, typ, call.Category, call.Stream), keyMethod.String(call.Method))
	ctx, span := t.tracer.Start(ctx, spanName(name, call.Category),
		append(opts, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attrs...))...)
	return withSpan(ctx, span)
}

func (t *tracer) OnReadEnd(ctx context.Context, call mdb.ReadCall, took time.Duration, read mdb.ReadOutcome) {
	if polls(&call) {
		if read.Messages == 0 && read.Err == nil {
			return
		}
		ctx = t.startRead(ctx, &call, trace.WithTimestamp(time.Now().Add(-took)))
	}
	span := spanOf(ctx)
	span.SetAttributes(semconv.MessagingBatchMessageCount(read.Messages))
	err := read.Err
	if outcomeOf(err) == outcomeNotFound {
		err = nil // an answer
	}
	t.end(span, err, false)
}
