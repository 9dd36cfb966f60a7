package mdbotel

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/messagedb-go/messagedb/mdb"
)

// events counts and measures what hooks receive.
type events struct {
	writes, written, writtenSize, writeRetries metric.Int64Counter
	writeDuration                              metric.Float64Histogram

	groupSize, groupDuration metric.Float64Histogram

	read, readSize metric.Int64Counter
	readDuration   metric.Float64Histogram

	handled                       metric.Int64Counter
	handlerDuration, handlerDelay metric.Float64Histogram

	failures, retries, claims, releases metric.Int64Counter
	live, partitions                    metric.Int64Gauge

	mu   sync.Mutex
	held map[string]map[int]bool // partitions, by consumer; guarded by mu
}

var (
	_ mdb.HookWriteCall  = (*events)(nil)
	_ mdb.HookWrite      = (*events)(nil)
	_ mdb.HookGroup      = (*events)(nil)
	_ mdb.HookRead       = (*events)(nil)
	_ mdb.HookHandle     = (*events)(nil)
	_ mdb.HookFailure    = (*events)(nil)
	_ mdb.HookRetry      = (*events)(nil)
	_ mdb.HookLive       = (*events)(nil)
	_ mdb.HookPartitions = (*events)(nil)
)

func newEvents(meter metric.Meter) (*events, error) {
	m := maker{meter: meter}
	e := &events{
		writes:        m.counter("messagedb.writes", "{write}", "Writes by outcome: WriteMessage and WriteMessages are one, WriteEach is many."),
		written:       m.counter("messagedb.write.messages", "{message}", "Messages that were written."),
		writtenSize:   m.counter("messagedb.write.size", "By", "Size of the data and metadata that were written."),
		writeRetries:  m.counter("messagedb.write.retries", "{retry}", "Further attempts of writes."),
		writeDuration: m.histogram("messagedb.write.duration", "s", "Duration of calls that write, with their retries.", callBuckets),

		groupSize:     m.histogram("messagedb.group.size", "{write}", "Writes that became one transaction by WithGroupCommit.", sizeBuckets),
		groupDuration: m.histogram("messagedb.group.duration", "s", "Duration of the transactions of groups.", callBuckets),

		read:         m.counter("messagedb.read.messages", "{message}", "Messages that were read."),
		readSize:     m.counter("messagedb.read.size", "By", "Size of the messages that were read."),
		readDuration: m.histogram("messagedb.read.duration", "s", "Duration of reads, also of subscriptions and consumers, and of those that find nothing new.", callBuckets),

		handled:         m.counter("messagedb.handled", "{message}", "Messages that were passed to handlers, by what these have returned."),
		handlerDuration: m.histogram("messagedb.handler.duration", "s", "Duration of calls of handlers.", callBuckets),
		handlerDelay:    m.histogram("messagedb.handler.delay", "s", "Age of a message when its handler is called for the first time, by the clocks of the server and of this process.", ageBuckets),

		failures: m.counter("messagedb.failures", "{failure}", "Failed attempts of consumers, by what becomes of the message: retry, park, skip or stop."),
		retries:  m.counter("messagedb.retries", "{retry}", "Retries of reads of subscriptions and consumers, and of statements by which a process takes part in a consumer."),
		claims:   m.counter("messagedb.consumer.claims", "{partition}", "Partitions that this process has got."),
		releases: m.counter("messagedb.consumer.releases", "{partition}", "Partitions that this process no longer has."),

		live:       m.gauge("messagedb.live", "{subscription}", "1 if a subscription or consumer has caught up, 0 if it no longer has."),
		partitions: m.gauge("messagedb.consumer.partitions", "{partition}", "Partitions that this process has."),

		held: make(map[string]map[int]bool),
	}
	return e, m.err()
}

func with(attrs ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributes(attrs...)
}

func categoryOf(c mdb.Category) attribute.KeyValue { return attribute.String(attrCategory, string(c)) }

// subscriber returns the attributes of a subscription or a consumer. That of a stream has its category, so that there are few.
func subscriber(s *mdb.Subscriber) []attribute.KeyValue {
	category := s.Category
	if s.Stream != "" {
		category = s.Stream.Category()
	}
	return []attribute.KeyValue{attribute.String(attrConsumer, s.Consumer), categoryOf(category)}
}

func (e *events) OnWriteStart(ctx context.Context, _ mdb.WriteCall) context.Context { return ctx }

