package mdbotel

import (
	"context"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/messagedb-go/messagedb/mdb"
)

const process = "process"

func (t *tracer) OnHandleStart(ctx context.Context, h mdb.Handling) context.Context {
	category := h.Message.Stream.Category()
	opts := append(make([]trace.SpanStartOption, 0, 3), trace.WithSpanKind(trace.SpanKindConsumer))
	var attrs []attribute.KeyValue
	if h.Batch != nil {
		attrs = append(operation(process, semconv.MessagingOperationTypeProcess, category, ""), semconv.MessagingBatchMessageCount(len(h.Batch)))
		var links []trace.Link
		for i := range h.Batch {
			if _, of := extract(ctx, t.propagator, &h.Batch[i]); of.IsValid() {
				links = append(links, trace.Link{SpanContext: of})
			}
		}
		opts = append(opts, trace.WithLinks(links...))
	} else {
		m := &h.Message
		attrs = append(operation(process, semconv.MessagingOperationTypeProcess, category, m.Stream),
			semconv.MessagingMessageID(m.ID.String()), semconv.MessagingMessageBodySize(len(m.Data)),
			keyMessageType.String(m.Type), keyPosition.Int64(m.Position), keyGlobalPosition.Int64(m.GlobalPosition))
		of, written := extract(ctx, t.propagator, m)
		switch {
		case !written.IsValid():
		case time.Since(m.Time) < t.within:
			ctx = of
		default:
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: written}))
		}
	}
	if h.Consumer != "" {
		attrs = append(attrs, semconv.MessagingConsumerGroupName(h.Consumer), semconv.MessagingDestinationPartitionID(strconv.Itoa(h.Partition)),
			keyAttempts.Int(h.Attempt), keyReplayed.Bool(h.Replayed))
	}
	ctx, span := t.tracer.Start(ctx, spanName(process, category), append(opts, trace.WithAttributes(attrs...))...)
	return withSpan(ctx, span)
}

func (t *tracer) OnHandleEnd(ctx context.Context, _ mdb.Handling, _ time.Duration, err error) {
	t.end(spanOf(ctx), err, true)
}
