package mdbotel

import (
	"context"
	"strconv"
	"sync"
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
	if interval <= 0 {
		faults = append(faults, mdb.Fault{Argument: "interval", Given: interval.String(), Allowed: "more than 0"})
	}
	if len(faults) > 0 {
		return nil, &mdb.ArgumentError{Faults: faults}
	}
	m := maker{meter: t.meter}
	l := &lag{
		operator: of, interval: interval,
		pending: m.observedGauge("messagedb.lag.messages", "{message}", "Messages that are not handled, skipped or parked, at most 10,001 in each category."),
		age:     m.observedSeconds("messagedb.lag.age", "Age of the first message that is not handled, skipped or parked, or 0."),
		parked:  m.observedGauge("messagedb.consumer.parked", "{key}", "Cardinal IDs of which streams are parked."),
		members: m.observedGauge("messagedb.consumer.members", "{process}", "Processes that run a consumer."),
		paused:  m.observedGauge("messagedb.consumer.paused", "{consumer}", "1 if a consumer is paused."),
		stuck:   m.observedGauge("messagedb.consumer.stuck", "{obstacle}", "Reasons for which messages are not handled, besides what is parked."),
	}
	return m.register(l.observe, l.pending, l.age, l.parked, l.members, l.paused, l.stuck)
}

// lookTimeout limits the query: whoever collects metrics waits for it.
const lookTimeout = 5 * time.Second

type lag struct {
	operator *consumer.Operator
	interval time.Duration

	pending, parked, members, paused, stuck metric.Int64ObservableGauge
	age                                     metric.Float64ObservableGauge

	mu   sync.Mutex
	at   time.Time          // of the last query; guarded by mu
	last []consumer.Details // guarded by mu
}

func (l *lag) look(ctx context.Context) ([]consumer.Details, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.at.IsZero() && time.Since(l.at) < l.interval {
		return l.last, nil
	}
	ctx, cancel := context.WithTimeout(ctx, min(l.interval, lookTimeout)) // the exporter for Prometheus has no limit
	defer cancel()
	details, err := l.operator.ShowAll(ctx)
	if err != nil {
		return nil, err
	}
	l.last, l.at = details, time.Now()
	return details, nil
}

func (l *lag) observe(ctx context.Context, o metric.Observer) error {
	all, err := l.look(ctx)
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
