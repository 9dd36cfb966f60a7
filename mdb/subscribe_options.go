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
	AllSubscribeOption
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
	name         string      // of the category or stream
	from         *checkpoint // instead of a position, or nil
	onProgress   func(context.Context, checkpoint) error
	onFork       func(context.Context, Fork) error
	onRetry      func(Retry)
	onUnreadable func(context.Context, *UnreadableError) error
	workers      int // 0 or 1: the caller's goroutine handles all messages
	faults       argumentFaults
}

func newSubscribeConfig(store *storeConfig, h Handler) subscribeConfig {
	c := subscribeConfig{handler: h, read: readConfig{batchSize: DefaultBatchSize, batchBytes: DefaultBatchBytes}, polling: store.polling}
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
	if c.read.since != nil {
		c.faults.add("start", "Since", "a position or FromEnd")
	}
	if c.read.backwards {
		c.faults.add("order", "Backwards", "that of positions, because a subscription waits for later messages")
	}
	if c.read.fromEnd && c.read.positioned {
		c.faults.add("start", "FromEnd and a position", "one of them")
	}
	if c.from != nil && (c.read.fromEnd || c.read.positioned) {
		c.faults.add("start", "a checkpoint, and FromEnd or a position", "one of them")
	}
	return append(c.faults, c.read.faults...).err()
}

// start makes the subscription start after a checkpoint, unless that is the zero value.
func (c *subscribeConfig) start(n namedCheckpoint) {
	switch n.name {
	case "":
		c.from = nil
	case c.name:
		c.from = &n.at
	default:
		c.faults.add("checkpoint", "one of "+n.name, "one of "+c.name)
	}
}

type subscribeOption func(*subscribeConfig)

func (o subscribeOption) streamSubscribe(c *subscribeConfig)   { o(c) }
func (o subscribeOption) categorySubscribe(c *subscribeConfig) { o(c) }
func (o subscribeOption) allSubscribe(c *subscribeConfig)      { o(c) }

type categorySubscribeOption func(*subscribeConfig)

func (o categorySubscribeOption) categorySubscribe(c *subscribeConfig) { o(c) }

type streamSubscribeOption func(*subscribeConfig)

func (o streamSubscribeOption) streamSubscribe(c *subscribeConfig) { o(c) }

func (o readOption) streamSubscribe(c *subscribeConfig)   { o(&c.read) }
func (o readOption) categorySubscribe(c *subscribeConfig) { o(&c.read) }
func (o readOption) allSubscribe(c *subscribeConfig)      { o(&c.read) }

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
func (o pollingOption) allSubscribe(c *subscribeConfig)      { o.streamSubscribe(c) }

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
// the existing ones. Before anything is read, [OnProgress], [OnStreamProgress] or
// [OnAllProgress] receives the checkpoint of the last existing message. Store it, so that a later
// call resumes there. If there are no messages, its position is [NoStream] for a stream and 0
// otherwise. FromEnd cannot be combined with an option that sets a position or a checkpoint. A
// subscription to all categories first waits for the transactions that are writing, see
// [Store.Head].
func FromEnd() SubscribeOption {
	return subscribeOption(func(c *subscribeConfig) { c.read.fromEnd = true })
}

// OnLive sets a function that is called with true when the subscription has caught up,
// after the message that completed it, and with false after two full pages in a row, which
// show that it has not. It is always called once with the initial state.
func OnLive(f func(live bool)) SubscribeOption {
	return subscribeOption(func(c *subscribeConfig) { c.onLive = f })
}

// OnProgress sets a function that is called after each page with the checkpoint up to
// which all messages are handled. Store it, and resume later with [AfterCheckpoint].
// It also advances past messages that a filter leaves out. The function is
// called a last time when a handler fails or the context ends; its own context has not
// ended then. If it returns an error, the subscription ends with a [*HandlerError].
//
// The position grows from call to call, unless the store has lost messages: after [OnFork]
// it goes back once, to the last message that is left. Store this checkpoint too. A
// statement that only stores greater positions would keep a checkpoint whose message is no
// longer in the store; the next call with it would notice that and go back again.
func OnProgress(f func(ctx context.Context, c CategoryCheckpoint) error) CategorySubscribeOption {
	return categorySubscribeOption(func(c *subscribeConfig) {
		name := c.name
		c.onProgress = nil
		if f != nil {
			c.onProgress = func(ctx context.Context, at checkpoint) error {
				return f(ctx, CategoryCheckpoint{namedCheckpoint{name, at}})
			}
		}
	})
}

// OnStreamProgress is [OnProgress] for a subscription to a stream. Resume later with
// [AfterStreamCheckpoint].
func OnStreamProgress(f func(ctx context.Context, c StreamCheckpoint) error) StreamSubscribeOption {
	return streamSubscribeOption(func(c *subscribeConfig) {
		name := c.name
		c.onProgress = nil
		if f != nil {
			c.onProgress = func(ctx context.Context, at checkpoint) error {
				return f(ctx, StreamCheckpoint{namedCheckpoint{name, at}})
			}
		}
	})
}

// AfterCheckpoint starts after a checkpoint of the same category, which [OnProgress] of an
// earlier call has received. The zero value starts at the beginning. It cannot be combined
// with [FromEnd] or an option that sets a position.
//
// A checkpoint of another category is rejected with an [*ArgumentError]. If the store has lost
// messages that the earlier call has handled, the subscription starts after the newest message
// of the checkpoint that is still there, see [OnFork], and delivers what comes after it again.
// If none of them is there, it ends with a [*ForkError].
func AfterCheckpoint(c CategoryCheckpoint) CategorySubscribeOption {
	return categorySubscribeOption(func(s *subscribeConfig) { s.start(c.namedCheckpoint) })
}

// AfterStreamCheckpoint is [AfterCheckpoint] for a subscription to a stream.
func AfterStreamCheckpoint(c StreamCheckpoint) StreamSubscribeOption {
	return streamSubscribeOption(func(s *subscribeConfig) { s.start(c.namedCheckpoint) })
}

// OnFork sets a function that is called when the last messages that the subscription has read
// are no longer in the store, before it continues after the newest one that is there. They were
// lost, in a failover to a standby that had not received them or in a restore to an earlier
// moment. Undo what their handling has done, or record it: nothing else lists them. Without
// this option, the subscription continues in the same way. In both cases the log contains the
// number of messages, at level Warn, and [Store.Stats] counts them. If the function returns an
// error, the subscription ends with a [*HandlerError].
//
// The function is also called if the last message that was read has been deleted, because a
// deletion looks like a loss. Deletions of earlier messages alone are not noticed. It is not
// called if none of the messages that the subscription knows is in the store: it then ends with
// a [*ForkError].
//
// docs/failover.md explains what to consider if handlers write to the same database.
func OnFork(f func(ctx context.Context, fork Fork) error) SubscribeOption {
	return subscribeOption(func(c *subscribeConfig) { c.onFork = f })
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
