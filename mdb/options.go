package mdb

import (
	"log/slog"
	"math"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb/poll"
)

// Defaults.
const (
	// DefaultBatchSize is how many messages are read at once unless
	// [WithBatchSize] says otherwise.
	DefaultBatchSize = 1000
	// DefaultMaxMessageSize is the largest message, in bytes of JSON, unless
	// [WithMaxMessageSize] says otherwise.
	DefaultMaxMessageSize = 16 << 20

	maxGroupSize = math.MaxInt16 // the server computes with a smallint
)

// A StoreOption is something that a [Store] can be told.
type StoreOption interface{ store(*storeConfig) }

type storeConfig struct {
	direct     bool
	conditions bool
	maxSize    int
	retry      RetryPolicy
	logger     *slog.Logger
	execMode   pgx.QueryExecMode // the pool's
	polling    poll.Strategy
	notify     notifyConfig
	faults     faults
}

type storeOption func(*storeConfig)

func (o storeOption) store(c *storeConfig) { o(c) }

// WithDirectSQL makes the store read, and write several messages at once, by SQL
// on the table messages instead of by Message DB's procedures, with the same
// results and errors. It is faster, above all for small reads, consumer groups and
// batches, and needs the rights on the table that Message DB grants to the role
// message_store. Single messages are written by write_message all the same, and
// reads with a condition are the procedures'.
func WithDirectSQL() StoreOption {
	return storeOption(func(c *storeConfig) { c.direct = true })
}

// WithConditions allows [WithCondition], which is refused otherwise.
func WithConditions() StoreOption {
	return storeOption(func(c *storeConfig) { c.conditions = true })
}

// WithMaxMessageSize sets how many bytes the data and the metadata of a message
// may have together, as JSON, to be written. It is at least 1; the default is
// [DefaultMaxMessageSize].
func WithMaxMessageSize(bytes int) StoreOption {
	return storeOption(func(c *storeConfig) {
		if bytes < 1 {
			c.faults.add("maximal message size", strconv.Itoa(bytes), "at least 1 byte")
		}
		c.maxSize = bytes
	})
}

// WithRetry sets how often and how patiently a write is tried, and what is done
// by [Store.Atomically]. Reads are not repeated.
func WithRetry(policy RetryPolicy) StoreOption {
	return storeOption(func(c *storeConfig) {
		policy.check(&c.faults)
		c.retry = policy
	})
}

// WithLogger makes the store log what it does about failures by itself, such as
// trying again. The default is to log nothing. Logs hold no payload.
func WithLogger(l *slog.Logger) StoreOption {
	return storeOption(func(c *storeConfig) {
		if l == nil {
			c.faults.add("logger", "nil", "a *slog.Logger")
		}
		c.logger = l
	})
}

// A WriteOption is something that a write can be told.
type WriteOption interface{ write(*writeConfig) }

type writeConfig struct {
	expected   *int64
	idempotent bool
	faults     faults
}

type writeOption func(*writeConfig)

func (o writeOption) write(c *writeConfig) { o(c) }

// ExpectVersion makes the write fail with a [*WrongVersionError] unless the last
// message of the stream is at the position: 0 for a stream of one message,
// [NoStream] for one without any.
func ExpectVersion(position int64) WriteOption {
	return writeOption(func(c *writeConfig) {
		if position < NoStream {
			c.faults.add("expected version", strconv.FormatInt(position, 10), "a position, or -1 for no stream")
		}
		c.expected = &position
	})
}

// ExpectNoStream makes the write fail with a [*WrongVersionError] if the stream
// has messages already.
func ExpectNoStream() WriteOption {
	return ExpectVersion(NoStream)
}

// Idempotent makes writing the same messages again, by their IDs, a success, with
// [Written.Duplicate] set. They are the same if all of them are in the store, in
// the same stream, one behind the other in the same order, and with equal type,
// data and metadata. An expected version has to fit as well: it is that from
// before the first write. On a [Tx] it is refused, because the failure that leads
// to the look has ended the transaction.
func Idempotent() WriteOption {
	return writeOption(func(c *writeConfig) { c.idempotent = true })
}

// A StreamReadOption is something that the reading of a stream can be told.
type StreamReadOption interface{ streamRead(*readConfig) }

// A CategoryReadOption is something that the reading of a category can be told.
type CategoryReadOption interface{ categoryRead(*readConfig) }

// A ReadOption is something that the reading of streams and of categories can be
// told.
type ReadOption interface {
	StreamReadOption
	CategoryReadOption
}

// A PageOption is something that reads and subscriptions of both kinds can be told.
type PageOption interface {
	ReadOption
	SubscribeOption
}

// A StreamOption is something that the reading of a stream and a subscription to it
// can be told.
type StreamOption interface {
	StreamReadOption
	StreamSubscribeOption
}

// A CategoryOption is something that the reading of a category and a subscription
// to it can be told.
type CategoryOption interface {
	CategoryReadOption
	CategorySubscribeOption
}

