package mdbcontainer

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Snapshot keeps a copy of the database as it is, for [Container.Restore], in place of
// an earlier one. PostgreSQL copies no database that somebody is connected to, so
// Snapshot ends all connections to it. The pools of stores from [Container.Store] open
// new ones; Reset does the same for a pool of the caller's own.
//
// The copy has all that is in the database. What PostgreSQL keeps outside of it is
// left out: rights on the database itself, and settings by ALTER DATABASE.
func (c *Container) Snapshot(ctx context.Context) error {
	err := c.administer(ctx, func(conn *pgx.Conn) (err error) {
		database, snapshot := quote(c.database), quote(c.snapshot())
		if _, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+snapshot+" WITH (FORCE)"); err != nil {
			return err
		}
		// Pools would be faster to reconnect than the copy is made.
		if _, err := conn.Exec(ctx, "ALTER DATABASE "+database+" ALLOW_CONNECTIONS false"); err != nil {
			return err
		}
		defer func() {
			_, allowErr := conn.Exec(context.WithoutCancel(ctx), "ALTER DATABASE "+database+" ALLOW_CONNECTIONS true")
			err = errors.Join(err, allowErr)
		}()
		const end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = $1"
		if _, err := conn.Exec(ctx, end, c.database); err != nil {
			return err
		}
		_, err = conn.Exec(ctx, "CREATE DATABASE "+snapshot+" TEMPLATE "+database)
		return err
	})
	if err != nil {
		return fmt.Errorf("mdbcontainer: take a snapshot: %w", err)
	}
	return nil
}

// Restore makes the database that of the last [Container.Snapshot] again, global
// positions included. It ends all connections, as Snapshot does, and for a moment there
// is no database: subscriptions, which would not know of the change, end before.
func (c *Container) Restore(ctx context.Context) error {
	err := c.administer(ctx, func(conn *pgx.Conn) error {
		var there bool
		const look = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"
		if err := conn.QueryRow(ctx, look, c.snapshot()).Scan(&there); err != nil {
			return err
		}
		if !there {
			return errors.New("there is no snapshot, call Snapshot first")
		}
		if _, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+quote(c.database)+" WITH (FORCE)"); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, "CREATE DATABASE "+quote(c.database)+" TEMPLATE "+quote(c.snapshot()))
		return err
	})
	if err != nil {
		return fmt.Errorf("mdbcontainer: restore the snapshot: %w", err)
	}
	return nil
}

func (c *Container) snapshot() string { return c.database + "_snapshot" }

// administer lends a connection to another database than the tests'.
func (c *Container) administer(ctx context.Context, f func(*pgx.Conn) error) error {
	other := "postgres"
	if c.database == other {
		other = "template1"
	}
	defer c.reset()
	return c.inDatabase(ctx, other, f)
}

// reset has the stores' pools drop the connections that were ended under them. Without
// it each of them would fail the read that meets it first.
func (c *Container) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.stores {
		s.Pool().Reset()
	}
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
