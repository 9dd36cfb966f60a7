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
	Installed   bool // the trigger exists
	Enabled     bool // it exists and fires for writes
	Connections int  // connections that wait for notifications
	Categories  int  // categories for which they wait
}

// A Querier is a *pgx.Conn, a *pgxpool.Pool or a pgx.Tx.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Look asks the server for the status.
func Look(ctx context.Context, db Querier) (s Status, err error) {
	const sql = `SELECT EXISTS (` + found + `), ` + Enabled + `, count(DISTINCT l.pid), count(DISTINCT l.objid)
FROM pg_catalog.pg_locks AS l
WHERE l.locktype = 'advisory' AND l.classid = $1 AND l.objsubid = 2 AND l.mode = 'ShareLock' AND l.granted
	AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`
	// The simple protocol leaves no prepared statement behind, which a pooler may lose.
	err = db.QueryRow(ctx, sql, pgx.QueryExecModeSimpleProtocol, Key).Scan(&s.Installed, &s.Enabled, &s.Connections, &s.Categories)
	return s, err
}
