package mdbotel_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// wantPoints checks the values of a metric, or the counts of a histogram.
func (l *lab) wantPoints(t *testing.T, name string, want map[string]float64) {
	t.Helper()
	if got := l.points(t, name); !maps.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", name, got, want)
	}
}

// TestMetricsOfWrites checks what is counted of writes, by their outcomes.
func TestMetricsOfWrites(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := mdbtest.SharedStore(t, mdb.WithHooks(l.Hooks()...))
	category := mdbtest.Category("metered")
	c := string(category)
	stream := category.Stream("1")
	one := mdb.NewMessage("Happened", 1234)
	for _, opts := range [][]mdb.WriteOption{nil, {mdb.Idempotent()}, {mdb.ExpectNoStream()}, {mdb.ExpectVersion(-5)}, nil} {
		_, _ = s.WriteMessage(t.Context(), stream, one, opts...)
	}
	s.WriteEach(t.Context(), []mdb.Write{
		{Stream: stream, Message: mdb.NewMessage("Happened", 12)},
		{Stream: stream, Message: mdb.NewMessage("Happened", 1), Options: []mdb.WriteOption{mdb.ExpectVersion(7)}},
		{Stream: stream, Message: mdb.NewMessage("Happened", 1)},
	})
	l.wantPoints(t, "messagedb.writes", map[string]float64{
		c + " ok": 2, c + " duplicate": 1, c + " conflict": 2, c + " invalid": 1, c + " duplicate_id": 1, c + " skipped": 1,
	})
	l.wantPoints(t, "messagedb.write.messages", map[string]float64{c: 3})
	l.wantPoints(t, "messagedb.write.retries", map[string]float64{})
	l.wantPoints(t, "messagedb.write.duration", map[string]float64{
		"WriteMessage ok": 2, "WriteMessage conflict": 1, "WriteMessage invalid": 1, "WriteMessage duplicate_id": 1, "WriteEach conflict": 1,
	})
	if size := l.points(t, "messagedb.write.size")[c]; size < 10 { // also their trace context
		t.Errorf("got a size of %v", size)
	}
}

// TestMetricsOfGroups checks that a group is counted with its size.
func TestMetricsOfGroups(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := mdbtest.SharedStore(t, mdb.WithGroupCommit(), mdb.WithHooks(l.Hooks()...))
	category := mdbtest.Category("metered")
	s.WriteEach(t.Context(), []mdb.Write{
		{Stream: category.Stream("1"), Message: mdb.NewMessage("Happened", 1)}, {Stream: category.Stream("2"), Message: mdb.NewMessage("Happened", 1)},
	})
	for _, name := range []string{"messagedb.group.size", "messagedb.group.duration"} {
		l.wantPoints(t, name, map[string]float64{string(category) + " ok": 1})
	}
}

// TestMetricsOfReads checks what is counted of reads.
func TestMetricsOfReads(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := mdbtest.SharedStore(t, mdb.WithHooks(l.Hooks()...))
	category := mdbtest.Category("metered")
	c := string(category)
	for range 2 {
		write(t.Context(), t, s, category.Stream("1"), nil)
	}
	_, _ = s.GetCategoryMessages(t.Context(), category)
	_, _ = s.GetStreamMessages(t.Context(), category.Stream("2"))
	_, _ = s.GetLastStreamMessage(t.Context(), category.Stream("2"))
	_, _ = s.GetMessage(t.Context(), uuid.New())
	l.wantPoints(t, "messagedb.read.messages", map[string]float64{c: 2})
	l.wantPoints(t, "messagedb.read.duration", map[string]float64{
		c + " GetCategoryMessages ok": 1, c + " GetStreamMessages ok": 1, c + " GetLastStreamMessage not_found": 1, " GetMessage not_found": 1,
	})
	if size := l.points(t, "messagedb.read.size")[c]; size < 10 {
		t.Errorf("got a size of %v", size)
	}
}

