package mdbotel_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestSpansOfWrites checks the span of each call that writes, that it is a child of the caller's, and that the message has
// its trace context.
func TestSpansOfWrites(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := mdbtest.SharedStore(t, mdb.WithHooks(l.Hooks()...))
	category := mdbtest.Category("traced")
	stream, other := category.Stream("1"), category.Stream("2")
	m := func() mdb.ProposedMessage { return mdb.NewMessage("Happened", json.RawMessage(`1234`)) }
	one := m()
	common := func(more map[string]any) map[string]any {
		all := map[string]any{"messaging.system": "messagedb", "messaging.operation.name": "publish", "messaging.operation.type": "send"}
		maps.Copy(all, more)
		return all
	}
	template := string(category)
	for _, tt := range []struct {
		name   string
		span   string
		call   func(ctx context.Context) error
		want   map[string]any
		status string
		events int
	}{
		{"WriteMessage", "publish " + template, func(ctx context.Context) error {
			_, err := s.WriteMessage(ctx, stream, one)
			return err
		}, common(map[string]any{
			"messaging.destination.name": string(stream), "messaging.destination.template": template, "messagedb.method": "WriteMessage",
			"messaging.message.id": one.ID.String(), "messaging.message.body.size": nil, "messagedb.position": int64(0), "messagedb.global_position": nil,
			"messagedb.attempts": int64(1), "messagedb.duplicate": false,
		}), "", 0},
		{"a repeat", "publish " + template, func(ctx context.Context) error {
			_, err := s.WriteMessage(ctx, stream, one, mdb.Idempotent())
			return err
		}, common(map[string]any{
			"messaging.destination.name": string(stream), "messaging.destination.template": template, "messagedb.method": "WriteMessage",
			"messaging.message.id": one.ID.String(), "messaging.message.body.size": nil, "messagedb.position": int64(0), "messagedb.global_position": nil,
			"messagedb.attempts": int64(1), "messagedb.duplicate": true,
		}), "", 0},
		{"a conflict", "publish " + template, func(ctx context.Context) error {
			_, err := s.WriteMessage(ctx, stream, m(), mdb.ExpectNoStream())
			return err
		}, common(map[string]any{
			"messaging.destination.name": string(stream), "messaging.destination.template": template, "messagedb.method": "WriteMessage", "error.type": "conflict",
		}), "mdb: stream " + string(stream) + " is at version 0, expected no stream", 1},
		{"WriteMessages", "publish " + template, func(ctx context.Context) error {
			_, err := s.WriteMessages(ctx, stream, []mdb.ProposedMessage{m(), m()})
			return err
		}, common(map[string]any{
			"messaging.destination.name": string(stream), "messaging.destination.template": template, "messagedb.method": "WriteMessages",
			"messaging.batch.message_count": int64(2), "messagedb.attempts": int64(1),
		}), "", 0},
		{"WriteEach", "publish", func(ctx context.Context) error {
			return s.WriteEach(ctx, []mdb.Write{{Stream: other, Message: m()}, {Stream: stream, Message: m(), Options: []mdb.WriteOption{mdb.ExpectNoStream()}}})[1].Err
		}, common(map[string]any{
			"messagedb.method": "WriteEach", "messaging.batch.message_count": int64(2), "error.type": "conflict",
			"messaging.message.id": nil, "messaging.message.body.size": nil, "messagedb.position": int64(0), "messagedb.global_position": nil,
			"messagedb.attempts": int64(1), "messagedb.duplicate": false,
		}), "mdb: stream " + string(stream) + " is at version 2, expected no stream", 1},
	} {
		ctx, caller := l.begin(t)
		err := tt.call(ctx)
		if (err == nil) != (tt.status == "") {
			t.Errorf("%s: %v", tt.name, err)
		}
		span := l.takeOne(t, tt.span)
		if span.SpanKind != trace.SpanKindProducer || span.Parent.SpanID() != caller.SpanContext().SpanID() {
			t.Errorf("%s: got kind %v and parent %s, want a producer of the caller", tt.name, span.SpanKind, span.Parent.SpanID())
		}
		if span.Status.Description != tt.status || (span.Status.Code == codes.Error) != (tt.status != "") || len(span.Events) != tt.events {
			t.Errorf("%s: got status %v and %d events, want %q and %d", tt.name, span.Status, len(span.Events), tt.status, tt.events)
		}
		wantAttributes(t, span.Attributes, tt.want)
		if tt.status == "" && tt.name != "a repeat" {
			last, err := s.GetLastStreamMessage(t.Context(), stream)
			if got, want := traceparent(t, last), parentOf(span.SpanContext); err != nil || got != want {
				t.Errorf("%s: got traceparent %q, error %v, want %q", tt.name, got, err, want)
			}
			l.take()
		}
	}
}

