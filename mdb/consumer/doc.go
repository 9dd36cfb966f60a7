// Package consumer runs a handler for each message of a category. It stores its progress in the
// database, and shares the messages among all processes that run the same consumer. If a process
// stops or crashes, others continue where it was.
//
// Use it where a service reacts to messages: to send emails, to keep tables up to date, to run
// processes that span several streams. Use a subscription of package mdb if you store the position
// yourself, for example beside a read model that is not in PostgreSQL, or if each process is to
// receive each message.
//
// # The smallest consumer
//
// The schema message_store_consumers contains the state of all consumers. Install it once, with the
// command mdb install -consumers, or with
// [github.com/messagedb-go/messagedb/mdb/schema.InstallConsumers]. Then give the consumer a name, a
// category and a handler, and call [Consumer.Run], as the example does.
//
// A new consumer begins with the first message of its category, or where [FromEnd] or
// [FromPosition] says. Later it continues where it was, in any process. The name identifies it:
// a consumer with another name begins at the beginning, and two consumers with different names
// both receive all messages.
//
// # At least once, or exactly once
//
// The function that makes the [Handler] decides what happens if a process crashes:
//
//   - [Each] and [Batch] call the handler at least once. After a crash, and after the connection
//     that stores progress was lost, messages of about the last second are handled again, and so
//     are those that a handler had. A message costs no statement. Choose them for effects outside of
//     the database, such as emails, and make the handler idempotent if you can: [Delivery.ID] is the
//     same each time.
//   - [EachTx] and [BatchTx] pass a transaction to the handler. Choose them for handlers that read
//     before they write, such as process managers. What it writes there, to tables or
//     with [mdb.Store.WithTx] to streams, happens exactly once, because the same transaction stores
//     that the message is handled. Two round trips are added for each transaction, and one
//     transaction handles many messages if many are waiting.
//   - [EachQueued] lets the handler only queue statements. It has the same guarantee, and sends the
//     statements of many messages in one round trip. Choose it for projections to tables. Its
//     handlers have no context, and so no [Delivery].
//
// Exactly once holds for what is written through the transaction, and for nothing else. A handler
// may still be called several times for a message, and all transactions but one are rolled back.
// What it keeps in memory is not rolled back.
//
// # Order
//
// Messages with the same cardinal ID (see [mdb.StreamName.CardinalID]), and so those of one stream,
// are handled in their order, one after the other, even if another process takes over. One
// exception: if a process loses its lease, a handler that continues although its context has ended
// may run at the same time as the handler of the process that has taken over. [Delivery.Epoch] lets
// other systems reject its effects. Between different cardinal IDs there is no order, unless the
// consumer is made with [InOrder].
//
// [WithWorkers] sets how many calls of the handler run in parallel in a process. With Each, one
// call at a time handles messages of a cardinal ID; with the other forms, those of a partition.
// A call of Batch or BatchTx has messages of one partition only.
// No connection is in use while a handler of Each or Batch runs. Each worker of the other forms
// uses one of the pool.
//
// # Sharing
//
// The cardinal IDs are divided into partitions, 64 unless [WithPartitions] says otherwise, and each
// partition belongs to one process at a time. Every process computes its share from the same rows,
// so there is no leader. A process that joins gets partitions from those that have more than their
// share. They first wait for the handlers that are running, so nothing is repeated, and all other
// partitions continue meanwhile.
//
// Each process has a lease, of ten seconds unless [WithLease] says otherwise. It renews the lease
// with a heartbeat at least every two seconds, on a connection beside the pool. If the lease ends,
// others take over. A process that cannot renew its lease ends the contexts of its handlers a fifth
// of the lease before the end, with the cause [ErrLeaseLost], and joins again later.
//
// With [mdb.WithNotify], a process also notices immediately that another one has joined or left.
//
// # Failures
//
// If the handler returns an error or panics, the message is retried, after waits that grow from
// a tenth of a second to one or two seconds. Meanwhile messages with the same cardinal ID wait
// with [Each], and those of the same partition with the other forms. After the sixth attempt
// its stream is parked: a row in the database records that the stream is not handled from this
// message on, and the consumer continues with other messages. Messages that follow in a parked
// stream, or have its cardinal ID, wait, so that their order is kept. With [ParkAlone], only the
// message itself is parked. [OnPark] is called in the transaction that parks, for example to write
// an alert.
//
// A parked stream is replayed after a minute, and if that fails, up to five times more, at growing
// intervals, see [Failure.Default]. [Consumer.Replay] replays it immediately. In a replay, the
// handler is called with the message that was parked, and then with those that waited for it, in
// order. When all of them are handled, the stream is no longer parked.
//
// The handler can say more about an error: [Permanent] parks immediately, [Transient] is for
// outages of other services and retries for as long as they last, [RetryAfter] sets the wait,
// [Skip] gives the message up, and [Stop] ends the consumer. [OnFailure] decides in one place.
// With [StopOnError], the first error ends Run, in each process that takes over the partition.
//
// At most [MaxParked] cardinal IDs are parked. Beyond it, failures are retried in place, so that an
// outage does not park everything.
//
// # Failover
//
// If the server fails over to a standby that has not received the last transactions, the messages
// and the state of the consumer may both have gone back. A process notices that its connection or
// the server's timeline has changed, or that messages which it has read are missing. It then ends
// its handlers, forgets what it has in memory, and continues with what the server has. What a
// handler wrote in its transaction has gone back with it, and is written again. Effects elsewhere
// are repeated. [Stats] counts such cases as Rewound and Forks.
//
// [StateIn] keeps the state in another database than the messages. The two fail over apart, and a checkpoint goes back only to where the
// processes know that it must.
//
// # Deploying
//
// End the context of Run when the process is to end, for example with [os/signal.NotifyContext].
// Run then waits for the handlers that are running, for at most [WithDrainTimeout], stores their
// progress, and leaves, so that other processes continue immediately. Give the process more time
// than that: in Kubernetes, the default of 20 seconds suits its default grace period of 30.
//
// In a rolling deployment each process that stops hands over its partitions, and the one that is
// started in its place gets them back, while all others keep theirs. With [WithInstance] and a stable
// name, such as that of a pod of a StatefulSet, a process that is started again within the lease after
// a crash continues with its partitions.
//
// Members of the role message_store may run consumers. They need no other privileges.
//
// [OnLive] reports whether a process has caught up, [OnPartitions] which partitions it has, and
// [OnRetry] that the server cannot be reached.
//
// # Operating
//
// [Admin] returns an [Operator], which shows how far consumers are, what is parked and who runs them. It pauses consumers, moves
// them to another position, skips or replays what is parked, and changes the number of partitions, while processes run them.
// The command mdb consumers does the same in a terminal. [Operator.WaitForStream] waits until a message that was just written is in a read model.
//
// Processes notice a change with their next heartbeat, or immediately with [mdb.WithNotify]. If checkpoints were moved or the number
// of partitions was changed, the contexts of handlers end, and what they return then does not count as a failure. Run ends only if the
// consumer was deleted, with [ErrDeleted], or if one with [InOrder] has several partitions.
//
// # Beside Eventide, or without the schema
//
// [InPositionStream] keeps the position in a stream of Message DB instead of in the schema of consumers, in the format of Eventide's
// consumers. It needs nothing but Message DB, and continues where a consumer of Eventide was. One process at a time runs such
// a consumer, nothing is parked, and operators do not see it. [Operator.ImportPosition] moves it to the schema.
//
// # What not to do
//
//   - Do not store positions in a handler. The consumer does, and a position of your own would be
//     wrong as soon as there are several workers.
//   - Do not give different handlers the same name: they would share the messages.
//   - Do not wait in a handler of [EachTx] or [BatchTx] for another service. The transaction holds
//     locks and a connection.
//   - Do not ignore the handler's context. A handler that continues after it has ended delays the end
//     of the process, and after a lost lease it overlaps with another process.
//   - Do not start goroutines that outlive the call of a handler. The message counts as handled
//     when the handler returns nil.
//   - Do not use [Stop] for an error of one message. The next process stops at the same message.
//   - Do not change a consumer's name in the program alone. The new name is a new consumer, which begins
//     at the beginning. [Operator.Rename] renames the one that exists.
//   - Do not change the rows of the schema by hand while a process runs.
//
// docs/consumers.md in the repository says more about deploying, parked streams and failovers, and
// how fast the forms are, and docs/runbooks.md what to do when a consumer does not work as it should.
// Package [github.com/messagedb-go/messagedb/mdb/consumer/consumertest] tests handlers.
//
// # Options
//
//	option             Each   Batch  EachTx  BatchTx  EachQueued
//	WithWorkers        x      x      x       x        x
//	WithCategories     x      x      x       x        x
//	WithPartitions     x      x      x       x        x
//	InOrder            x      x      x       x        x
//	FromEnd            x      x      x       x        x
//	FromPosition       x      x      x       x        x
//	WithLease          x      x      x       x        x
//	WithInstance       x      x      x       x        x
//	WithDrainTimeout   x      x      x       x        x
//	OnFailure          x      x      x       x        x
//	StopOnError        x      x      x       x        x
//	MaxParked          x      x      x       x        x
//	WithErrorText      x      x      x       x        x
//	OnPark             x      x      x       x        x
//	ParkAlone          x      x      x       x        x
//	OnLive             x      x      x       x        x
//	OnPartitions       x      x      x       x        x
//	OnRetry            x      x      x       x        x
//	WithPolling        x      x      x       x        x
//	WithMaxBytes       x      x      x       x        x
//	FilterOnServer     x      x      x       x        x
//	StateIn            x      x      x       x        x
//	InPositionStream   x      x
//	FlushEvery         x      x
//	WithBatchSize             x              x
//	PerTx                            x                x
//	WithIsolation                    x       x        x
//	WithIdleTimeout                  x       x
package consumer
