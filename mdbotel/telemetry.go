package mdbotel

import (
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/messagedb-go/messagedb/mdb"
)

const scope = "github.com/messagedb-go/messagedb/mdbotel"

// A Telemetry makes spans and metrics of the stores that have its hooks. It is safe for concurrent use.
type Telemetry struct {
	tracer *tracer
	meter  metric.Meter
	events *events
}

// New returns a Telemetry. Its error is an [*mdb.ArgumentError] if an option is invalid, or that of the meter provider if it
// rejects an instrument.
func New(opts ...Option) (*Telemetry, error) {
	c, err := newConfig(opts)
	if err != nil {
		return nil, err
	}
	meter := c.meters.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))
	events, err := newEvents(meter)
	if err != nil {
		return nil, err
	}
	return &Telemetry{
		tracer: &tracer{
			tracer: c.tracers.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)), propagator: c.propagator, within: c.within, texts: c.texts,
		},
		meter: meter, events: events,
	}, nil
}

// Hooks returns the hooks for [mdb.WithHooks].
func (t *Telemetry) Hooks() []mdb.Hook { return []mdb.Hook{t.tracer, t.events} }
