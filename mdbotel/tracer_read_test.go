package mdbotel_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

func noTracer() trace.TracerProvider { return noop.NewTracerProvider() }

// TestSpansOfReads checks the span of each kind of read. A message that is not there is no error.
func TestSpansOfReads(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := mdbtest.SharedStore(t, mdb.WithHooks(l.Hooks()...))
	category := mdbtest.Category("traced")
	stream, template := category.Stream("1"), string(category)
	for range 2 {
		write(t.Context(), t, s, stream, nil)
	}
	receive := func(method, destination string, n int) map[string]any {
		want := map[string]any{
			"messaging.system": "messagedb", "messaging.operation.name": "receive", "messaging.operation.type": "receive",
			"messagedb.method": method, "messaging.batch.message_count": int64(n),
		}
		if destination != "" {
			want["messaging.destination.name"], want["messaging.destination.template"] = destination, template
		}
		return want
	}
	for _, tt := range []struct {
		call func(ctx context.Context) error
		span string
		want map[string]any
	}{
		{
			func(ctx context.Context) error { _, err := s.GetStreamMessages(ctx, stream); return err },
			"receive " + template, receive("GetStreamMessages", string(stream), 2),
		},
		{
			func(ctx context.Context) error { _, err := s.GetCategoryMessages(ctx, category); return err },
			"receive " + template, receive("GetCategoryMessages", template, 2),
		},
		{
			func(ctx context.Context) error { _, err := s.GetLastStreamMessage(ctx, stream); return err },
			"receive " + template, receive("GetLastStreamMessage", string(stream), 1),
		},
		{
			func(ctx context.Context) error { _, _ = s.GetMessage(ctx, uuid.New()); return nil },
			"receive", receive("GetMessage", "", 0),
		},
		{func(ctx context.Context) error { _, err := s.StreamVersion(ctx, stream); return err }, "StreamVersion " + template, map[string]any{
			"messaging.system": "messagedb", "messaging.operation.name": "StreamVersion", "messagedb.method": "StreamVersion",
			"messaging.destination.name": string(stream), "messaging.destination.template": template, "messaging.batch.message_count": int64(0),
		}},
	} {
		l.take()
		ctx, caller := l.begin(t)
		if err := tt.call(ctx); err != nil {
			t.Error(err)
		}
		span := l.takeOne(t, tt.span)
		if span.SpanKind != trace.SpanKindClient || span.Parent.SpanID() != caller.SpanContext().SpanID() || span.Status.Code == codes.Error {
			t.Errorf("%s: got kind %v, parent %s, status %v", tt.span, span.SpanKind, span.Parent.SpanID(), span.Status)
		}
		wantAttributes(t, span.Attributes, tt.want)
	}
}

// TestSpansOfSubscriptions checks that a subscription has a span for a page with messages, and none for one without.
func TestSpansOfSubscriptions(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := mdbtest.SharedStore(t, mdb.WithHooks(l.Hooks()...))
	category := mdbtest.Category("traced")
	write(t.Context(), t, s, category.Stream("1"), nil)
	done := errors.New("done")
	reads := 0
	err := s.SubscribeToCategory(t.Context(), category, func(_ context.Context, m mdb.Message) error {
		if m.Position == 1 {
			return done
		}
		return nil
	}, mdb.WithPolling(func(poll.Seen) (wait time.Duration) {
		if reads++; reads == 5 { // of them four are empty
			write(t.Context(), t, s, category.Stream("1"), nil)
		}
		return time.Millisecond
	}))
	if !errors.Is(err, done) {
		t.Fatal(err)
	}
	pages := only(l.take(), "receive "+string(category))
	if len(pages) != 2 {
		t.Fatalf("got %d spans, want 2", len(pages))
	}
	for _, span := range pages {
		if n := attributesOf(span.Attributes)["messaging.batch.message_count"]; n != int64(1) || !span.StartTime.Before(span.EndTime) {
			t.Errorf("got %v messages, from %v to %v", n, span.StartTime, span.EndTime)
		}
	}
}
