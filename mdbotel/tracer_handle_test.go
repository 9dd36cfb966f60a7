package mdbotel_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdbotel"
)

// handle runs a consumer of a category until everything is handled.
func handle(t *testing.T, s *mdb.Store, name string, category mdb.Category, h consumer.Handler, opts ...consumer.Option) *consumer.Consumer {
	t.Helper()
	c, err := consumer.New(s, name, category, h, append(opts, consumer.WithPartitions(1))...)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func write(ctx context.Context, t *testing.T, s *mdb.Store, stream mdb.StreamName, metadata any) mdb.Written {
	t.Helper()
	m := mdb.NewMessage("Happened", map[string]string{"canary": "c4n4ry"})
	m.Metadata = metadata
	w, err := s.WriteMessage(ctx, stream, m)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func only(spans tracetest.SpanStubs, prefix string) tracetest.SpanStubs {
	return slices.DeleteFunc(slices.Clone(spans), func(s tracetest.SpanStub) bool { return !strings.HasPrefix(s.Name, prefix) })
}

// TestTrace checks that a trace goes on through handlers: from the caller to the write, to the handler of another store, to
// what that writes, and to the handler of that.
func TestTrace(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	writer := withConsumers.Store(t, mdb.WithHooks(l.Hooks()...))
	reader, err := mdb.New(writer.Pool(), mdb.WithHooks(l.Hooks()...))
	if err != nil {
		t.Fatal(err)
	}
	ctx, caller := l.begin(t)
	written := write(ctx, t, writer, "order-1", nil)
	caller.End()
	handle(t, reader, "billing", "order", consumer.Each(func(ctx context.Context, m mdb.Message) error {
		_, err := reader.WriteMessage(ctx, "payment-1", mdb.NewMessage("Requested", nil))
		return err
	}))
	done := errors.New("done")
	err = writer.SubscribeToCategory(t.Context(), "payment", func(context.Context, mdb.Message) error { return done })
	if !errors.Is(err, done) {
		t.Fatal(err)
	}
	spans := slices.DeleteFunc(l.take(), func(s tracetest.SpanStub) bool { return strings.HasPrefix(s.Name, "receive") })
	if got, want := namesOf(spans), []string{"caller", "publish order", "process order", "publish payment", "process payment"}; !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	for i := range spans[1:] {
		if parent, child := spans[i].SpanContext, spans[i+1]; child.Parent.SpanID() != parent.SpanID() || child.SpanContext.TraceID() != parent.TraceID() {
			t.Errorf("the parent of %s is not %s", child.Name, spans[i].Name)
		}
	}
	for i, want := range map[int]trace.SpanKind{2: trace.SpanKindConsumer, 3: trace.SpanKindProducer, 4: trace.SpanKindConsumer} {
		if got := spans[i].SpanKind; got != want {
			t.Errorf("%s: got kind %v, want %v", spans[i].Name, got, want)
		}
	}
	wantAttributes(t, spans[2].Attributes, map[string]any{
		"messaging.system": "messagedb", "messaging.operation.name": "process", "messaging.operation.type": "process",
		"messaging.destination.name": "order-1", "messaging.destination.template": "order", "messaging.consumer.group.name": "billing",
		"messaging.destination.partition.id": "0", "messaging.message.id": written.ID.String(), "messaging.message.body.size": nil,
		"messagedb.message.type": "Happened", "messagedb.position": int64(0), "messagedb.global_position": written.GlobalPosition,
		"messagedb.attempts": int64(1), "messagedb.replayed": false,
	})
	if spans[4].Status.Code != codes.Error || strings.Contains(spans[4].Status.Description, "done") {
		t.Errorf("got status %v of a handler that fails, want an error without its text", spans[4].Status)
	}
}

// TestLinks checks that the span of a handler has a link to the write of an old message, and that of a batch to the writes of
// all its messages, and that they begin traces.
func TestLinks(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		opts    []mdbotel.Option
		handler consumer.Handler
		spans   int
	}{
		"old messages": {
			[]mdbotel.Option{mdbotel.ContinueWithin(0)},
			consumer.Each(func(context.Context, mdb.Message) error { return nil }), 2,
		},
		"a batch": {nil, consumer.Batch(func(context.Context, []mdb.Message) error { return nil }), 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, tt.opts...)
			s := withConsumers.Store(t, mdb.WithHooks(l.Hooks()...))
			for range 2 {
				write(t.Context(), t, s, "order-1", nil)
			}
			written := only(l.take(), "publish")
			handle(t, s, "billing", "order", tt.handler)
			spans := only(l.take(), "process")
			if len(spans) != tt.spans {
				t.Fatalf("got %d spans, want %d", len(spans), tt.spans)
			}
			var linked []trace.SpanID
			for _, span := range spans {
				for _, link := range span.Links {
					linked = append(linked, link.SpanContext.SpanID())
				}
				if span.Parent.IsValid() {
					t.Error("a span continues a trace")
				}
			}
			if want := []trace.SpanID{written[0].SpanContext.SpanID(), written[1].SpanContext.SpanID()}; !slices.Equal(linked, want) {
				t.Errorf("got links to %v, want %v", linked, want)
			}
			if count, ok := attributesOf(spans[0].Attributes)["messaging.batch.message_count"]; ok != (tt.spans == 1) || ok && count != int64(2) {
				t.Errorf("got a batch of %v messages", count)
			}
		})
	}
}

