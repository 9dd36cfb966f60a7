package mdb

import (
	"context"

	"github.com/messagedb-go/messagedb/mdb/poll"
)

// A StreamSubscribeOption configures a subscription to a stream.
type StreamSubscribeOption interface{ streamSubscribe(*subscribeConfig) }

// A CategorySubscribeOption configures a subscription to a category.
type CategorySubscribeOption interface{ categorySubscribe(*subscribeConfig) }

// A SubscribeOption configures a subscription.
type SubscribeOption interface {
	StreamSubscribeOption
	CategorySubscribeOption
}

// A PollingOption configures a [Store], for all its subscriptions, or one subscription.
type PollingOption interface {
	StoreOption
	SubscribeOption
}

type subscribeConfig struct {
	handler      Handler
	read         readConfig
	polling      poll.Strategy
	onLive       func(bool)
	onProgress   func(context.Context, int64) error
	onRetry      func(Retry)
	onUnreadable func(context.Context, *UnreadableError) error
	workers      int // 0 or 1: the caller's goroutine handles all messages
	faults       argumentFaults
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
	if c.read.batchSize == unlimited {
		c.faults = append(c.faults, unlimitedFault("subscription"))
	}
	if c.read.fromEnd && c.read.positioned {
		c.faults.add("start", "FromEnd and a position", "one of them")
	}
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

func (o pollingOption) check(f *argumentFaults) {
	if o.strategy == nil {
		f.add("polling strategy", "nil", "a strategy of package poll")
	}
}

// WithPolling sets how long a subscription that has caught up waits between polls. The
// default is poll.Backoff(10*time.Millisecond, time.Second, 2). While
// a subscription polls as its strategy says, a write through the same [Store] wakes it
// immediately, except for one in a transaction of the caller's ([Store.WithTx]).
func WithPolling(strategy poll.Strategy) PollingOption {
	return pollingOption{strategy}
}

// FromEnd starts with the first message written after the subscription started, and skips
// the existing ones. [OnProgress] receives the position of the last existing message
// before anything is read, or [NoStream] for a stream and 0 for a category without messages.
// Store it, so that a later call resumes there. It cannot be combined with an option that sets a position.
func FromEnd() SubscribeOption {
	return subscribeOption(func(c *subscribeConfig) { c.read.fromEnd = true })
}

// OnLive sets a function that is called with true when the subscription has caught up,
// after the message that completed it, and with false after two full pages in a row, which
// show that it has not. It is always called once with the initial state.
func OnLive(f func(live bool)) SubscribeOption {
	return subscribeOption(func(c *subscribeConfig) { c.onLive = f })
}

// OnProgress sets a function that is called after each page with the position up to
// which all messages are handled: the position in the stream, or for a category the
// global position. Store it, and resume later with AfterPosition or AfterGlobalPosition.
// The position also advances past messages that a filter leaves out. The function is
// called a last time when a handler fails or the context ends; its own context has not
// ended then. If it returns an error, the subscription ends.
func OnProgress(f func(ctx context.Context, position int64) error) SubscribeOption {
	return subscribeOption(func(c *subscribeConfig) { c.onProgress = f })
}

// OnRetry sets a function that is called for each failed read that will be retried.
func OnRetry(f func(Retry)) SubscribeOption {
	return subscribeOption(func(c *subscribeConfig) { c.onRetry = f })
}

// OnUnreadable sets a function that is called for each message that cannot be read, with
// what is known of it, after all messages before it are handled. If it returns nil, the
// subscription skips the message, which then counts as handled for [OnProgress]:
// record it, because nothing else will. If it returns an error, or without this option,
// the subscription ends.
//
// If a filter cannot be applied to a message because of its payload, the function receives
// that message, too.
func OnUnreadable(f func(ctx context.Context, err *UnreadableError) error) SubscribeOption {
	return subscribeOption(func(c *subscribeConfig) { c.onUnreadable = f })
}
