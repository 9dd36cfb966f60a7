package mdbotel

import (
	"fmt"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/messagedb-go/messagedb/mdb"
)

// DefaultContinueWithin is the age up to which a message's trace is continued, without [ContinueWithin].
const DefaultContinueWithin = time.Hour

// An Option changes what [New] returns.
type Option func(*config)

type config struct {
	tracers    trace.TracerProvider
	meters     metric.MeterProvider
	propagator propagation.TextMapPropagator
	within     time.Duration
	texts      bool
	faults     []mdb.Fault
}

func newConfig(opts []Option) (config, error) {
	c := config{propagator: propagation.TraceContext{}, within: DefaultContinueWithin}
	for i, opt := range opts {
		if opt == nil {
			c.reject(fmt.Sprintf("option %d", i), "nil", "an option")
			continue
		}
		opt(&c)
	}
	if len(c.faults) > 0 {
		return c, &mdb.ArgumentError{Faults: c.faults}
	}
	if c.tracers == nil {
		c.tracers = otel.GetTracerProvider()
	}
	if c.meters == nil {
		c.meters = otel.GetMeterProvider()
	}
	return c, nil
}

func (c *config) reject(argument, given, allowed string) {
	c.faults = append(c.faults, mdb.Fault{Argument: argument, Given: given, Allowed: allowed})
}

// WithTracerProvider takes spans from p instead of the global provider. The provider of
// [go.opentelemetry.io/otel/trace/noop] turns them off; messages then get the trace context of the caller.
func WithTracerProvider(p trace.TracerProvider) Option {
	return func(c *config) {
		if c.tracers = p; p == nil {
			c.reject("tracer provider", "nil", "a trace.TracerProvider")
		}
	}
}

// WithMeterProvider takes instruments from p instead of the global provider. The provider of
// [go.opentelemetry.io/otel/metric/noop] turns metrics off.
func WithMeterProvider(p metric.MeterProvider) Option {
	return func(c *config) {
		if c.meters = p; p == nil {
			c.reject("meter provider", "nil", "a metric.MeterProvider")
		}
	}
}

// WithPropagator writes and reads the metadata of messages by p. The default is the W3C trace context. For baggage as well, which
// may contain whatever callers send, use a composite of both.
func WithPropagator(p propagation.TextMapPropagator) Option {
	return func(c *config) {
		if c.propagator = p; p == nil {
			c.reject("propagator", "nil", "a propagation.TextMapPropagator")
		}
	}
}

// ContinueWithin says how old a message may be whose trace the span of its handler continues. With 0, its span always
// has a link to the trace of the message instead.
func ContinueWithin(age time.Duration) Option {
	return func(c *config) {
		if c.within = age; age < 0 {
			c.reject("age", age.String(), "at least 0")
		}
	}
}

// WithErrorTexts adds the texts of handlers' errors to spans, and those of the functions of Atomically. Use it if they contain nothing
// that the tracing system must not have.
func WithErrorTexts() Option {
	return func(c *config) { c.texts = true }
}
