package mdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/doorbell"
	"github.com/messagedb-go/messagedb/internal/trigger"
)

// A notifier asks through the pool, where writes come from, what the store must know before it
// may wait for notifications.
type notifier struct {
	pool      *pgxpool.Pool
	first     *firstUse
	addresses int // of ListenOn
}

var errNotSharded = errors.New("ListenOn has several addresses, which are for the shards of PL/Proxy, and write_message is not a function of PL/Proxy; set it to one address of the same database")

// The proxy's functions of schema message_store_proxy.
const (
	notifySQL      = "SELECT pg_catalog.pg_notify($1, $2)"
	notifyShardSQL = "SELECT message_store_proxy.notify($1, $2)"
	shardsSQL      = `SELECT pg_catalog.array_agg(message_store_proxy.shard_of(category) ORDER BY n)
FROM pg_catalog.unnest($1::varchar[]) WITH ORDINALITY AS c(category, n)`
)

// notify sends a notification, and returns when it was sent. It takes the way of a write: the
// proxy sends it to the shard, in a session of its own.
func (n notifier) notify(ctx context.Context, shard int, payload string) (sent time.Time, err error) {
	err = n.do(ctx, func(conn *pgx.Conn) error {
		sql, to := notifySQL, any(trigger.Channel)
		if n.proxied() {
			sql, to = notifyShardSQL, shard
		} else if n.addresses > 1 {
			return errNotSharded
		}
		sent = time.Now()
		_, err := conn.Exec(ctx, sql, pgx.QueryExecModeExec, to, payload)
		return err
	})
	return sent, err
}

// proxied reports whether the database is known to be one of PL/Proxy.
func (n notifier) proxied() bool { return n.first.proxy() != noProxy }

// shardsOf returns the numbers of the shards to which the proxy sends the categories.
func (n notifier) shardsOf(ctx context.Context, categories []string) (shards []int, err error) {
	err = n.do(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, shardsSQL, pgx.QueryExecModeExec, categories).Scan(&shards)
	})
	return shards, err
}

// do calls f with a connection, after it is known whether the database is one of PL/Proxy.
func (n notifier) do(ctx context.Context, f func(conn *pgx.Conn) error) error {
	conn, err := n.first.acquire(ctx, n.pool, pgx.QueryExecModeExec)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", doorbell.ErrBusy, err)
	}
	if err != nil {
		return err
	}
	defer conn.Release()
	return f(conn.Conn())
}
