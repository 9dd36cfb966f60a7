package mdbotel

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// ObserveStore adds metrics of what stores are in: notifications, messages that were lost, and reads of replicas. Call it once, with all stores. They are
// added up. Stop ends it; it is also ended by the provider.
func (t *Telemetry) ObserveStore(stores ...*mdb.Store) (stop func() error, err error) {
	for i, s := range stores {
		if s == nil {
			return nil, &mdb.ArgumentError{Faults: []mdb.Fault{{Argument: fmt.Sprintf("store %d", i), Given: "nil", Allowed: "a *mdb.Store"}}}
		}
	}
	m := maker{meter: t.meter}
	listening := m.observedGauge("messagedb.notify.listening", "{store}", "Stores that receive notifications.")
	categories := m.observedGauge("messagedb.notify.categories", "{category}",
		"Categories that have subscriptions, by state: waiting for notifications, cooling (polled often for a while), polling, or lock_table_full (polling, although they could wait if the server's lock table were larger).")
	notifications := m.observedCounter("messagedb.notify.notifications", "{notification}", "Notifications that were received.")
	forks := m.observedCounter("messagedb.forks", "{fork}", "How often a subscription found that the last message which it had read is no longer in the store.")
	lost := m.observedCounter("messagedb.lost", "{message}", "Messages that subscriptions had handled and that are no longer in the store.")
	reads := m.observedCounter("messagedb.replica.reads", "{read}", "Reads that the replica has served.")
	fallbacks := m.observedCounter("messagedb.replica.fallbacks", "{read}", "Reads that have used the primary, because the replica could not be used or lacked something.")
	failures := m.observedCounter("messagedb.replica.failures", "{failure}", "How often reads have left the replica.")
	return m.register(func(_ context.Context, o metric.Observer) error {
		var listen, received, fork, gone, read, fellBack, failed int64
		states := make(map[string]int64)
		for _, s := range stores {
			n, of := s.NotifyStats(), s.Stats()
			listen += oneIf(n.Listening)
			received += n.Notifications
			fork += of.Forks
			gone += of.Missing
			read += of.ReplicaReads
			fellBack += of.ReplicaFallbacks
			failed += of.ReplicaFailures
			states["waiting"] += int64(n.Waiting)
			states["cooling"] += int64(n.Cooling)
			states["polling"] += int64(n.Polling - n.LockTableFull)
			states["lock_table_full"] += int64(n.LockTableFull)
		}
		o.ObserveInt64(listening, listen)
		o.ObserveInt64(notifications, received)
		o.ObserveInt64(forks, fork)
		o.ObserveInt64(lost, gone)
		o.ObserveInt64(reads, read)
		o.ObserveInt64(fallbacks, fellBack)
		o.ObserveInt64(failures, failed)
		for state, n := range states {
			o.ObserveInt64(categories, n, with(attribute.String(attrState, state)))
		}
		return nil
	}, listening, categories, notifications, forks, lost, reads, fallbacks, failures)
}

// register registers a callback, unless an instrument was rejected, and returns what ends it.
func (m *maker) register(f metric.Callback, of ...metric.Observable) (stop func() error, err error) {
	if err := m.err(); err != nil {
		return nil, err
	}
	r, err := m.meter.RegisterCallback(f, of...)
	if err != nil {
		return nil, err
	}
	return r.Unregister, nil
}

// ObserveConsumers adds metrics of what consumers are doing in this process: their memory and their leases. Call it once, with all consumers of
// the process, whose names differ.
func (t *Telemetry) ObserveConsumers(consumers ...*consumer.Consumer) (stop func() error, err error) {
	for i, c := range consumers {
		if c == nil {
			return nil, &mdb.ArgumentError{Faults: []mdb.Fault{{Argument: fmt.Sprintf("consumer %d", i), Given: "nil", Allowed: "a *consumer.Consumer"}}}
		}
	}
	m := maker{meter: t.meter}
	waiting := m.observedGauge("messagedb.consumer.waiting", "{message}", "Messages in memory that are not handled.")
	memory := m.observedGauge("messagedb.consumer.memory", "By", "Size of the messages in memory.")
	running := m.observedGauge("messagedb.consumer.running", "{call}", "Calls of handlers that have not returned.")
	losses := m.observedCounter("messagedb.consumer.lease.losses", "{loss}", "How often the process has lost its lease.")
	margin := m.observedSeconds("messagedb.consumer.lease.margin", "The shortest time that was left of the lease when it was renewed.")
	rewound := m.observedCounter("messagedb.consumer.rewound", "{checkpoint}", "Checkpoints that were found at an earlier position than the server had confirmed.")
	forks := m.observedCounter("messagedb.consumer.forks", "{fork}", "How often messages that were read were found to be missing from the store.")
	return m.register(func(_ context.Context, o metric.Observer) error {
		for _, c := range consumers {
			s, of := c.Stats(), with(attribute.String(attrConsumer, c.Name()))
			o.ObserveInt64(waiting, int64(s.Waiting), of)
			o.ObserveInt64(memory, s.Bytes, of)
			o.ObserveInt64(running, int64(s.Running), of)
			o.ObserveInt64(losses, s.Losses, of)
			if s.LeaseMargin > 0 {
				o.ObserveFloat64(margin, s.LeaseMargin.Seconds(), of)
			}
			o.ObserveInt64(rewound, s.Rewound, of)
			o.ObserveInt64(forks, s.Forks, of)
		}
		return nil
	}, waiting, memory, running, losses, margin, rewound, forks)
}
