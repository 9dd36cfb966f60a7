// Package trigger contains what the NOTIFY trigger and the programs that use it have to
// agree on, and asks the server about its state.
package trigger

import (
	"context"

	"github.com/jackc/pgx/v5"
)

const (
	// Name is the trigger's name. The table is message_store.messages.
	Name = "message_store_notify"

	// Channel is the channel that the trigger notifies. The payload is the stream's name,
	// or empty if that is too long for a payload.
	Channel = "message_store"

	// NoStream begins each other payload, which subscriptions ignore: no name of a stream
	// begins with it, because an empty category is rejected.
	NoStream = "-"

	// Changed is the payload that says that the trigger was installed or removed.
	Changed = NoStream + "trigger"

	// Placement is the payload that says that a proxy now sends a category of this shard to
	// another one.
	Placement = NoStream + "placement"

	// Key is the first number of this project's advisory locks, "MDBD" in ASCII.
	// Message DB locks categories with keys of one number, so the two cannot collide.
	//
	// A connection that waits for notifications of a category shares the lock of Key and
	// hashtext(category). The trigger notifies only if it cannot take that lock alone.
	Key = 0x4D444244
)

// Enabled is an SQL expression, true if the trigger is installed and fires for writes.
// It finds the trigger whatever the search path, and without any right to the schema.
const Enabled = `EXISTS (` + found + ` AND ` + fires + `)`

// Always is an SQL expression, true if the trigger also fires for rows that logical
// replication applies.
const Always = `EXISTS (` + found + ` AND t.tgenabled = 'A')`

// Proxy is an SQL expression, true in a database whose functions send their calls to shards.
const Proxy = `EXISTS (SELECT FROM pg_catalog.pg_proc AS p
	JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
	JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
	WHERE n.nspname = 'message_store' AND p.proname = 'write_message' AND l.lanname = 'plproxy')`

const (
	found = `SELECT FROM pg_catalog.pg_trigger AS t
	JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
	JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
	WHERE n.nspname = 'message_store' AND c.relname = 'messages' AND t.tgname = '` + Name + `'`

	// A trigger is also enabled ("O" for origin) or disabled for replication alone.
	fires = `t.tgenabled IN ('O', 'A')`
)

// A Status is the state of the trigger in the database of a connection.
type Status struct {
	Installed  bool // the trigger exists
	Enabled    bool // it exists and fires for writes
	Always     bool // it also fires for rows that replication applies
	Proxied    bool // the database is one of PL/Proxy, whose shards have the trigger
	Categories int  // categories for which the listeners wait
	Listeners  []Listener
}

// A Listener is a connection that waits for notifications.
type Listener struct {
	PID         int32
	Application string
	Client      string  // address, or empty
	Keys        []int32 // hashtext of each category for which it waits
}

// A Querier is a *pgx.Conn, a *pgxpool.Pool or a pgx.Tx.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Look asks the server for the status.
func Look(ctx context.Context, db Querier) (s Status, err error) {
	// The first row is about all connections. The key's second number is shown as an unsigned one.
	const sql = `SELECT coalesce(l.pid, 0), EXISTS (` + found + `), ` + Enabled + `, ` + Always + `, ` + Proxy + `, count(DISTINCT l.objid),
	CASE WHEN l.pid IS NOT NULL THEN array_agg(l.objid::bigint::bit(32)::integer) END,
	coalesce(max(a.application_name), ''), coalesce(max(pg_catalog.host(a.client_addr)), '')
FROM pg_catalog.pg_locks AS l LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.classid = $1 AND l.objsubid = 2 AND l.mode = 'ShareLock' AND l.granted AND l.pid IS NOT NULL
	AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
GROUP BY ROLLUP (l.pid)
ORDER BY l.pid NULLS FIRST`
	// The simple protocol leaves no prepared statement behind, which a pooler may lose.
	rows, err := db.Query(ctx, sql, pgx.QueryExecModeSimpleProtocol, Key)
	if err != nil {
		return Status{}, err
	}
	var (
		l          Listener
		categories int
	)
	_, err = pgx.ForEachRow(rows, []any{&l.PID, &s.Installed, &s.Enabled, &s.Always, &s.Proxied, &categories, &l.Keys, &l.Application, &l.Client}, func() error {
		if l.PID == 0 {
			s.Categories = categories
		} else {
			s.Listeners = append(s.Listeners, l)
		}
		return nil
	})
	if err != nil {
		return Status{}, err
	}
	return s, nil
}