// TestSpansOfTransactions checks the spans of Atomically, and that the text of a function's error is in none.
func TestSpansOfTransactions(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := mdbtest.SharedStore(t, mdb.WithHooks(l.Hooks()...))
	category := mdbtest.Category("traced")
	secret := errors.New("a secret")
	for _, fails := range []error{nil, secret} {
		ctx, caller := l.begin(t)
		err := s.Atomically(ctx, []mdb.Category{category}, func(tx *mdb.Tx) error {
			_, err := tx.WriteMessage(ctx, category.Stream("1"), mdb.NewMessage("Happened", nil))
			return errors.Join(err, fails)
		})
		if !errors.Is(err, fails) {
			t.Fatal(err)
		}
		spans := l.take()
		if got, want := namesOf(spans), []string{"Atomically", "publish " + string(category)}; !slices.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
		for _, span := range spans {
			if span.Parent.SpanID() != caller.SpanContext().SpanID() {
				t.Errorf("%s: got another parent than the caller", span.Name)
			}
		}
		if got := spans[0].Status; (got.Code == codes.Error) != (fails != nil) || strings.Contains(got.Description, "secret") {
			t.Errorf("got status %v of %v", got, fails)
		}
	}
}

// TestSpansOfGroups checks that the span of a group has links to those of the calls, which are not its parents.
func TestSpansOfGroups(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := mdbtest.SharedStore(t, mdb.WithGroupCommit(), mdb.WithHooks(l.Hooks()...))
	category := mdbtest.Category("traced")
	for i, r := range s.WriteEach(t.Context(), []mdb.Write{
		{Stream: category.Stream("1"), Message: mdb.NewMessage("Happened", nil)}, {Stream: category.Stream("2"), Message: mdb.NewMessage("Happened", nil)},
	}) {
		if r.Err != nil {
			t.Fatal(i, r.Err)
		}
	}
	spans := l.take()
	if got, want := namesOf(spans), []string{"publish", "group " + string(category)}; !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	call, group := spans[0], spans[1]
	if group.Parent.IsValid() || len(group.Links) != 2 {
		t.Fatalf("got parent %v and %d links, want none and 2", group.Parent, len(group.Links))
	}
	for _, link := range group.Links {
		if !link.SpanContext.Equal(call.SpanContext) {
			t.Errorf("got a link to %v, want the call", link.SpanContext)
		}
	}
	wantAttributes(t, group.Attributes, map[string]any{
		"messaging.system": "messagedb", "messaging.operation.name": "group", "messaging.destination.name": string(category),
		"messaging.destination.template": string(category), "messaging.batch.message_count": int64(2),
	})
}

// TestSpansOfOtherHooks checks that a span ends which this package has begun, although another hook has begun one in it.
func TestSpansOfOtherHooks(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	inner := &innerHook{lab: l}
	s := mdbtest.SharedStore(t, mdb.WithHooks(l.Hooks()...), mdb.WithHooks(inner))
	category := mdbtest.Category("traced")
	if _, err := s.WriteMessage(t.Context(), category.Stream("1"), mdb.NewMessage("Happened", nil)); err != nil {
		t.Fatal(err)
	}
	span := l.takeOne(t, "publish "+string(category))
	if !inner.span.IsRecording() || attributesOf(span.Attributes)["messagedb.position"] != int64(0) {
		t.Error("the span of the other hook was ended, or has the attributes")
	}
	inner.span.End()
	if got := l.takeOne(t, "inner"); got.Parent.SpanID() != span.SpanContext.SpanID() {
		t.Error("the span of the other hook is no child")
	}
}

// An innerHook begins a span in each write.
type innerHook struct {
	*lab

	span trace.Span
}

func (h *innerHook) OnWriteStart(ctx context.Context, _ mdb.WriteCall) context.Context {
	ctx, h.span = h.provider.Tracer("test").Start(ctx, "inner")
	return ctx
}

func (h *innerHook) OnWriteEnd(context.Context, mdb.WriteCall, time.Duration, error) {}
