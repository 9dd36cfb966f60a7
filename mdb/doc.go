// Package mdb is a client for Message DB, the event and message store inside
// PostgreSQL, on pgx.
//
// The methods have the names of Message DB's procedures, and do what its guide
// says of these. Each is one round trip to the server. The simplest form is the
// default; options add to it, and an option that does not fit a method does not
// compile.
//
// # Connecting
//
// [Connect] opens a pool and returns a [Store] on it. A program that has a
// *pgxpool.Pool already gives it to [New], and prepares its configuration with
// [Configure] before. [Store.Check] tells whether the database, the role and the
// connection are as they have to be; package schema installs Message DB where it
// is missing.
//
// # Names
//
// A [StreamName] such as "account-123" is a category, a dash and an id; the
// [Category] "account" stands for all its streams. A message has a position in
// its stream, from 0, and a global position in the store, from 1.
//
// # Writing
//
// A write appends messages, each with its ID, to one stream. [ExpectVersion] and
// [ExpectNoStream] make it conditional on what the stream holds, which is how two
// writers that decide on the same state are kept from both succeeding: one gets a
// [*WrongVersionError], reads again and decides again. A write of several messages
// is atomic. [Store.WriteEach] does many writes that have nothing to do with each
// other in one round trip.
//
// # Reading
//
// Streams are read by position, categories by global position, a page or, by
// [Store.StreamMessages] and [Store.CategoryMessages], all of it page after page.
// Positions given with "from" are included, those given with "after" are not.
// [AsConsumerGroup] divides a category's streams among readers,
// [WithCorrelation] selects by the origin that the metadata names.
//
// # Subscribing
//
// [Store.SubscribeToStream] and [Store.SubscribeToCategory] call a handler for each
// message that is there and that comes later. They block; their return is the signal
// that the subscription was dropped, and says why. What passes, such as a lost
// connection, is tried again. [OnProgress] says when to keep the position, [OnLive]
// whether the subscription has caught up. Package poll has the strategies by which
// one that has caught up looks again; [WithNotify] wakes it instead.
//
// # Waking instead of polling
//
// Take [WithNotify], with the trigger of schema.InstallNotify, where a message should
// be handled within about a millisecond, or where many subscriptions are idle most of
// the time, whose polls would add up. Leave it out where the strategy's delay is short
// enough; behind a pooler in transaction mode, unless [ListenOn] leads past it; on
// standbys, which cannot listen; and with two-phase commit, which PostgreSQL refuses to
// a transaction that notifies. Bulk imports should disable the trigger.
// [Store.NotifyStats] shows its state, for metrics: whether the store hears, and how
// many categories wait for rings (armed), are polled often for a while (cooling), or
// are polled as without it (off). The logger of [WithLogger] is told what goes wrong.
//
// # Several workers
//
// A subscription calls its handler for one message at a time. Where the handler is
// slower than messages arrive, [WithWorkers] has n workers of the process call it, and
// keeps the order of each cardinal id. The server reads and sends each message once,
// and there is one position to keep, so it is the first thing to take. It suits
// handlers that wait, for a database or another service, as well as those that
// compute.
//
// [AsConsumerGroup] divides the streams among processes instead. Each member is a
// subscription of its own, with a position of its own, and for each of them the server
// looks at every message of the category, to leave out those of the others: n members
// cost it n times as much. Take it where one process is not enough, or may not be the
// only one. A member may be partitioned in turn.
//
// # Transactions
//
// [Store.WithTx] joins a transaction of the caller's, beside the service's own
// tables. [Store.Atomically] runs a transaction of its own over several
// categories. A write locks its category until the transaction ends, so
// transactions should be short, and lock their categories in one go.
//
// # Memory
//
// The messages of a page share memory: the bytes of its rows are copied once, into
// few large chunks, and strings and JSON are views of these. They may be kept.
// Keeping one message keeps its chunk; [Message.Clone] frees it.
//
// Once warm, reading a page of up to 1 MiB costs 6 allocations regardless of its rows,
// 4 if it is empty. WriteMessage of JSON that is encoded already costs at most 7, up to
// 1 KB; a larger message costs two more, of about its own size together. A context that
// can end adds 4. This holds for a [Store] in pgx's default mode, without options.
//
// # Errors
//
// What a call has wrong is refused before anything is sent, by an
// [*ArgumentError] with all faults at once. A [*WrongVersionError] and a
// [*DuplicateIDError] mean that nothing was written. An [*UnknownOutcomeError]
// means that nobody knows; the same call with [Idempotent] settles it. A
// [*SetupError] comes with its remedy. They unwrap to the server's
// [*pgconn.PgError]. Neither errors nor logs hold anything of a message's payload,
// or a password.
//
// # Concurrency
//
// A [Store] may be used by many goroutines at once; a [Tx] by one.
//
// # PgBouncer
//
// In transaction mode it needs version 1.21 with prepared statements on, or a pool
// whose DefaultQueryExecMode is pgx.QueryExecModeExec or QueryExecModeCacheDescribe.
// It refuses the start-up parameters that [Configure] sets: leave it out, and set
// search_path and message_store.sql_condition on the role. With [WithNotify],
// [ListenOn] has to lead past it.
package mdb
