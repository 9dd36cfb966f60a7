// Package mdb is a client for Message DB, a store of events and messages that consists of
// a table and functions in PostgreSQL. It is built on pgx.
//
// Methods are named after Message DB's procedures and behave as its documentation
// says. Each call is one round trip to the server unless its documentation says
// otherwise. Options extend a call. Most options that do not fit a method do not
// compile; the others are rejected before anything is sent.
//
// # Connecting
//
// [Connect] opens a pool and returns a [Store] on it. If you open the
// pool yourself, prepare its configuration with [Configure], and pass the pool to [New].
// [Store.Check] reports whether the database, the role and the connection are set up
// correctly. [github.com/messagedb-go/messagedb/mdb/schema.Install] installs Message DB.
//
// # Names
//
// A [StreamName] such as "account-123" is a category, a dash and an ID. The [Category]
// "account" is all streams whose names start with "account-". A message has a position in
// its stream, starting at 0, and a global position in the store, starting at 1. The
// version of a stream is the position of its last message.
//
// # Writing
//
// A write appends messages, each with an ID, to one stream. With [ExpectVersion] or
// [ExpectNoStream] it fails with a [*WrongVersionError] if another writer was faster:
// read the stream again and decide again. WriteMessages is atomic: it writes all of its
// messages or none. [Store.WriteEach] does many independent writes in one round trip.
//
// A category is locked from before a message gets its position until its transaction is
// durable, so its writes commit one after another. [WithGroupCommit] lets writes of a Store that
// wait for each other commit together, with the results and errors that they would have one
// after another, in the order of their arrival.
//
// # Reading
//
// Streams are read by position and categories by global position: one page with
// GetStreamMessages and GetCategoryMessages, or page after page with StreamMessages and
// CategoryMessages. "From" a position includes its message, "after" does not.
// [AsConsumerGroup] divides the streams of a category among readers, and
// [WithCorrelation] selects messages by the origin in their metadata. A message that cannot
// be read does not keep others from being read: an [*UnreadableError] names it. GetMessage
// returns the message with an ID, and GetLastStreamMessage and GetLastCategoryMessage the last one.
// With [Backwards], a read begins with the latest message. With [Since], it reads what was written
// at a time or later.
//
// [Store.GetAllMessages] and [Store.AllMessages] read all categories, in one order and without
// passing over a message that becomes visible late. [InCategories] and [OfTypes] select some of
// them, and [Store.Head] is the end of the store.
//
// # Causes
//
// [Metadata] has the keys that Eventide's clients use to record which message has caused another
// one, and in which stream a flow of messages has begun. [Metadata.Follow] sets them in a handler,
// and [DerivedID] gives the message that it writes an ID, so that it is written once.
//
// # Subscribing
//
// [Store.SubscribeToStream], [Store.SubscribeToCategory] and [Store.SubscribeToAll] call a handler
// for each existing message, and then for new ones as they are written. They block until the
// subscription ends, and the error, never nil, says why. Transient errors of reads, such as a
// lost connection, are retried. An error of a callback ends the subscription.
//
// A subscription does not store how far it is. Package
// [github.com/messagedb-go/messagedb/mdb/consumer] does that, and also shares the messages among
// processes, and sets messages aside that fail. Use a subscription if you store the position
// yourself, or need none.
//
// [OnProgress] receives a checkpoint to store, from which a later call resumes with
// [AfterCheckpoint]. For a stream these are [OnStreamProgress] and [AfterStreamCheckpoint], and for
// all categories [OnAllProgress] and [AfterAllCheckpoint]. A
// handler that stores the checkpoint in the transaction of its effects makes it with
// [CategoryCheckpoint.After]. Its subscription must have one worker, see below.
// [OnLive] reports whether the subscription has caught up. When it has, it polls, as a strategy
// of [github.com/messagedb-go/messagedb/mdb/poll] says, see [WithPolling], or waits for
// notifications, see [WithNotify].
//
// # Failover
//
// A store can lose its last messages: in a failover to a standby that had not received them,
// or in a restore to an earlier moment. New messages then get the positions of the lost ones.
// A subscription notices the loss with its next read, goes back to the newest message that it
// knows and that is still there, and delivers what comes after it. [OnFork] receives the
// messages that it has handled and that are no longer there, and [Store.Stats] counts them.
// A subscription that starts from a checkpoint also notices a loss before its start; one that
// starts from a position does not.
//
// If the server cannot be reached, writes are retried for a minute, which is longer than most
// failovers take, see [RetryPolicy]. After that, [ErrUnavailable] says that nothing was written.
// docs/failover.md in the repository says how to set up a service for a failover.
//
// # A standby for reads
//
// [ConnectReplica] and [WithReplica] make reads and subscriptions use a hot standby. It lags:
// [Store.AwaitWrite] waits until it has a message, and [FromPrimary] reads from the primary.
// [Store.ReplicaLag] measures the lag. docs/scaling.md says which calls use which server.
//
// # Notifications instead of polling
//
// Use [WithNotify], with the trigger of
// [github.com/messagedb-go/messagedb/mdb/schema.InstallNotify], if messages should be
// handled within a few milliseconds, or if many mostly idle subscriptions would add up
// to a lot of polling. Do not use it if the delay of polling is short enough, with a
// pooler in transaction mode (unless [ListenOn] bypasses it), on a standby, which cannot
// LISTEN, or with two-phase commit, which PostgreSQL does not allow with NOTIFY. Disable
// the trigger during bulk imports. [Store.NotifyStats] returns its state for metrics, and
// the logger of [WithLogger] receives its failures.
//
// # Several workers
//
// A subscription calls its handler for one message at a time. If the handler is slower
// than messages arrive, start with [WithWorkers]: n workers of this process call the
// handler, the messages of each cardinal ID (see [StreamName.CardinalID]) stay in order,
// the server still sends each message once, and there is one checkpoint to store, that of
// [OnProgress]. It helps handlers that wait, for a database or another service, as well as
// those that compute.
//
// Do not store a position or checkpoint in the handler if there are several workers. They handle
// later messages before an earlier one is finished, so after a crash the stored position would
// skip messages that were still in a handler. OnProgress waits for all of them.
//
// If one process is not enough, or must not be the only one, use package consumer, whose
// processes share the messages without any configuration, or [AsConsumerGroup]. Each member of
// a group is a subscription with its own checkpoint, which is only valid for that size of the
// group: if the size changes, streams move to members that are at other positions, and messages
// are repeated or skipped. For each member the server examines every message of the category,
// so n members cost it n times as much. A member may have workers too.
//
// # Transactions
//
// [Store.WithTx] writes and reads in your transaction, in which you can also change your
// own tables. It takes a pgx.Tx, or a connection that is in a transaction, also in one of
// database/sql, see [Transaction].
// [Store.Atomically] begins a new transaction, which may write to several categories, and
// with [Tx.Tx] change your own tables. A write locks its category until the transaction
// ends, so keep transactions short, and if one writes to several categories, lock all of
// them in one call, with Atomically or [Tx.LockCategories].
//
// A write that fails aborts the transaction, even if it fails with a [*WrongVersionError] or
// a [*DuplicateIDError]. With [InSavepoint] it leaves the transaction usable, and [Idempotent]
// is allowed.
//
// # Memory
//
// The messages of a page share memory: the bytes of its rows are copied once into a few
// large chunks, and strings and JSON are views of these. You may keep messages. Keeping
// one keeps its whole chunk, up to 1 MiB; [Message.Clone] copies it out. [WithBatchBytes] limits
// the size of a page.
//
// After the first few calls, reading a page of up to 1 MiB costs 6 allocations regardless
// of the number of its rows, or 4 if it is empty. WriteMessage with JSON that is already
// encoded costs at most 7 for a message of up to 1 KB, and two more, of about the message's
// size in total, for a larger one. A context that can end adds 4. This holds for a [Store]
// in pgx's default query mode, without options.
//
// # Errors
//
// Invalid arguments are rejected before anything is sent, with an [*ArgumentError] that
// lists every problem. After a [*WrongVersionError] or a [*DuplicateIDError] nothing was
// written. After an [*UnknownOutcomeError] the write may or may not have happened; repeat
// the call with [Idempotent] to find out. After [ErrUnavailable] nothing was written, because
// the server could not be reached, and after a [*MovedError] nothing either, because the category was
// moved to another shard. A [*SetupError] says what to do. [IsTransient] reports
// whether a retry may help.
//
// The server's error, a [*pgconn.PgError], can be unwrapped from them. Errors and logs never
// contain payloads or passwords. The text of an error that your callback returns is passed on
// unchanged.
//
// # Hooks
//
// [WithHooks] makes a store call hooks, such as those of a tracer, a meter or an audit log: values
// that implement [HookWriteCall], [HookWrite], [HookMetadata] or [HookGroup] for writes, [HookRead] for
// reads, [HookHandle] for handlers, [HookLive], [HookRetry], [HookPartitions] or [HookFailure] for the
// state of subscriptions and consumers, and [HookListening] for notifications.
//
// # Tracing
//
// The tracer of the pool's connections, such as one of pgx's tracelog or of OpenTelemetry,
// receives the text and the arguments of each statement, in every exec mode. Data and
// metadata are arguments of a type that shows only its size. All other arguments, such as
// the names of streams and the SQL of conditions, are shown. Errors that a tracer receives
// are pgx's, with everything that the server has said, which may quote a row. The connections
// that a Store opens itself, to listen for notifications and to ask about a statement without an
// answer, have no tracer.
//
// # Concurrency
//
// A [Store] is safe for concurrent use, a [Tx] is not. Use [WithGroupCommit] if several goroutines
// write to one category.
//
// # PgBouncer
//
// Pass [BehindPooler] to [Configure] or [Connect], because PgBouncer rejects start-up
// parameters that it does not track, and set the other parameters on the role. BehindPooler makes
// pgx.QueryExecModeExec the default mode. PgBouncer 1.21 or later with prepared statements
// enabled supports pgx.QueryExecModeCacheStatement, too. With [WithNotify], [ListenOn] must
// bypass PgBouncer.
//
// # Testing
//
// [github.com/messagedb-go/messagedb/mdb/mdbtest] gives a test a store of its own.
//
// # Options
//
// These tables list each option and what accepts it. A list of [StreamOptions],
// [CategoryOptions] or [AllOptions] is an option itself. The methods of a [Tx] accept the same
// options as those of a [Store], but Idempotent only together with InSavepoint, which only a
// Tx accepts.
//
//	option               Connect, New
//	WithDirectSQL        x
//	WithGroupCommit      x
//	WithConditions       x
//	WithMaxMessageSize   x
//	WithRetry            x
//	WithLogger           x
//	WithPolling          x, and subscriptions
//	WithNotify           x
//	WithHooks            x
//	WithReplica          x
//
//	option               Connect
//	ConnectReplica       x
//
//	option               Configure, Connect
//	StoreFirst           x
//	BehindPooler         x
//
//	option               WithNotify
//	Fallback             x
//	MaxNotifications     x
//	ListenOn             x
//
//	option               Check
//	ReadOnly             x
//
//	option               WriteMessage, WriteMessages   Write of WriteEach
//	ExpectVersion        x                             x
//	ExpectNoStream       x                             x
//	ExpectStream         x                             x
//	Idempotent           x                             x
//	InSavepoint          x, of a Tx
//
//	option               GetLastStreamMessage, GetLastCategoryMessage
//	OfType               x
//	FromPrimary          x
//
//	option               GetStreamMessages  StreamMessages  SubscribeToStream
//	FromPosition         x                  x               x
//	AfterPosition        x                  x               x
//	WithBatchSize        x                  x               x
//	WithBatchBytes       x                  x               x
//	Backwards            x                  x
//	Since                x                  x
//	TimeMargin           x                  x
//	FromPrimary          x                  x               x
//	Unlimited            x
//	WithCondition        x                  x               x
//	RequireStream        x                  x               x
//	FromEnd                                                 x
//	AfterStreamCheckpoint                                   x
//	OnStreamProgress                                        x
//	OnFork                                                  x
//	OnUnreadable                                            x
//	OnLive                                                  x
//	OnRetry                                                 x
//	WithPolling                                             x
//
//	option               GetCategoryMessages  CategoryMessages  SubscribeToCategory
//	FromGlobalPosition   x                    x                 x
//	AfterGlobalPosition  x                    x                 x
//	WithBatchSize        x                    x                 x
//	WithBatchBytes       x                    x                 x
//	Backwards            x                    x
//	Since                x                    x
//	TimeMargin           x                    x
//	FromPrimary          x                    x                 x
//	Unlimited            x
//	WithCorrelation      x                    x                 x
//	AsConsumerGroup      x                    x                 x
//	WithCondition        x                    x                 x
//	FromEnd                                                     x
//	AfterCheckpoint                                             x
//	OnProgress                                                  x
//	OnFork                                                      x
//	OnUnreadable                                                x
//	OnLive                                                      x
//	OnRetry                                                     x
//	WithPolling                                                 x
//	WithWorkers                                                 x
//
//	option               GetAllMessages  AllMessages  SubscribeToAll, SubscribeToCategories
//	FromGlobalPosition   x               x            x
//	AfterGlobalPosition  x               x            x
//	WithBatchSize        x               x            x
//	WithBatchBytes       x               x            x
//	Backwards            x               x
//	Since                x               x
//	TimeMargin           x               x
//	InCategories         x               x            x
//	OfTypes              x               x            x
//	FromEnd                                           x
//	AfterAllCheckpoint                                x
//	OnAllProgress                                     x
//	OnFork                                            x
//	OnUnreadable                                      x
//	OnLive                                            x
//	OnRetry                                           x
//	WithPolling                                       x
//	WithWorkers                                       x
package mdb
