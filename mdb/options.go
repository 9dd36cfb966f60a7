package mdb

import (
	"log/slog"
	"math"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb/poll"
)

// Defaults of options.
const (
	// DefaultBatchSize is the number of messages in a page, see [WithBatchSize].
	DefaultBatchSize = 1000
	// DefaultBatchBytes limits the size of a page of a subscription or a sequence, in bytes,
	// see [WithBatchBytes].
	DefaultBatchBytes = 32 << 20
	// DefaultMaxMessageSize is the size of the largest message that can be written, in
	// bytes of JSON, see [WithMaxMessageSize].
	DefaultMaxMessageSize = 16 << 20

	maxGroupSize = math.MaxInt16 // the server computes with a smallint
)

// A StoreOption configures a [Store].
type StoreOption interface {
	ConnectOption
	store(*storeConfig)
}

type storeConfig struct {
	direct     bool
	conditions bool
	group      bool
	maxSize    int
	retry      RetryPolicy
	logger     *slog.Logger
	execMode   pgx.QueryExecMode // the pool's
	polling    poll.Strategy
	notify     notifyConfig
	hooks      hooks
	replica    *pgxpool.Pool // nil: none
	faults     argumentFaults
}

type storeOption func(*storeConfig)

func (o storeOption) store(c *storeConfig) { o(c) }

// WithDirectSQL makes the store use SQL on the table messages, instead of Message DB's
// procedures, to read and to write batches. Results and errors are the same. It is
// faster, above all for small reads, consumer groups and batches. It requires the
// privileges on the table that Message DB grants to the role message_store. Writes of one
// message and reads with a condition still use the procedures.
func WithDirectSQL() StoreOption {
	return storeOption(func(c *storeConfig) { c.direct = true })
}

// WithGroupCommit makes the store send writes together that would otherwise wait for each
// other. Message DB locks a category from before a message gets its position until its
// transaction is durable, so without this option a category has one write per commit, however
// many writers there are. With it, WriteMessage and WriteMessages of the same Store to the
// same category that arrive while another one is under way wait for it, and then become one
// transaction: one lock, one commit, one round trip. A write that finds no other one is sent
// immediately, as without this option, and nothing waits for others to arrive. The writes of
// a [Tx] are not sent together with others, and of those of [Store.WriteEach] only the ones to different streams are.
//
// Use it if several goroutines of a process write to one category at the same time. It
// changes nothing for a category with one writer.
//
// Results and errors are as if the writes had been made one after another, in the order in
// which they arrived: each has its own position and its own error, and an expected version
// takes the writes before it into account. A write that fails does not fail another one, and
// the end of a context ends the call of that context alone: with its error if the write was
// not sent, and otherwise immediately with an [*UnknownOutcomeError], while the other writes go on.
// After a lost connection the outcome of each write is found out as WriteMessage says.
//
// These differences remain. Messages that are written together have the same time, that of
// their transaction. A write that waits also waits for a slow one before it, for example one
// with a large message. The statement of a group does not have the values of any call's context, such as
// the span of a tracer; a [HookGroup] can give it values. If a write fails with a [*WrongVersionError] or [*DuplicateIDError] in a
// group, the [*pgconn.PgError] in it is made by the store, with the code, the message and the names of the
// server's.
//
// If the server refuses a write for another reason, for example because of a trigger, the
// others of its group need a second transaction. If it refuses writes to the same stream
// repeatedly, they are not sent together with others for a while.
func WithGroupCommit() StoreOption {
	return storeOption(func(c *storeConfig) { c.group = true })
}

// WithConditions allows [WithCondition], which the store rejects otherwise.
func WithConditions() StoreOption {
	return storeOption(func(c *storeConfig) { c.conditions = true })
}

// WithMaxMessageSize sets the size of the largest message that can be written: the bytes
// of its data and metadata together, as JSON, when it is written or when it is read,
// whichever is more. PostgreSQL prints numbers without exponents, so that 1e1000 takes
// 1,001 bytes when it is read, and one space after each comma and colon. It must be at
// least 1. The default is [DefaultMaxMessageSize]. The message's type and the name of its
// stream have limits of their own, see WriteMessage.
func WithMaxMessageSize(bytes int) StoreOption {
	return storeOption(func(c *storeConfig) {
		if bytes < 1 {
			c.faults.add("maximum message size", strconv.Itoa(bytes), "at least 1 byte")
		}
		c.maxSize = bytes
	})
}

