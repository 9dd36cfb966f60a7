package mdb

import (
	"context"

	"github.com/messagedb-go/messagedb/mdb/poll"
)

// A StreamSubscribeOption is something that a subscription to a stream can be told.
type StreamSubscribeOption interface{ streamSubscribe(*subscribeConfig) }

// A CategorySubscribeOption is something that a subscription to a category can be
// told.
type CategorySubscribeOption interface{ categorySubscribe(*subscribeConfig) }

// A SubscribeOption is something that every subscription can be told.
type SubscribeOption interface {
	StreamSubscribeOption
	CategorySubscribeOption
}

// A PollingOption is something that a [Store] can be told, for all subscriptions,
// and a subscription, for itself.
type PollingOption interface {
	StoreOption
	SubscribeOption
}

type subscribeConfig struct {
	handler    Handler
	read       readConfig
	polling    poll.Strategy
	onLive     func(bool)
	onProgress func(context.Context, int64) error
	onRetry    func(Retry)
	workers    int // 0 or 1: none but the caller
	faults     faults
}

func newSubscribeConfig(store *storeConfig, h Handler) subscribeConfig {
	c := subscribeConfig{handler: h, read: readConfig{batchSize: DefaultBatchSize}, polling: store.polling}
	if h == nil {
		c.faults.add("handler", "nil", "a function")
	}
	return c
}

func (c *subscribeConfig) check(store *storeConfig) error {
	c.read.check(store)
	return append(c.faults, c.read.faults...).err()
}

type subscribeOption func(*subscribeConfig)

func (o subscribeOption) streamSubscribe(c *subscribeConfig)   { o(c) }
func (o subscribeOption) categorySubscribe(c *subscribeConfig) { o(c) }

func (o readOption) streamSubscribe(c *subscribeConfig)   { o(&c.read) }
func (o readOption) categorySubscribe(c *subscribeConfig) { o(&c.read) }

type pollingOption struct{ strategy poll.Strategy }

func (o pollingOption) store(c *storeConfig) {
	o.check(&c.faults)
	c.polling = o.strategy
}

func (o pollingOption) streamSubscribe(c *subscribeConfig) {
	o.check(&c.faults)
	c.polling = o.strategy
}
func (o pollingOption) categorySubscribe(c *subscribeConfig) { o.streamSubscribe(c) }

func (o pollingOption) check(f *faults) {
	if o.strategy == nil {
		f.add("polling strategy", "nil", "a strategy of package poll")
	}
}

// WithPolling sets how long a subscription that has caught up waits before it looks
// again. The default is poll.Backoff(10 ms, 1 s, 2). What the same [Store] writes wakes
// its subscriptions at once.
func WithPolling(strategy poll.Strategy) PollingOption {
	return pollingOption{strategy}
}

// FromEnd begins with what is written after the subscription has begun, instead of
// at the beginning.
func FromEnd() SubscribeOption {
	return subscribeOption(func(c *subscribeConfig) { c.read.fromEnd = true })
}

// OnLive is told true when the subscription has caught up, behind the messages with
// which it did, and false when it has fallen behind, which two full pages in a row
// show. It is always told once which of the two it is at first.
func OnLive(f func(live bool)) SubscribeOption {
	return subscribeOption(func(c *subscribeConfig) { c.onLive = f })
}

// OnProgress is told, behind each page, a position up to which everything has been
// handled: the global position for categories. Keep it, and go on later from
// AfterPosition or AfterGlobalPosition. It also moves over messages that a filter
// leaves out. It is told what was handled before a handler failed or the context
// ended, in the latter case with a context that has not. An error ends the
// subscription.
func OnProgress(f func(ctx context.Context, position int64) error) SubscribeOption {
	return subscribeOption(func(c *subscribeConfig) { c.onProgress = f })
}

// OnRetry is told of each failed read that is going to be tried again.
func OnRetry(f func(Retry)) SubscribeOption {
	return subscribeOption(func(c *subscribeConfig) { c.onRetry = f })
}