// TestMetricsOfConsumers checks what is counted of handlers, their failures, partitions and state.
func TestMetricsOfConsumers(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := withConsumers.Store(t, mdb.WithHooks(l.Hooks()...))
	for range 3 {
		write(t.Context(), t, s, "order-1", nil)
	}
	write(t.Context(), t, s, "order-2", nil)
	attempts := 0
	c, err := consumer.New(s, "billing", "order", consumer.Each(func(_ context.Context, m mdb.Message) error {
		switch {
		case m.Stream == "order-2":
			return consumer.Permanent(errors.New("poisoned"))
		case m.Position == 1 && attempts == 0:
			attempts++
			return consumer.RetryAfter(errors.New("later"), time.Microsecond)
		case m.Position == 2:
			return consumer.Skip(errors.New("nobody needs it"))
		}
		return nil
	}), consumer.WithPartitions(1), consumer.WithWorkers(1))
	if err != nil {
		t.Fatal(err)
	}
	stop, err := l.ObserveConsumers(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantPoints(t, "messagedb.handled", map[string]float64{"order billing ok": 2, "order billing error": 3})
	l.wantPoints(t, "messagedb.handler.duration", map[string]float64{"order billing ok": 2, "order billing error": 3})
	l.wantPoints(t, "messagedb.handler.delay", map[string]float64{"order billing": 4})
	l.wantPoints(t, "messagedb.failures", map[string]float64{"retry order billing": 1, "skip order billing": 1, "park order billing": 1})
	l.wantPoints(t, "messagedb.consumer.claims", map[string]float64{"billing": 1})
	l.wantPoints(t, "messagedb.consumer.releases", map[string]float64{"billing": 1})
	l.wantPoints(t, "messagedb.consumer.partitions", map[string]float64{"billing": 0})
	for _, name := range []string{"waiting", "memory", "running", "lease.losses", "rewound", "forks"} {
		l.wantPoints(t, "messagedb.consumer."+name, map[string]float64{"billing": 0})
	}
	if margin := l.points(t, "messagedb.consumer.lease.margin")["billing"]; margin <= 0 {
		t.Errorf("got a margin of %v", margin)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	l.wantPoints(t, "messagedb.consumer.running", map[string]float64{})
}

// TestMetricsOfPartitions checks that only partitions which the process has not had before are claimed, and that those are released which it
// no longer has.
func TestMetricsOfPartitions(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, held := range [][]int{{0, 1, 2}, {1, 2, 3, 4}, {1}} {
		for _, hook := range l.Hooks() {
			if hook, ok := hook.(mdb.HookPartitions); ok {
				hook.OnPartitions(mdb.Subscriber{Consumer: "billing"}, held)
			}
		}
	}
	l.wantPoints(t, "messagedb.consumer.claims", map[string]float64{"billing": 5})
	l.wantPoints(t, "messagedb.consumer.releases", map[string]float64{"billing": 4})
	l.wantPoints(t, "messagedb.consumer.partitions", map[string]float64{"billing": 1})
}

// TestMetricsOfBatches checks that each message of a batch is counted.
func TestMetricsOfBatches(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := withConsumers.Store(t, mdb.WithHooks(l.Hooks()...))
	for range 3 {
		write(t.Context(), t, s, "order-1", nil)
	}
	handle(t, s, "billing", "order", consumer.Batch(func(context.Context, []mdb.Message) error { return nil }))
	l.wantPoints(t, "messagedb.handled", map[string]float64{"order billing ok": 3})
	l.wantPoints(t, "messagedb.handler.duration", map[string]float64{"order billing ok": 1})
}

// TestMetricsOfSubscriptions checks the state of subscriptions, and that one of a stream is counted by its category.
func TestMetricsOfSubscriptions(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := mdbtest.SharedStore(t, mdb.WithHooks(l.Hooks()...))
	category := mdbtest.Category("metered")
	write(t.Context(), t, s, category.Stream("1"), nil)
	ctx, cancel := context.WithCancel(t.Context())
	_ = s.SubscribeToStream(ctx, category.Stream("1"), func(context.Context, mdb.Message) error { return nil }, mdb.OnLive(func(bool) { cancel() }))
	l.wantPoints(t, "messagedb.handled", map[string]float64{string(category) + "  ok": 1})
	l.wantPoints(t, "messagedb.live", map[string]float64{string(category) + " ": 1})
}

// TestMetricsOfRetries checks that retries are counted, of writes and of subscriptions.
func TestMetricsOfRetries(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, hook := range l.Hooks() {
		if hook, ok := hook.(mdb.HookWrite); ok {
			hook.OnWrite(t.Context(), mdb.WriteOutcome{Stream: "order-1", Messages: 1, Attempts: 3, Err: fmt.Errorf("lost: %w", &mdb.UnknownOutcomeError{})})
		}
		if hook, ok := hook.(mdb.HookRetry); ok {
			hook.OnRetry(mdb.Subscriber{Consumer: "billing"}, mdb.Retry{Attempt: 1})
		}
	}
	l.wantPoints(t, "messagedb.writes", map[string]float64{"order unknown": 1})
	l.wantPoints(t, "messagedb.write.retries", map[string]float64{"order": 2})
	l.wantPoints(t, "messagedb.retries", map[string]float64{" billing": 1})
}