// TestOtherClients checks that the trace context of other clients is continued, and that metadata which only looks like it is not.
func TestOtherClients(t *testing.T) {
	t.Parallel()
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for metadata, continued := range map[string]bool{
		`{"traceparent": "` + parent + `"}`:                              true,
		`{"traceparent": "` + parent + `", "tracestate": "a=b", "x": 1}`: true,
		`{"traceparent": "00-0-0-01"}`:                                   false,
		`{"traceparent": 7}`:                                             false,
		`{"properties": {"traceparent": "` + parent + `"}}`:              false,
		`["traceparent"]`:                                                false,
		`"traceparent"`:                                                  false,
		`{}`:                                                             false,
		`null`:                                                           false,
	} {
		t.Run(metadata, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			s := withConsumers.Store(t)
			hooked, err := mdb.New(s.Pool(), mdb.WithHooks(l.Hooks()...))
			if err != nil {
				t.Fatal(err)
			}
			write(t.Context(), t, s, "order-1", json.RawMessage(metadata))
			handle(t, hooked, "billing", "order", consumer.Each(func(context.Context, mdb.Message) error { return nil }))
			span := l.takeOne(t, "process order")
			if got := span.SpanContext.TraceID().String() == parent[3:35] && span.Parent.SpanID().String() == parent[36:52]; got != continued {
				t.Errorf("got parent %v, want it to be continued: %t", span.Parent, continued)
			}
			if state := span.SpanContext.TraceState().String(); (state == "a=b") != strings.Contains(metadata, "tracestate") {
				t.Errorf("got state %q", state)
			}
		})
	}
}

// TestPropagation checks that a message without a trace gets no key, and that a tracer that does nothing passes on the trace of the caller, also if the
// message has these keys already.
func TestPropagation(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	quiet, err := mdbotel.New(mdbotel.WithTracerProvider(noTracer()))
	if err != nil {
		t.Fatal(err)
	}
	s := withConsumers.Store(t, mdb.WithHooks(quiet.Hooks()...))
	write(t.Context(), t, s, "order-1", nil)
	ctx, caller := l.begin(t)
	write(ctx, t, s, "order-1", map[string]string{"own": "kept", "traceparent": "replaced"})
	messages, err := s.GetStreamMessages(t.Context(), "order-1")
	if err != nil || len(messages) != 2 {
		t.Fatal(messages, err)
	}
	if messages[0].Metadata != nil {
		t.Errorf("got metadata %s without a trace", messages[0].Metadata)
	}
	var metadata map[string]string
	if err := messages[1].DecodeMetadata(&metadata); err != nil || metadata["own"] != "kept" || metadata["traceparent"] != parentOf(caller.SpanContext()) {
		t.Errorf("got metadata %v, error %v, want the caller's trace context", metadata, err)
	}
}

// TestErrorTexts checks that spans contain no payloads, and the text of a handler's error only with WithErrorTexts.
func TestErrorTexts(t *testing.T) {
	t.Parallel()
	const canary = "c4n4ry"
	for _, texts := range []bool{false, true} {
		var opts []mdbotel.Option
		if texts {
			opts = append(opts, mdbotel.WithErrorTexts())
		}
		l := newLab(t, opts...)
		s := withConsumers.Store(t, mdb.WithHooks(l.Hooks()...))
		write(t.Context(), t, s, "order-1", nil)
		handle(t, s, "billing", "order", consumer.Each(func(_ context.Context, m mdb.Message) error {
			return consumer.Skip(errors.New("cannot handle " + string(m.Data)))
		}))
		found := false
		for _, span := range l.take() {
			if all, err := json.Marshal(span); err != nil || strings.Contains(string(all), canary) {
				found = true
			}
		}
		if found != texts {
			t.Errorf("the text of the error is in a span: %t, want %t", found, texts)
		}
	}
}

// TestSpansOfPanics checks that the span of a handler that panics ends, and says so.
func TestSpansOfPanics(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := withConsumers.Store(t, mdb.WithHooks(l.Hooks()...))
	write(t.Context(), t, s, "order-1", nil)
	err := s.SubscribeToStream(t.Context(), "order-1", func(context.Context, mdb.Message) error { panic("c4n4ry") })
	if !errors.As(err, new(*mdb.PanicError)) {
		t.Fatal(err)
	}
	span := l.takeOne(t, "process order")
	if got := attributesOf(span.Attributes)["error.type"]; got != "panic" || span.EndTime.Before(span.StartTime) || strings.Contains(span.Status.Description, "c4n4ry") {
		t.Errorf("got error.type %v, status %v", got, span.Status)
	}
	if time.Since(span.EndTime) < 0 {
		t.Error("the span ends later")
	}
}