// SQL is a piece of SQL that becomes part of a query as it is. A variable needs a
// visible conversion to become one: never convert what comes from outside.
type SQL string

type readConfig struct {
	position    int64
	fromEnd     bool  // of subscriptions, instead of position
	batchSize   int64 // -1: no limit
	correlation *string
	member      *int64
	size        *int64
	condition   *string
	faults      faults
}

// limit is what a LIMIT takes: NULL is none.
func (c *readConfig) limit() *int64 {
	if c.batchSize == unlimited {
		return nil
	}
	return &c.batchSize
}

func (c *readConfig) check(store *storeConfig) {
	if c.condition != nil && !store.conditions {
		c.faults.add("condition", "one", "none, or a Store made with WithConditions")
	}
}

type readOption func(*readConfig)

func (o readOption) streamRead(c *readConfig)   { o(c) }
func (o readOption) categoryRead(c *readConfig) { o(c) }

// FromPosition begins with the message at the position, or the first one behind
// it. The default is 0, the beginning.
func FromPosition(position int64) StreamOption {
	return from("position", position)
}

// AfterPosition begins with the first message behind the position. That of the
// last message seen is the usual one; [NoStream] is the beginning.
func AfterPosition(position int64) StreamOption {
	return after("position", position, NoStream)
}

// FromGlobalPosition begins with the message at the global position, or the first
// one of the category behind it. The default is the beginning; there is no
// message at 0.
func FromGlobalPosition(position int64) CategoryOption {
	return from("global position", position)
}

// AfterGlobalPosition begins with the first message of the category behind the
// global position; 0 is the beginning.
func AfterGlobalPosition(position int64) CategoryOption {
	return after("global position", position, 0)
}

func from(what string, position int64) readOption {
	return func(c *readConfig) {
		if position < 0 {
			c.faults.add(what, strconv.FormatInt(position, 10), "at least 0")
		}
		c.position, c.fromEnd = position, false
	}
}

func after(what string, position, least int64) readOption {
	return func(c *readConfig) {
		if position < least || position == math.MaxInt64 {
			c.faults.add(what, strconv.FormatInt(position, 10), strconv.FormatInt(least, 10)+" or more, and below the largest int64")
			return
		}
		c.position, c.fromEnd = position+1, false
	}
}

// WithBatchSize sets how many messages are read at once; the lazy reads go on
// with the next ones. It is at least 1; the default is [DefaultBatchSize].
func WithBatchSize(messages int) PageOption {
	return readOption(func(c *readConfig) {
		if messages < 1 {
			c.faults.add("batch size", strconv.Itoa(messages), "at least 1")
		}
		c.batchSize = int64(messages)
	})
}

// Unlimited makes GetStreamMessages and GetCategoryMessages read all there is at
// once, however much that is. The server gathers all of it before it sends the
// first message; StreamMessages and CategoryMessages need no such room, and refuse
// this option.
func Unlimited() ReadOption {
	return readOption(func(c *readConfig) { c.batchSize = unlimited })
}

const unlimited = -1

// WithCorrelation leaves out the messages whose metadata has no
// correlationStreamName of the category.
func WithCorrelation(category Category) CategoryOption {
	return readOption(func(c *readConfig) {
		c.faults.category("correlation", category)
		c.correlation = (*string)(&category)
	})
}

// AsConsumerGroup leaves out the streams that belong to other members of a
// consumer group of the given size. Members are numbered from 0. A stream belongs
// to the member that the hash of its cardinal id gives, see [Hash64]. Messages in
// the stream that is named like the category have no id: no member receives them.
func AsConsumerGroup(member, size int) CategoryOption {
	return readOption(func(c *readConfig) {
		if size < 1 || size > maxGroupSize {
			c.faults.add("consumer group size", strconv.Itoa(size), "1 to "+strconv.Itoa(maxGroupSize))
		}
		if member < 0 || member >= size {
			c.faults.add("consumer group member", strconv.Itoa(member), "at least 0 and less than the size")
		}
		m, s := int64(member), int64(size)
		c.member, c.size = &m, &s
	})
}

// WithCondition leaves out the messages that do not meet a condition on the
// columns of the table messages, in SQL. It becomes part of the server's query as
// it is, with the rights of the role that reads, and works only on a [Store] made
// with [WithConditions].
func WithCondition(condition SQL) PageOption {
	return readOption(func(c *readConfig) {
		c.faults.text("condition", string(condition), "SQL")
		c.condition = (*string)(&condition)
	})
}

// A LastMessageOption is something that GetLastStreamMessage can be told.
type LastMessageOption interface{ lastMessage(*lastConfig) }

type lastConfig struct {
	typ    *string
	faults faults
}

type lastOption func(*lastConfig)

func (o lastOption) lastMessage(c *lastConfig) { o(c) }

// OfType asks for the last message of a type. It needs Message DB 1.3.0.
func OfType(typ string) LastMessageOption {
	return lastOption(func(c *lastConfig) {
		c.faults.messageType("type", typ)
		c.typ = &typ
	})
}
