package mdbotel

import (
	"errors"

	"go.opentelemetry.io/otel/metric"
)

// The attributes of metrics.
const (
	attrCategory  = "category"
	attrConsumer  = "consumer"
	attrPartition = "partition"
	attrMethod    = "method"
	attrOutcome   = "outcome"
	attrAction    = "action"
	attrState     = "state"
)

// Buckets in seconds: a call to a server nearby takes less than a millisecond, and one that outlasts a failover a minute.
var (
	callBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	ageBuckets  = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400}
	sizeBuckets = []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000}
)

// A maker makes instruments, and collects what their meter rejects.
type maker struct {
	meter metric.Meter
	errs  []error
}

func (m *maker) counter(name, unit, description string) metric.Int64Counter {
	i, err := m.meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
	m.errs = append(m.errs, err)
	return i
}

func (m *maker) gauge(name, unit, description string) metric.Int64Gauge {
	i, err := m.meter.Int64Gauge(name, metric.WithUnit(unit), metric.WithDescription(description))
	m.errs = append(m.errs, err)
	return i
}

func (m *maker) histogram(name, unit, description string, buckets []float64) metric.Float64Histogram {
	i, err := m.meter.Float64Histogram(name, metric.WithUnit(unit), metric.WithDescription(description), metric.WithExplicitBucketBoundaries(buckets...))
	m.errs = append(m.errs, err)
	return i
}

func (m *maker) observedCounter(name, unit, description string) metric.Int64ObservableCounter {
	i, err := m.meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
	m.errs = append(m.errs, err)
	return i
}

func (m *maker) observedGauge(name, unit, description string) metric.Int64ObservableGauge {
	i, err := m.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description))
	m.errs = append(m.errs, err)
	return i
}

func (m *maker) observedSeconds(name, description string) metric.Float64ObservableGauge {
	i, err := m.meter.Float64ObservableGauge(name, metric.WithUnit("s"), metric.WithDescription(description))
	m.errs = append(m.errs, err)
	return i
}

func (m *maker) err() error { return errors.Join(m.errs...) }
