// Package gate makes a shard reject messages of categories that are moved. The SQL of its trigger, gate.sql, explains the protocol.
package gate

import (
	"context"
	_ "embed" // the SQL of the gate
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ddl"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

//go:embed gate.sql
var installation string

// Install installs the trigger, which rejects messages with the SQLSTATE MD001. While it is installed, each insert looks in a small
// table, so [Uninstall] removes it when no category is closed.
//
// Only the owner of the table messages can install the trigger. It waits for the table as [schema.InstallNotify] does.
func Install(ctx context.Context, db schema.DB) error {
	err := changeTrigger(ctx, db, func(tx pgx.Tx) error {
		state, err := schema.ShardStatus(ctx, tx)
		if err == nil && !state.Installed {
			err = errors.New("the store is not a shard, run mdb install -shard with its number")
		}
		if err != nil {
			return err
		}
		var installed bool
		if err := tx.QueryRow(ctx, isInstalled, pgx.QueryExecModeExec).Scan(&installed); err != nil || installed {
			return err
		}
		foreign, err := ddl.Strangers(ctx, tx, "message_store_shard")
		if err == nil && len(foreign) > 0 {
			err = &schema.ForeignObjectsError{Schema: "message_store_shard", Found: foreign}
		}
		if err == nil {
			_, err = tx.Conn().PgConn().Exec(ctx, installation).ReadAll()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("install the gate: %w", err)
	}
	return nil
}

const isInstalled = `SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'message_store' AND c.relname = 'messages' AND t.tgname = 'message_store_gate' AND t.tgenabled IN ('O', 'A'))`

// Uninstall removes the trigger, unless a category is closed. It reports whether the gate is removed, or was not installed. It
// waits for the table as [schema.InstallNotify] does.
func Uninstall(ctx context.Context, db schema.DB) (removed bool, err error) {
	err = changeTrigger(ctx, db, func(tx pgx.Tx) error {
		var installed bool
		if err := tx.QueryRow(ctx, isInstalled, pgx.QueryExecModeExec).Scan(&installed); err != nil || !installed {
			removed = err == nil
			return err
		}
		// Nobody can close a category meanwhile: that takes the lock of the installers.
		if err := tx.QueryRow(ctx, `SELECT NOT EXISTS (SELECT FROM message_store_shard.closed)`, pgx.QueryExecModeExec).Scan(&removed); err != nil || !removed {
			return err
		}
		_, err := tx.Exec(ctx, `DROP TRIGGER message_store_gate ON message_store.messages`, pgx.QueryExecModeExec)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("remove the gate: %w", err)
	}
	return removed, nil
}

func changeTrigger(ctx context.Context, db schema.DB, f func(pgx.Tx) error) error {
	err := ddl.WithShortWaits(ctx, ddl.ReadCommitted(db), map[string]string{
		"search_path":                 "pg_catalog, pg_temp",
		"standard_conforming_strings": "on",
	}, f)
	return ddl.OfOwner(err)
}

// Close makes the shard reject messages of a category, which leaves to the shard with the number or arrives from it, from the
// end of the transaction on. The transaction must hold the lock of the category, or no program may have written to the category
// yet. The gate must be installed.
func Close(ctx context.Context, tx pgx.Tx, category string, shard int, arrives bool) error {
	var installed bool
	if _, err := tx.Exec(ctx, ddl.Lock); err != nil {
		return fmt.Errorf("close the gate: %w", err)
	}
	if err := tx.QueryRow(ctx, isInstalled).Scan(&installed); err != nil {
		return fmt.Errorf("close the gate: %w", err)
	}
	if !installed {
		return errors.New("close the gate: it is not installed")
	}
	const change = `WITH changed AS (UPDATE message_store_shard.changed SET changes = changes + 1)
INSERT INTO message_store_shard.closed AS c (category, shard, arrives) VALUES ($1, $2, $3)
ON CONFLICT (category) DO UPDATE SET shard = excluded.shard, arrives = excluded.arrives, writer = NULL, returns = excluded.arrives AND (c.returns OR NOT c.arrives)`
	if _, err := tx.Exec(ctx, change, category, shard, arrives); err != nil {
		return fmt.Errorf("close the gate: %w", err)
	}
	return nil
}

// Open makes the shard accept messages of a category again, from the end of the transaction on.
func Open(ctx context.Context, tx pgx.Tx, category string) error {
	const change = `WITH changed AS (UPDATE message_store_shard.changed SET changes = changes + 1)
DELETE FROM message_store_shard.closed WHERE category = $1`
	if _, err := tx.Exec(ctx, change, category); err != nil {
		return fmt.Errorf("open the gate: %w", err)
	}
	return nil
}

// Undo undoes a Close of a category that arrives from the shard with the number. If it had left before, the shard still rejects its
// messages; otherwise Undo is Open.
func Undo(ctx context.Context, tx pgx.Tx, category string, shard int) error {
	const change = `UPDATE message_store_shard.closed SET shard = $2, arrives = false, writer = NULL, returns = false WHERE category = $1 AND returns`
	tag, err := tx.Exec(ctx, change, category, shard)
	if err != nil {
		return fmt.Errorf("close the gate again: %w", err)
	}
	if tag.RowsAffected() > 0 {
		return nil
	}
	return Open(ctx, tx, category)
}

// A Closing says why the gate is closed for a category.
type Closing struct {
	Closed  bool // false: it is not
	Shard   int  // to which the category has left, or from which it arrives
	Arrives bool
}

// Status reports whether the gate is closed for a category. Only the owner of the gate may ask.
func Status(ctx context.Context, db schema.DB, category string) (c Closing, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		var exists bool
		if err := tx.QueryRow(ctx, `SELECT pg_catalog.to_regclass('message_store_shard.closed') IS NOT NULL`).Scan(&exists); err != nil || !exists {
			return err
		}
		err := tx.QueryRow(ctx, `SELECT shard, arrives FROM message_store_shard.closed WHERE category = $1`, category).Scan(&c.Shard, &c.Arrives)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		c.Closed = err == nil
		return err
	})
	if err != nil {
		return Closing{}, fmt.Errorf("look at the gate: %w", err)
	}
	return c, nil
}