func (e *events) OnWriteEnd(ctx context.Context, call mdb.WriteCall, took time.Duration, err error) {
	e.writeDuration.Record(ctx, took.Seconds(), with(attribute.String(attrMethod, call.Method), attribute.String(attrOutcome, outcomeOf(err))))
}

func (e *events) OnWrite(ctx context.Context, w mdb.WriteOutcome) {
	category := categoryOf(w.Stream.Category())
	e.writes.Add(ctx, 1, with(category, attribute.String(attrOutcome, outcomeOfWrite(&w))))
	if w.Attempts > 1 {
		e.writeRetries.Add(ctx, int64(w.Attempts-1), with(category))
	}
	if w.Err == nil {
		e.written.Add(ctx, int64(len(w.Written)), with(category))
		e.writtenSize.Add(ctx, int64(w.Bytes), with(category))
	}
}

func (e *events) OnGroupStart(ctx context.Context, _ mdb.WriteGroup) context.Context { return ctx }

func (e *events) OnGroupEnd(ctx context.Context, g mdb.WriteGroup, took time.Duration, err error) {
	attrs := with(categoryOf(g.Category), attribute.String(attrOutcome, outcomeOf(err)))
	e.groupSize.Record(ctx, float64(g.Writes), attrs)
	e.groupDuration.Record(ctx, took.Seconds(), attrs)
}

func (e *events) OnReadStart(ctx context.Context, _ mdb.ReadCall) context.Context { return ctx }

func (e *events) OnReadEnd(ctx context.Context, call mdb.ReadCall, took time.Duration, read mdb.ReadOutcome) {
	category := categoryOf(call.Category)
	e.readDuration.Record(ctx, took.Seconds(), with(category, attribute.String(attrMethod, call.Method), attribute.String(attrOutcome, outcomeOf(read.Err))))
	if read.Messages > 0 {
		e.read.Add(ctx, int64(read.Messages), with(category))
		e.readSize.Add(ctx, read.Bytes, with(category))
	}
}

// handling returns the attributes of a call of a handler.
func handling(h *mdb.Handling) []attribute.KeyValue {
	return []attribute.KeyValue{attribute.String(attrConsumer, h.Consumer), categoryOf(h.Message.Stream.Category())}
}

func (e *events) OnHandleStart(ctx context.Context, h mdb.Handling) context.Context {
	if h.Attempt <= 1 && !h.Replayed {
		e.handlerDelay.Record(ctx, max(0, time.Since(h.Message.Time).Seconds()), with(handling(&h)...))
	}
	return ctx
}

func (e *events) OnHandleEnd(ctx context.Context, h mdb.Handling, took time.Duration, err error) {
	attrs := with(append(handling(&h), attribute.String(attrOutcome, outcomeOf(err)))...)
	e.handled.Add(ctx, int64(max(1, len(h.Batch))), attrs)
	e.handlerDuration.Record(ctx, took.Seconds(), attrs)
}

func (e *events) OnFailure(f mdb.FailedHandling) {
	e.failures.Add(context.Background(), 1, with(attribute.String(attrConsumer, f.Consumer), categoryOf(f.Message.Stream.Category()),
		attribute.String(attrAction, f.Action)))
}

func (e *events) OnRetry(of mdb.Subscriber, _ mdb.Retry) {
	e.retries.Add(context.Background(), 1, with(subscriber(&of)...))
}

func (e *events) OnLive(of mdb.Subscriber, live bool) {
	e.live.Record(context.Background(), oneIf(live), with(subscriber(&of)...))
}

func oneIf(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func (e *events) OnPartitions(of mdb.Subscriber, held []int) {
	now := make(map[int]bool, len(held))
	for _, n := range held {
		now[n] = true
	}
	e.mu.Lock()
	before := e.held[of.Consumer]
	e.held[of.Consumer] = now
	e.mu.Unlock()
	ctx, attrs := context.Background(), with(attribute.String(attrConsumer, of.Consumer))
	e.claims.Add(ctx, missing(now, before), attrs)
	e.releases.Add(ctx, missing(before, now), attrs)
	e.partitions.Record(ctx, int64(len(held)), attrs)
}

// missing returns how many of some are not in others.
func missing(some, others map[int]bool) (n int64) {
	for one := range some {
		if !others[one] {
			n++
		}
	}
	return n
}
