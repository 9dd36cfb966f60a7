package mdbotel

import (
	"bytes"
	"context"
	"encoding/json"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/messagedb-go/messagedb/mdb"
)

// added are the keys that a propagator adds to metadata.
type added map[string]any

func (a added) Get(key string) string {
	value, _ := a[key].(string)
	return value
}

func (a added) Set(key, value string) { a[key] = value }

func (a added) Keys() []string {
	keys := make([]string, 0, len(a))
	for key := range a {
		keys = append(keys, key)
	}
	return keys
}

// found is the metadata of a message, of which a propagator reads keys.
type found map[string]json.RawMessage

func (f found) Get(key string) string {
	var value string
	if err := json.Unmarshal(f[key], &value); err != nil {
		return "" // another client's key of the same name
	}
	return value
}

func (f found) Set(string, string) {}

func (f found) Keys() []string {
	keys := make([]string, 0, len(f))
	for key := range f {
		keys = append(keys, key)
	}
	return keys
}

// extract returns a context with what the metadata of a message says, and the span that has written it.
func extract(ctx context.Context, p propagation.TextMapPropagator, m *mdb.Message) (context.Context, trace.SpanContext) {
	metadata := metadataOf(p, m)
	if metadata == nil {
		return ctx, trace.SpanContext{}
	}
	// The span of ctx is not that of the message, and would be returned if the message had none.
	of := p.Extract(trace.ContextWithSpanContext(ctx, trace.SpanContext{}), metadata)
	return of, trace.SpanContextFromContext(of)
}

// metadataOf returns the metadata of a message, or nil if it contains none of the propagator's keys.
func metadataOf(p propagation.TextMapPropagator, m *mdb.Message) found {
	for _, key := range p.Fields() {
		if !bytes.Contains(m.Metadata, []byte(key)) {
			continue
		}
		var metadata found
		if err := json.Unmarshal(m.Metadata, &metadata); err != nil {
			return nil // an array, for example
		}
		return metadata
	}
	return nil
}
