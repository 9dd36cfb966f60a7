package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// createTables creates what the projection keeps: the balances, and each message that it has
// handled, for the proof. Its progress is in the schema of consumers.
func (d *database) createTables(ctx context.Context, conn *pgx.Conn) error {
	sql := strings.ReplaceAll(`
CREATE SCHEMA demo;
CREATE TABLE demo.balance (account text PRIMARY KEY, amount bigint NOT NULL);
CREATE TABLE demo.handled (n bigint GENERATED ALWAYS AS IDENTITY, account text NOT NULL, global_position bigint NOT NULL)`, "demo", d.schema())
	_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// remove removes what the demo made, and says what that was.
func (d *database) remove(ctx context.Context) (lines []string, err error) {
	if d.server != nil {
		return []string{"the server of this run, with its data"}, d.server.Stop()
	}
	err = d.connect(ctx, func(conn *pgx.Conn) error {
		lines, err = d.removeAll(ctx, conn)
		return err
	})
	if err != nil {
		err = fmt.Errorf("remove what the demo made (messages of %s and %s, schema %s): %w", d.accounts(), d.ticks(), d.schema(), err)
	}
	return lines, err
}

func (d *database) removeAll(ctx context.Context, conn *pgx.Conn) (lines []string, err error) {
	if _, err := conn.Exec(ctx, "DROP SCHEMA IF EXISTS "+d.schema()+" CASCADE"); err != nil {
		return nil, err
	}
	consumers, err := d.removeConsumer(ctx, conn)
	if err != nil {
		return nil, err
	}
	deleted, err := d.deleteMessages(ctx, conn)
	if err != nil {
		return nil, err
	}
	lines = append(lines, count(deleted)+" messages", "the projection's schema", consumers)
	if d.made.trigger {
		if err := schema.UninstallNotify(ctx, conn); err != nil {
			return lines, err
		}
		lines = append(lines, "the trigger")
	}
	if d.made.store {
		line, err := d.uninstall(ctx, conn)
		return append(lines, line), err
	}
	return lines, nil
}

// removeConsumer deletes the projection's consumer, and the schema of consumers if the demo installed it, unless
// somebody has begun to use it.
func (d *database) removeConsumer(ctx context.Context, conn *pgx.Conn) (line string, err error) {
	if found, err := schema.ConsumersStatus(ctx, conn); err != nil || !found.Installed {
		return "no consumer", err
	}
	store, err := d.open(ctx)
	if err != nil {
		return "", err
	}
	defer store.Pool().Close()
	err = consumer.Admin(store.Pool()).Delete(ctx, d.consumer(), consumer.Force()) // a process that was killed counts as running
	if err != nil && !errors.As(err, new(*consumer.NotFoundError)) || !d.made.consumers {
		return "its consumer", err
	}
	used := false
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "LOCK TABLE message_store_consumers.consumers"); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM message_store_consumers.consumers)").Scan(&used); err != nil || used {
			return err
		}
		_, err := tx.Exec(ctx, "DROP SCHEMA message_store_consumers CASCADE")
		return err
	})
	if used {
		return "its consumer; the schema of consumers stays, because it contains others", err
	}
	return "the schema of consumers", err
}

func (d *database) deleteMessages(ctx context.Context, conn *pgx.Conn) (int64, error) {
	var installed bool
	if err := conn.QueryRow(ctx, "SELECT to_regclass('message_store.messages') IS NOT NULL").Scan(&installed); err != nil || !installed {
		return 0, err
	}
	tag, err := conn.Exec(ctx, "DELETE FROM message_store.messages WHERE message_store.category(stream_name) = ANY ($1)",
		[]string{string(d.accounts()), string(d.ticks())})
	return tag.RowsAffected(), err
}

// uninstall removes the Message DB that the demo installed, unless somebody has begun to
// use it.
func (d *database) uninstall(ctx context.Context, conn *pgx.Conn) (line string, err error) {
	used := false
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "LOCK TABLE message_store.messages"); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM message_store.messages)").Scan(&used); err != nil || used {
			return err
		}
		_, err := tx.Exec(ctx, "DROP SCHEMA message_store CASCADE")
		return err
	})
	switch {
	case err != nil:
		return "", err
	case used:
		return "Message DB stays, because it contains other messages", nil
	}
	if d.made.role {
		// It stays where it is used in another database by now.
		if _, err := conn.Exec(ctx, "DROP ROLE message_store"); err != nil {
			return "Message DB, except the role message_store, which is in use", nil //nolint:nilerr // the line says so
		}
	}
	return "Message DB", nil
}
