package mdbotel_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdbotel"
)

// TestObserveStore checks the states of categories that have subscriptions, while one waits for notifications.
func TestObserveStore(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s, err := mdb.Connect(t.Context(), testdb.Notifying(t), mdb.WithNotify())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := l.ObserveStore(s); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		ended <- s.SubscribeToCategory(ctx, "order", func(context.Context, mdb.Message) error { return nil })
	}()
	until := func(what string, reached func(mdb.NotifyStats) bool) {
		t.Helper()
		deadline := time.After(time.Minute)
		for !reached(s.NotifyStats()) {
			select {
			case <-deadline:
				t.Fatalf("%s: %+v", what, s.NotifyStats())
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	until("the subscription does not wait", func(n mdb.NotifyStats) bool { return n.Waiting == 1 })
	l.wantPoints(t, "messagedb.notify.listening", map[string]float64{"": 1})
	l.wantPoints(t, "messagedb.notify.categories", map[string]float64{"waiting": 1, "cooling": 0, "polling": 0, "lock_table_full": 0})
	write(t.Context(), t, s, "order-1", nil)
	until("no notification arrives", func(n mdb.NotifyStats) bool { return n.Notifications > 0 })
	l.wantPoints(t, "messagedb.notify.notifications", map[string]float64{"": 1})
	for _, name := range []string{"messagedb.forks", "messagedb.lost", "messagedb.replica.reads", "messagedb.replica.fallbacks", "messagedb.replica.failures"} {
		l.wantPoints(t, name, map[string]float64{"": 0})
	}
	cancel()
	<-ended
}

// withReplica returns a store on both servers.
func withReplica(t *testing.T, p *pgtest.Pair) *mdb.Store {
	t.Helper()
	s, err := mdb.Connect(t.Context(), p.Primary.URL("postgres"), mdb.ConnectReplica(p.Standby.URL("postgres")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// TestObserveReplica checks the lag of a replica that is held back, and that it is not queried more often than the interval says.
func TestObserveReplica(t *testing.T) {
	t.Parallel()
	l, later := newLab(t), newLab(t)
	pair := testdb.Pair(t)
	s := withReplica(t, pair)
	for _, l := range []*lab{l, later} {
		if _, err := l.ObserveReplica(s, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	l.wantPoints(t, "messagedb.replica.lag.positions", map[string]float64{"": 0})
	l.wantPoints(t, "messagedb.replica.lag.time", map[string]float64{"": 0})
	pair.Hold(t)
	for range 2 {
		write(t.Context(), t, s, "order-1", nil)
	}
	l.wantPoints(t, "messagedb.replica.lag.positions", map[string]float64{"": 0})
	later.wantPoints(t, "messagedb.replica.lag.positions", map[string]float64{"": 2})
	if age := later.points(t, "messagedb.replica.lag.time"); age[""] <= 0 {
		t.Errorf("got %v, want the age of the first message", age)
	}
	// What cannot be queried is missing, and not 0.
	failing := newLab(t)
	if _, err := failing.ObserveReplica(s, time.Hour); err != nil {
		t.Fatal(err)
	}
	pair.Release(t)
	s.Close()
	var all metricdata.ResourceMetrics
	if err := failing.reader.Collect(context.Background(), &all); err == nil || len(all.ScopeMetrics) > 0 {
		t.Errorf("got error %v and %+v, want an error only", err, all.ScopeMetrics)
	}
}

// TestObserveLag checks the lag of each partition in each category, what is parked, and that the database is not queried more
// often than the interval says.
func TestObserveLag(t *testing.T) {
	t.Parallel()
	l, later := newLab(t), newLab(t)
	s := withConsumers.Store(t)
	for _, stream := range []mdb.StreamName{"order-1", "order-1", "order-2"} {
		write(t.Context(), t, s, stream, nil)
	}
	handle(t, s, "billing", "order", consumer.Each(func(_ context.Context, m mdb.Message) error {
		if m.Stream == "order-2" {
			return consumer.Permanent(errors.New("poisoned"))
		}
		return nil
	}), consumer.WithCategories("refund"))
	of := consumer.Admin(s.Pool())
	if err := of.Pause(t.Context(), "billing", "a test"); err != nil {
		t.Fatal(err)
	}
	for _, l := range []*lab{l, later} {
		if _, err := l.ObserveLag(of, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	const order, refund = "order billing 0", "refund billing 0"
	l.wantPoints(t, "messagedb.lag.messages", map[string]float64{order: 0, refund: 0})
	l.wantPoints(t, "messagedb.lag.age", map[string]float64{order: 0, refund: 0})
	for range 2 {
		write(t.Context(), t, s, "order-3", nil)
	}
	l.wantPoints(t, "messagedb.lag.messages", map[string]float64{order: 0, refund: 0})
	later.wantPoints(t, "messagedb.lag.messages", map[string]float64{order: 2, refund: 0})
	if age := later.points(t, "messagedb.lag.age"); age[order] <= 0 || age[refund] != 0 {
		t.Errorf("got ages %v, want one of the messages that are not handled", age)
	}
	later.wantPoints(t, "messagedb.consumer.parked", map[string]float64{"billing": 1})
	later.wantPoints(t, "messagedb.consumer.members", map[string]float64{"billing": 0})
	later.wantPoints(t, "messagedb.consumer.paused", map[string]float64{"billing": 1})
	if stuck := later.points(t, "messagedb.consumer.stuck"); stuck["billing"] == 0 {
		t.Errorf("got %v, want that nothing runs the consumer", stuck)
	}
}

// TestObserveLagFails checks that a query which fails, or gets no connection, is an error of the collection, and not a lag of 0.
func TestObserveLagFails(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(t *testing.T, pool *pgxpool.Pool){
		"closed": func(_ *testing.T, pool *pgxpool.Pool) { pool.Close() },
		"no connection is free": func(t *testing.T, pool *pgxpool.Pool) {
			t.Helper()
			for range pool.Config().MaxConns {
				conn, err := pool.Acquire(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(conn.Release)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			s := withConsumers.Store(t)
			if _, err := l.ObserveLag(consumer.Admin(s.Pool()), 20*time.Millisecond); err != nil {
				t.Fatal(err)
			}
			fail(t, s.Pool())
			var all metricdata.ResourceMetrics
			if err := l.reader.Collect(context.Background(), &all); err == nil {
				t.Error("got no error")
			}
			for _, scope := range all.ScopeMetrics {
				for _, m := range scope.Metrics {
					t.Errorf("got %s", m.Name)
				}
			}
		})
	}
}

// TestBadArguments checks that each invalid argument is reported.
func TestBadArguments(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := withConsumers.SharedStore(t)
	for argument, call := range map[string]func() error{
		"tracer provider": func() error { _, err := mdbotel.New(mdbotel.WithTracerProvider(nil)); return err },
		"meter provider":  func() error { _, err := mdbotel.New(mdbotel.WithMeterProvider(nil)); return err },
		"propagator":      func() error { _, err := mdbotel.New(mdbotel.WithPropagator(nil)); return err },
		"age":             func() error { _, err := mdbotel.New(mdbotel.ContinueWithin(-1)); return err },
		"option 0":        func() error { _, err := mdbotel.New(nil); return err },
		"store 1":         func() error { _, err := l.ObserveStore(s, nil); return err },
		"consumer 0":      func() error { _, err := l.ObserveConsumers(nil); return err },
		"operator":        func() error { _, err := l.ObserveLag(nil, time.Second); return err },
		"store":           func() error { _, err := l.ObserveReplica(nil, time.Second); return err },
		"interval":        func() error { _, err := l.ObserveLag(consumer.Admin(s.Pool()), 0); return err },
	} {
		var fault *mdb.ArgumentError
		if err := call(); !errors.As(err, &fault) || len(fault.Faults) != 1 || fault.Faults[0].Argument != argument {
			t.Errorf("%s: got %v", argument, err)
		}
	}
}