// WithRetry sets the retry policy of writes and of [Store.Atomically]. The default, the zero
// value, retries them for [DefaultRetryFor] if the server cannot be reached or is read-only,
// and makes at most [DefaultRetryAttempts] attempts if another transaction is in the way. Reads
// are not retried, except by subscriptions, which retry without end.
func WithRetry(policy RetryPolicy) StoreOption {
	return storeOption(func(c *storeConfig) {
		policy.check(&c.faults)
		c.retry = policy
	})
}

// WithLogger sets the logger for what the store recovers from on its own, such as
// retries. By default it logs nothing. Logs never contain payloads.
func WithLogger(l *slog.Logger) StoreOption {
	return storeOption(func(c *storeConfig) {
		if l == nil {
			c.faults.add("logger", "nil", "a *slog.Logger")
		}
		c.logger = l
	})
}

// A WriteOption configures a write.
type WriteOption interface{ write(*writeConfig) }

type writeConfig struct {
	expected    *int64
	idempotent  bool
	inSavepoint bool
	faults      argumentFaults
}

type writeOption func(*writeConfig)

func (o writeOption) write(c *writeConfig) { o(c) }

// ExpectVersion makes the write fail with a [*WrongVersionError] unless the last message
// of the stream is at the given position: 0 if the stream has one message, [NoStream] if
// it has none.
func ExpectVersion(position int64) WriteOption {
	return writeOption(func(c *writeConfig) {
		if position < NoStream {
			c.faults.add("expected version", strconv.FormatInt(position, 10), "a position, or -1 for no stream")
		}
		c.expected = &position
	})
}

// ExpectNoStream makes the write fail with a [*WrongVersionError] if the stream has
// messages.
func ExpectNoStream() WriteOption {
	return ExpectVersion(NoStream)
}

// ExpectStream makes the write fail with a [*WrongVersionError] if the stream has no
// messages. It may be at any version. Use it for messages that make sense only in a stream
// which another message has begun. It locks the category before it looks, as every write
// does, and takes no further round trip.
func ExpectStream() WriteOption {
	return writeOption(func(c *writeConfig) {
		version := anyVersion
		c.expected = &version
	})
}

// Idempotent makes it a success to write the same messages, with the same IDs, again;
// the results then have [Written.Duplicate] set. Messages are the same if all of them
// are in the store, consecutive, in the same stream and order, and with equal types and
// data. Metadata is not compared, because it often describes the attempt, as trace IDs do.
// Pass the expected version of the first write: it must match too. If the messages in the
// store are not the same, the error is a [*DuplicateIDError] that says what differs.
//
// With synchronous standbys, the call waits until they have the messages, even if another
// call has written them and did not wait. A [Tx] rejects this option without [InSavepoint],
// because a duplicate ID aborts a transaction.
func Idempotent() WriteOption {
	return writeOption(func(c *writeConfig) { c.idempotent = true })
}

// InSavepoint makes a write on a [Tx] leave the transaction usable if it fails. Without it,
// a [*WrongVersionError] or a [*DuplicateIDError] aborts the transaction. The write is sent
// in one round trip, with a savepoint before it. If it fails, the call rolls back to the
// savepoint, in one more round trip. With InSavepoint, a Tx accepts [Idempotent]: after a
// conflict it looks for the messages in the same transaction, in a third round trip.
//
// The rollback undoes only this write. It also releases the lock of the category, unless an
// earlier write or [Tx.LockCategories] in the transaction has taken it: other writers may
// then write to the category before the transaction's next write. After a lost connection,
// or if the rollback fails too, the transaction is lost as without this option.
//
// A [Store] rejects this option, because each of its writes is a transaction of its own.
func InSavepoint() WriteOption {
	return writeOption(func(c *writeConfig) { c.inSavepoint = true })
}

