package schema

import (
	"context"
	_ "embed" // the trigger's SQL
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ddl"
	"github.com/messagedb-go/messagedb/internal/trigger"
)

//go:embed notify.sql
var notifySQL string

const notifyRemoval = `
DROP TRIGGER IF EXISTS ` + trigger.Name + ` ON message_store.messages;
DROP FUNCTION IF EXISTS message_store.notify_subscriptions();
NOTIFY ` + trigger.Channel + `, '` + trigger.Changed + `'`

// InstallNotify installs the trigger that notifies subscriptions of new messages. A store
// uses it if it was created with [github.com/messagedb-go/messagedb/mdb.WithNotify]. An
// existing trigger of that name is replaced. Only the owner of the table messages can
// install the trigger. It also notifies the stores that have subscriptions, so that they use
// the trigger immediately.
//
// The trigger makes each insert try to take an advisory lock. It calls pg_notify only if
// it cannot take the lock, because a subscription is waiting for the category. PostgreSQL
// rejects two-phase commit for a transaction that has called pg_notify, and for one that has
// called InstallNotify or UninstallNotify. A transaction keeps
// one such lock for each category that it writes to, so disable the trigger for a bulk
// import into very many categories.
//
// Creating a trigger waits for the transactions that write to the table, and later
// writers wait for the trigger. To let them through, InstallNotify waits for a tenth of
// a second at most, and then retries until ctx ends.
func InstallNotify(ctx context.Context, db DB) error {
	if err := changeNotify(ctx, db, notifySQL); err != nil {
		return fmt.Errorf("schema: install the NOTIFY trigger: %w", err)
	}
	return nil
}

// UninstallNotify removes the trigger if it is installed. It waits for the table as
// [InstallNotify] does.
func UninstallNotify(ctx context.Context, db DB) error {
	if err := changeNotify(ctx, db, notifyRemoval); err != nil {
		return fmt.Errorf("schema: remove the NOTIFY trigger: %w", err)
	}
	return nil
}

// NotifyState is the state of the NOTIFY trigger in a database. [NotifyStatus] returns it.
type NotifyState struct {
	// Installed reports whether the trigger exists.
	Installed bool

	// Enabled reports whether the trigger exists and fires for writes. A trigger that is
	// disabled, or enabled for replication only, does not.
	Enabled bool

	// Always reports whether the trigger also fires for messages that logical replication
	// applies, and in sessions with session_replication_role = replica. It does after ALTER
	// TABLE message_store.messages ENABLE ALWAYS TRIGGER message_store_notify.
	Always bool

	// Proxied reports whether write_message is a function of PL/Proxy. Then the trigger and the
	// listeners are those of the shards: call [NotifyStatus] with a connection to each.
	Proxied bool

	// Listeners are the connections that wait for notifications, in the order of their
	// process IDs: usually one for each store with subscriptions that have caught up.
	Listeners []NotifyListener

	// Categories is the number of categories for which they wait.
	Categories int
}

// A NotifyListener is a connection that waits for notifications.
type NotifyListener struct {
	// PID is the process ID of the connection's server process.
	PID int32

	// Application is the connection's application_name: that of the store's pool, followed
	// by "message_store notify", or by "shard 1 message_store notify" if the store listens on
	// several shards, of which this should be number 1.
	Application string

	// Client is the client's address. It is empty for a Unix socket, and also if neither the
	// connection's role nor the privileges of pg_read_all_stats are among those of the role
	// that asks.
	Client string

	// Categories is the number of categories for which the connection waits.
	Categories int
}

// NotifyStatus reports whether the NOTIFY trigger is installed and enabled, and which
// connections wait for its notifications. It works without privileges on the schema
// message_store, and also if Message DB is not installed.
func NotifyStatus(ctx context.Context, db DB) (state NotifyState, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		status, err := trigger.Look(ctx, tx)
		state = NotifyState{Installed: status.Installed, Enabled: status.Enabled, Always: status.Always, Proxied: status.Proxied, Categories: status.Categories}
		for _, l := range status.Listeners {
			state.Listeners = append(state.Listeners, NotifyListener{PID: l.PID, Application: l.Application, Client: l.Client, Categories: len(l.Keys)})
		}
		return err
	})
	if err != nil {
		return NotifyState{}, fmt.Errorf("schema: look up the NOTIFY trigger: %w", err)
	}
	return state, nil
}

// functionOfStranger finds a function of the trigger's name whose owner has nothing to do
// with the owner of the table. Every writer executes it.
const functionOfStranger = `
SELECT pg_catalog.format('function notify_subscriptions: its owner is the role %s, and that of the table is %s',
	pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(p.proowner)), pg_catalog.quote_ident(r.rolname))
FROM pg_catalog.pg_proc AS p
JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'messages'
JOIN pg_catalog.pg_roles AS r ON r.oid = c.relowner
WHERE n.nspname = 'message_store' AND p.proname = 'notify_subscriptions' AND p.pronargs = 0
	AND NOT pg_catalog.pg_has_role(p.proowner, c.relowner, 'MEMBER') AND (r.rolsuper OR NOT pg_catalog.pg_has_role(c.relowner, p.proowner, 'MEMBER'))`

// changeNotify runs the statements, unless another role owns the trigger's function: CREATE OR
// REPLACE keeps the owner, who could replace the function again.
func changeNotify(ctx context.Context, db DB, sql string) error {
	err := ddl.WithShortWaits(ctx, db, map[string]string{}, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, functionOfStranger, pgx.QueryExecModeExec)
		foreign, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		if len(foreign) > 0 {
			return &ForeignObjectsError{"message_store", foreign}
		}
		_, err = tx.Conn().PgConn().Exec(ctx, sql).ReadAll()
		return err
	})
	return ddl.OfOwner(err)
}
