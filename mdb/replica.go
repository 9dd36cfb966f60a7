package mdb

import "github.com/jackc/pgx/v5/pgxpool"

// WithReplica makes the store read from a hot standby of its server, through a pool to that
// standby. Prepare the pool's configuration with [Configure]. [Store.Close] does not close it. With
// [Connect], use [ConnectReplica] instead.
//
// These read from the replica: GetStreamMessages, GetCategoryMessages, StreamMessages,
// CategoryMessages, GetMessage, GetLastStreamMessage, GetLastCategoryMessage without [OfType], and the
// pages of [Store.SubscribeToStream], [Store.SubscribeToCategory] and consumers. Everything else
// uses the primary: writes and what follows from their outcomes, transactions, StreamVersion,
// CategoryHead, notifications, and reads of all categories, which look at locks that a standby
// does not show. [FromPrimary] makes a single read or subscription use the primary.
//
// A replica lags. A read from it may lack what was written before, usually for some
// milliseconds. [Store.AwaitWrite] waits until it has a message. After a [*WrongVersionError], reads of
// the stream use the primary for five seconds. An error that something is missing or cannot be
// read is one of the primary, which is asked before the error is returned.
//
// A subscription that is notified of a message waits until the replica has it, and reads it from the
// primary if that takes more than a second. A subscription to which the replica owes messages
// uses the primary for a while, up to ten seconds. It never takes lag for a loss: before it calls the function of
// [OnFork], it looks on the primary. Its start is looked up on the primary, too.
//
// If the replica cannot be reached or is no longer a standby, reads use the primary, and the store
// asks the replica again, after 100 milliseconds at first and ten seconds at most. The replica serves reads
// again when it has what the primary had when the store asked. The log has one line when reads leave the replica, and one
// when they return, and [Store.Stats] counts them. The same check comes before the first read.
//
// The pool should lead to one standby, by physical replication. With several in turn, AwaitWrite says nothing about the next read.
// A database whose write_message is a function of PL/Proxy has no such replica: all calls then fail with a [*SetupError]
// that wraps [ErrProxied].
func WithReplica(pool *pgxpool.Pool) StoreOption {
	return storeOption(func(c *storeConfig) {
		c.replica = pool
		if pool == nil {
			c.faults.add("replica", "nil", "a *pgxpool.Pool")
			return
		}
		conn := pool.Config().ConnConfig
		c.faults.caches(conn)
		if fault := connStringFault(conn.ConnString()); fault != "" {
			c.faults.add("replica", "a connection string that is ambiguous: "+fault, "one that is not")
		}
	})
}

// A PrimaryOption configures a read or a subscription.
type PrimaryOption interface {
	ReadOption
	LastMessageOption
}

type primaryOption struct{ readOption }

func (primaryOption) lastMessage(c *lastConfig) { c.primary = true }

// FromPrimary makes a read or a subscription of a store with [WithReplica] use the primary. Use it
// for a read that must not lack anything. Without WithReplica it changes nothing.
func FromPrimary() PrimaryOption {
	return primaryOption{func(c *readConfig) { c.primary = true }}
}
