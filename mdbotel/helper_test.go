package mdbotel_test

import (
	"context"
	"encoding/json"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/schema"
	"github.com/messagedb-go/messagedb/mdbotel"
)

var withConsumers = mdbtest.NewTemplate(func(ctx context.Context, pool *pgxpool.Pool) error {
	return schema.InstallConsumers(ctx, pool)
})

// A lab keeps the spans and metrics of a Telemetry.
type lab struct {
	*mdbotel.Telemetry

	spans    *tracetest.InMemoryExporter
	provider *sdktrace.TracerProvider
	reader   *sdkmetric.ManualReader
}

func newLab(t *testing.T, opts ...mdbotel.Option) *lab {
	t.Helper()
	l := &lab{spans: tracetest.NewInMemoryExporter(), reader: sdkmetric.NewManualReader()}
	l.provider = sdktrace.NewTracerProvider(sdktrace.WithSyncer(l.spans))
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(l.reader))
	var err error
	l.Telemetry, err = mdbotel.New(append([]mdbotel.Option{mdbotel.WithTracerProvider(l.provider), mdbotel.WithMeterProvider(meters)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// begin begins the span of a caller.
func (l *lab) begin(t *testing.T) (context.Context, trace.Span) {
	t.Helper()
	return l.provider.Tracer("test").Start(t.Context(), "caller")
}

// take returns the spans that have ended since the last call, in the order in which they have begun.
func (l *lab) take() tracetest.SpanStubs {
	spans := l.spans.GetSpans()
	l.spans.Reset()
	slices.SortStableFunc(spans, func(a, b tracetest.SpanStub) int { return a.StartTime.Compare(b.StartTime) })
	return spans
}

// takeOne returns the span that has ended since the last call and has this name.
func (l *lab) takeOne(t *testing.T, name string) tracetest.SpanStub {
	t.Helper()
	spans := l.take()
	of := slices.DeleteFunc(slices.Clone(spans), func(s tracetest.SpanStub) bool { return s.Name != name })
	if len(of) != 1 {
		t.Fatalf("got %d spans %q of %q, want 1", len(of), name, namesOf(spans))
	}
	return of[0]
}

func namesOf(spans tracetest.SpanStubs) (names []string) {
	for i := range spans {
		names = append(names, spans[i].Name)
	}
	return names
}

// attributesOf returns attributes by their keys.
func attributesOf(attrs []attribute.KeyValue) map[string]any {
	of := make(map[string]any, len(attrs))
	for _, a := range attrs {
		of[string(a.Key)] = a.Value.AsInterface()
	}
	return of
}

// wantAttributes checks that the attributes are these, with any values where want has nil.
func wantAttributes(t *testing.T, attrs []attribute.KeyValue, want map[string]any) {
	t.Helper()
	got := attributesOf(attrs)
	for key, value := range got {
		if wanted, ok := want[key]; !ok || wanted != nil && wanted != value {
			t.Errorf("got %s = %v (%T), want %v", key, value, value, wanted)
		}
	}
	for key := range want {
		if _, ok := got[key]; !ok {
			t.Errorf("%s is missing in %v", key, got)
		}
	}
}

// points returns the values of a metric, or the counts of a histogram, by its attributes as JSON.
func (l *lab) points(t *testing.T, name string) map[string]float64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := l.reader.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	points := make(map[string]float64)
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name == name {
				addPoints(t, points, m.Data)
			}
		}
	}
	return points
}

func addPoints(t *testing.T, points map[string]float64, data metricdata.Aggregation) {
	t.Helper()
	switch data := data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			points[textOf(p.Attributes)] = float64(p.Value)
		}
	case metricdata.Gauge[int64]:
		for _, p := range data.DataPoints {
			points[textOf(p.Attributes)] = float64(p.Value)
		}
	case metricdata.Gauge[float64]:
		for _, p := range data.DataPoints {
			points[textOf(p.Attributes)] = p.Value
		}
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			points[textOf(p.Attributes)] = float64(p.Count)
		}
	default:
		t.Fatalf("a metric of the type %T", data)
	}
}

// textOf returns the values of attributes in the order of their keys.
func textOf(set attribute.Set) string {
	text := ""
	for _, a := range set.ToSlice() {
		text += a.Value.String() + " "
	}
	return text[:max(0, len(text)-1)]
}

// traceparent returns that of a message's metadata.
func traceparent(t *testing.T, m mdb.Message) string {
	t.Helper()
	var keys struct{ Traceparent string }
	if len(m.Metadata) > 0 {
		if err := json.Unmarshal(m.Metadata, &keys); err != nil {
			t.Fatal(err)
		}
	}
	return keys.Traceparent
}

// parentOf returns the traceparent by which a span is continued.
func parentOf(s trace.SpanContext) string {
	return "00-" + s.TraceID().String() + "-" + s.SpanID().String() + "-01"
}
