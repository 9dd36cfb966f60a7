// Package consumertest helps to test the handlers of consumers.
//
// [New] runs a handler of [consumer.Each] or [consumer.Batch] over messages in memory, without
// a server. It can fail, park and replay messages, and deliver them again. [CatchUp] runs any
// consumer on a real store, such as one of package mdbtest, until everything is handled. Both
// return a [Result] to compare with what the test expects.
//
// Neither waits between the attempts of a message that fails.
package consumertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/encode"
	"github.com/messagedb-go/messagedb/internal/trial"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// A Consumer runs a handler over messages in memory, as a consumer does with those of a store:
// it keeps their order, retries and parks them, and remembers how far it is. Create one with
// [New]. It is for one goroutine.
type Consumer struct {
	t        testing.TB
	memory   trial.Memory
	versions map[mdb.StreamName]int64 // the number of messages
	ids      map[uuid.UUID]bool
	position int64 // of the last message, globally
	results  collector
}

// New returns a Consumer for a handler of [consumer.Each] or [consumer.Batch]. The test fails
// immediately if the handler is another one, because transactions need a database, or if an
// option is invalid.
//
// The handler is called by the goroutine of the test, one call at a time, so it may use
// t.Fatal. Options about failures, such as [consumer.OnFailure], [consumer.MaxParked] and
// [consumer.StopOnError], have their effect, as have [consumer.InOrder],
// [consumer.WithPartitions] and [consumer.WithBatchSize]. The others do nothing here.
func New(t testing.TB, h consumer.Handler, opts ...consumer.Option) *Consumer {
	t.Helper()
	c := &Consumer{t: t, versions: make(map[mdb.StreamName]int64), ids: make(map[uuid.UUID]bool)}
	open := trial.InMemory.(func(consumer.Handler, []consumer.Option, func(trial.Event, consumer.Failure)) (trial.Memory, error)) //nolint:forcetypeassert // what consumer sets
	memory, err := open(h, opts, c.results.add)
	if err != nil {
		t.Fatalf("consumertest: New: %v", err)
	}
	c.memory = memory
	return c
}

// Write appends messages to a stream. The handler is not called before the next call of
// [Consumer.CatchUp]. As in a store, a message without an ID gets one, data and metadata are
// encoded as JSON, and positions count from 0 in each stream. Streams of any category may be
// written.
func (c *Consumer) Write(stream mdb.StreamName, ms ...mdb.ProposedMessage) {
	c.t.Helper()
	for i, m := range ms {
		data, err := payload("data", m.Data)
		metadata, metadataErr := payload("metadata", m.Metadata)
		if err = errors.Join(err, metadataErr); err != nil {
			c.t.Fatalf("consumertest: Write: message %d: %v", i, err)
		}
		if m.ID == uuid.Nil {
			m.ID = uuid.New()
		}
		if c.ids[m.ID] {
			c.t.Fatalf("consumertest: Write: message %d: the ID is that of another message", i)
		}
		c.ids[m.ID] = true
		c.position++
		c.memory.Write(mdb.Message{
			ID: m.ID, Stream: stream, Type: m.Type, Position: c.versions[stream], GlobalPosition: c.position,
			Time: time.Now().UTC().Truncate(time.Microsecond), Data: data, Metadata: metadata,
		})
		c.versions[stream]++
	}
}

// payload returns data or metadata as a read would, except for white space and the like.
func payload(name string, v any) (json.RawMessage, error) {
	raw, err := encode.JSON(v)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	case raw != nil && !json.Valid(raw):
		return nil, fmt.Errorf("%s: it is not JSON", name)
	}
	return raw, nil
}

// CatchUp calls the handler with the messages that were written since the last call, until each
// is handled, skipped, parked or waits for a parked one. Messages for which it could not do so are
// in [Result.Waiting], and it continues with them in the next call.
func (c *Consumer) CatchUp() Result {
	c.t.Helper()
	handled, err := c.memory.CatchUp(c.t.Context())
	return c.results.take(handled, err)
}

// Replay calls the handler with the messages of parked streams, beginning with the one that was
// parked, and including those that came later and were waiting for it. Without arguments it
// replays all parked streams. A message that fails once more is parked again. The test fails
// immediately if a stream is not parked.
//
// Streams with the same cardinal ID wait for each other, so they are replayed together.
func (c *Consumer) Replay(streams ...mdb.StreamName) Result {
	c.t.Helper()
	handled, known, err := c.memory.Replay(c.t.Context(), streams)
	if !known {
		c.t.Fatalf("consumertest: Replay: not all of these streams are parked: %q", streams)
	}
	return c.results.take(handled, err)
}

// Redeliver calls the handler again with all messages, but not with parked ones, as after a
// crash that has lost the stored progress. [consumer.Delivery.ID] returns the same IDs. Use it
// to test that a handler is idempotent.
func (c *Consumer) Redeliver() Result {
	c.t.Helper()
	c.memory.Redeliver()
	return c.CatchUp()
}

// CatchUp runs a consumer until all messages that are in the store are handled, skipped or
// parked, as [consumer.Consumer.CatchUp] does. To replay parked streams, call
// [consumer.Consumer.Replay] before it. The consumer has stopped when CatchUp returns,
// and continues where it was when it is run again.
//
// The test fails immediately if that is not possible, for example because the schema of
// consumers is not installed, or because the handler was called a hundred times in a row
// for the same message. If the handler or [consumer.StopOnError] has stopped the consumer,
// CatchUp returns, and [Result.Err] says so.
func CatchUp(t testing.TB, c *consumer.Consumer) Result {
	t.Helper()
	run := trial.CatchUp.(func(context.Context, *consumer.Consumer, func(trial.Event, consumer.Failure)) error) //nolint:forcetypeassert // what consumer sets
	var results collector
	before := c.Stats().Handled
	err := run(t.Context(), c, results.add)
	if err != nil && !errors.As(err, new(*mdb.HandlerError)) {
		t.Fatalf("consumertest: CatchUp: %v", err)
	}
	return results.take(int(c.Stats().Handled-before), err)
}

// A collector makes a Result. It is safe for concurrent use.
type collector struct {
	mu     sync.Mutex
	result Result
}

func (c *collector) add(e trial.Event, f consumer.Failure) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &c.result
	switch e {
	case trial.Failed:
		r.Failures = append(r.Failures, f)
	case trial.Skipped:
		r.Skipped = append(r.Skipped, f)
	case trial.Parked:
		r.Parked = append(r.Parked, f)
	case trial.Waiting:
		r.Waiting = append(r.Waiting, f)
	}
}

func (c *collector) take(handled int, err error) Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.result
	r.Handled, r.Err = handled, err
	c.result = Result{}
	return r
}
