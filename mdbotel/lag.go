package mdbotel

import (
	"context"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// ObserveLag adds metrics of how far all consumers of a database are, whichever process runs them. It queries the database when metrics
// are collected, but no more often than the interval says, and meanwhile reports the same figures. A query reads up to 10,001 messages of each
// category of each consumer, so call it in one process, with an interval such as a minute. It needs a connection of the operator's pool, and
// is given up after five seconds, or the interval if that is less. If it fails, the metrics are missing, and
// OpenTelemetry's error handler gets the error.
func (t *Telemetry) ObserveLag(of *consumer.Operator, interval time.Duration) (stop func() error, err error) {
	var faults []mdb.Fault
	if of == nil {
		faults = append(faults, mdb.Fault{Argument: "operator", Given: "nil", Allowed: "a *consumer.Operator"})
	}
	if faults = appendInterval(faults, interval); len(faults) > 0 {
		return nil, &mdb.ArgumentError{Faults: faults}
	}
	m := maker{meter: t.meter}
	l := &lag{
		sampled: sampled[[]consumer.Details]{interval: interval, query: of.ShowAll},
		pending: m.observedGauge("messagedb.lag.messages", "{message}", "Messages that are not handled, skipped or parked, at most 10,001 in each category."),
		age:     m.observedSeconds("messagedb.lag.age", "Age of the first message that is not handled, skipped or parked, or 0."),
		parked:  m.observedGauge("messagedb.consumer.parked", "{key}", "Cardinal IDs of which streams are parked."),
		members: m.observedGauge("messagedb.consumer.members", "{process}", "Processes that run a consumer."),
		paused:  m.observedGauge("messagedb.consumer.paused", "{consumer}", "1 if a consumer is paused."),
		stuck:   m.observedGauge("messagedb.consumer.stuck", "{obstacle}", "Reasons for which messages are not handled, besides what is parked."),
	}
	return m.register(l.observe, l.pending, l.age, l.parked, l.members, l.paused, l.stuck)
}

// appendInterval adds the fault of an interval, if it has one.
func appendInterval(faults []mdb.Fault, interval time.Duration) []mdb.Fault {
	if interval > 0 {
		return faults
	}
	return append(faults, mdb.Fault{Argument: "interval", Given: interval.String(), Allowed: "more than 0"})
}

type lag struct {
	sampled[[]consumer.Details]

	pending, parked, members, paused, stuck metric.Int64ObservableGauge
	age                                     metric.Float64ObservableGauge
}

func (l *lag) observe(ctx context.Context, o metric.Observer) error {
	all, err := l.get(ctx)
	if err != nil {
		return err
	}
	for i := range all {
		c := &all[i]
		name := attribute.String(attrConsumer, c.Consumer)
		of := with(name)
		o.ObserveInt64(l.parked, int64(c.Parked), of)
		o.ObserveInt64(l.members, int64(c.Members), of)
		o.ObserveInt64(l.paused, oneIf(c.Paused), of)
		o.ObserveInt64(l.stuck, int64(len(c.Stuck)), of)
		for _, p := range c.Checkpoints {
			of := with(name, categoryOf(p.Category), attribute.String(attrPartition, strconv.Itoa(p.Partition)))
			o.ObserveInt64(l.pending, p.Pending, of)
			o.ObserveFloat64(l.age, ageOf(p.Oldest, c.At), of)
		}
	}
	return nil
}

// ageOf returns the age of a message, both by the server's clock.
func ageOf(oldest, now time.Time) float64 {
	if oldest.IsZero() {
		return 0
	}
	return max(0, now.Sub(oldest).Seconds())
}
