package mdbotel

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/messagedb-go/messagedb/mdb"
)

// ObserveReplica adds metrics of how far the replica of a store lags, see [mdb.Store.ReplicaLag]. It queries both servers when metrics
// are collected, but no more often than the interval says, and meanwhile reports the same figures. Call it once, in one process. A query
// is given up after five seconds, or the interval if that is less. If it fails, the metrics are missing, and OpenTelemetry's error handler
// gets the error. Stop ends it; it is also ended by the provider.
func (t *Telemetry) ObserveReplica(of *mdb.Store, interval time.Duration) (stop func() error, err error) {
	var faults []mdb.Fault
	if of == nil {
		faults = append(faults, mdb.Fault{Argument: "store", Given: "nil", Allowed: "a *mdb.Store"})
	}
	if faults = appendInterval(faults, interval); len(faults) > 0 {
		return nil, &mdb.ArgumentError{Faults: faults}
	}
	m := maker{meter: t.meter}
	positions := m.observedGauge("messagedb.replica.lag.positions", "{position}", "Global positions that the replica is after the primary.")
	age := m.observedSeconds("messagedb.replica.lag.time", "How long ago the transaction began that has written the first message which the replica lacks, or 0.")
	lag := sampled[mdb.ReplicaLag]{interval: interval, query: of.ReplicaLag}
	return m.register(func(ctx context.Context, o metric.Observer) error {
		l, err := lag.get(ctx)
		if err != nil {
			return fmt.Errorf("the lag of the replica: %w", err)
		}
		o.ObserveInt64(positions, l.Positions)
		o.ObserveFloat64(age, l.Time.Seconds())
		return nil
	}, positions, age)
}