// A StreamOption configures a read of a stream or a subscription to it.
type StreamOption interface {
	streamRead(*readConfig)
	StreamSubscribeOption
}

// A CategoryOption configures a read of a category or a subscription to it.
type CategoryOption interface {
	categoryRead(*readConfig)
	CategorySubscribeOption
}

// A ReadOption configures a read or a subscription, of a stream, a category or all categories.
type ReadOption interface {
	StreamOption
	CategoryOption
	AllOption
}

// StreamOptions are several options in one, to pass a list of them on to reads and to
// subscriptions.
type StreamOptions []StreamOption

func (o StreamOptions) streamRead(c *readConfig) {
	for _, opt := range o {
		opt.streamRead(c)
	}
}

func (o StreamOptions) streamSubscribe(c *subscribeConfig) {
	for _, opt := range o {
		opt.streamSubscribe(c)
	}
}

// CategoryOptions are several options in one, to pass a list of them on to reads and to
// subscriptions.
type CategoryOptions []CategoryOption

func (o CategoryOptions) categoryRead(c *readConfig) {
	for _, opt := range o {
		opt.categoryRead(c)
	}
}

func (o CategoryOptions) categorySubscribe(c *subscribeConfig) {
	for _, opt := range o {
		opt.categorySubscribe(c)
	}
}

// SQL is a fragment of SQL that becomes part of a query unchanged. A string variable
// must be converted to it, which makes the risk visible: never convert untrusted input.
type SQL string

type readConfig struct {
	position    int64
	positioned  bool // an option has set the position
	after       bool // which is that after the one that was given
	backwards   bool // see Backwards
	since       *time.Time
	margin      *time.Duration // see TimeMargin
	fromEnd     bool           // of subscriptions, instead of position
	required    bool           // the stream must exist
	batchSize   int64          // -1: no limit
	batchBytes  int64          // 0: no limit
	correlation *string
	member      *int64
	size        *int64
	condition   *string
	primary     bool                                     // see FromPrimary
	wanted      func() (partitions int64, wanted string) // see source.Hooks; nil: all
	categories  []string                                 // see InCategories; nil: all
	types       []string                                 // see OfTypes; nil: all
	faults      argumentFaults
}

func (c *readConfig) check(store *storeConfig) {
	c.checkSince()
	if c.condition != nil && !store.conditions {
		c.faults.add("condition", "one", "none, or a Store created with WithConditions")
	}
}

type readOption func(*readConfig)

func (o readOption) streamRead(c *readConfig)   { o(c) }
func (o readOption) categoryRead(c *readConfig) { o(c) }

// FromPosition starts with the message at the position, or the first one after it. The
// default is 0, the first message. A subscription fails with an [*AheadError] if the stream ends
// before the position before it.
func FromPosition(position int64) StreamOption {
	return from("position", position)
}

// AfterPosition starts with the first message after the position. Pass the position of
// the last message that you have handled, or [NoStream] to start at the beginning. A subscription
// fails with an [*AheadError] if the stream ends before the position.
func AfterPosition(position int64) StreamOption {
	return after("position", position, NoStream)
}

// FromGlobalPosition starts with the message at the global position, or the first one after it.
// The default is the first message. A subscription fails with an [*AheadError] if the store has
// not used the position before it yet.
func FromGlobalPosition(position int64) GlobalOption {
	return from("global position", position)
}

// AfterGlobalPosition starts with the first message after the global position. Pass the global
// position of the last message that you have handled, or 0 to start at the beginning. A
// subscription fails with an [*AheadError] if the store has not used the position yet.
func AfterGlobalPosition(position int64) GlobalOption {
	return after("global position", position, 0)
}

func from(what string, position int64) readOption {
	return func(c *readConfig) {
		if position < 0 {
			c.faults.add(what, strconv.FormatInt(position, 10), "at least 0")
		}
		c.position, c.positioned, c.after = position, true, false
	}
}

func after(what string, position, least int64) readOption {
	return func(c *readConfig) {
		if position < least || position == math.MaxInt64 {
			c.faults.add(what, strconv.FormatInt(position, 10), "at least "+strconv.FormatInt(least, 10)+" and less than the largest int64")
			return
		}
		c.position, c.positioned, c.after = position+1, true, true
	}
}

// WithBatchSize sets the number of messages in a page. It must be at least 1. The default
// is [DefaultBatchSize].
func WithBatchSize(messages int) ReadOption {
	return readOption(func(c *readConfig) {
		if messages < 1 {
			c.faults.add("batch size", strconv.Itoa(messages), "at least 1")
			return
		}
		c.batchSize = int64(messages)
	})
}

// WithBatchBytes sets the size of a page in bytes, as the server sends its messages: a page ends
// before the message with which it would be larger. It has at least one message, however large
// that is. The limit must be at least 1. For subscriptions, StreamMessages, CategoryMessages and
// AllMessages the default is [DefaultBatchBytes], and a page that ends early is followed by the next one
// immediately. They learn from the messages that they read how many to ask for; what the server
// sends beyond the limit is dropped, and read again with the next page.
//
// GetStreamMessages, GetCategoryMessages and GetAllMessages have no such limit by default. With one, a page with
// fewer messages than [WithBatchSize] says need not be the last: read on until a page is empty.
func WithBatchBytes(bytes int) ReadOption {
	return readOption(func(c *readConfig) {
		if bytes < 1 {
			c.faults.add("batch bytes", strconv.Itoa(bytes), "at least 1")
			return
		}
		c.batchBytes = int64(bytes)
	})
}

// Unlimited makes GetStreamMessages and GetCategoryMessages return all messages in one
// page. The server collects them all before it sends the first one. Prefer StreamMessages
// and CategoryMessages, which read page after page. These, subscriptions and reads of all
// categories reject this option.
func Unlimited() ReadOption {
	return readOption(func(c *readConfig) { c.batchSize = unlimited })
}

const unlimited = -1

// unlimitedFault is the fault of Unlimited where pages are read one after the other.
func unlimitedFault(what string) Fault {
	return Fault{"batch size", "Unlimited", "WithBatchSize, because the " + what + " reads page after page"}
}

// RequireStream makes a read of a stream without messages fail with [ErrNoStream]. Without
// it, a stream that does not exist looks like one without messages after the position. A
// subscription checks it with its first read, and a sequence with each first page. It
// takes no further round trip.
func RequireStream() StreamOption {
	return readOption(func(c *readConfig) { c.required = true })
}

// WithCorrelation selects the messages whose metadata has a correlationStreamName in the
// given category.
func WithCorrelation(category Category) CategoryOption {
	return readOption(func(c *readConfig) {
		c.faults.category("correlation", category)
		c.correlation = (*string)(&category)
	})
}

// AsConsumerGroup reads as one member, numbered from 0, of a consumer group with size
// members: only the streams whose cardinal ID hashes to the member, see [Hash64]. A
// stream whose name is the category alone has no ID, and no member receives it.
//
// Each member stores its own checkpoint, which is only valid for the same size: with another
// size, a member receives other streams. To change the size, stop all members, and start
// all new ones after the checkpoint with the smallest position, with handlers that can handle
// a message again.
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

// WithCondition selects the messages that meet a condition in SQL on the columns of the
// table messages. The condition becomes part of the query unchanged and runs with the
// privileges of the reading role. It requires a [Store] created with [WithConditions]. Reads of
// all categories reject it.
func WithCondition(condition SQL) ReadOption {
	return readOption(func(c *readConfig) {
		c.faults.text("condition", string(condition), "SQL")
		c.condition = (*string)(&condition)
	})
}

// A LastMessageOption configures GetLastStreamMessage and GetLastCategoryMessage.
type LastMessageOption interface{ lastMessage(*lastConfig) }

type lastConfig struct {
	typ     *string
	primary bool // see FromPrimary
	faults  argumentFaults
}

type lastOption func(*lastConfig)

func (o lastOption) lastMessage(c *lastConfig) { o(c) }

// OfType selects the last message of the given type. GetLastStreamMessage with it requires Message DB
// 1.3.0.
func OfType(typ string) LastMessageOption {
	return lastOption(func(c *lastConfig) {
		c.faults.messageType("type", typ)
		c.typ = &typ
	})
}
