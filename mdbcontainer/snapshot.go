package mdbcontainer

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Snapshot copies the database for [Container.Restore], and replaces an earlier copy.
// PostgreSQL cannot copy a database that has connections, so Snapshot ends them. The pools
// of stores from [Container.Store] reconnect. Call Reset on other pools.
//
// The copy contains everything in the database. It does not contain what PostgreSQL stores
// elsewhere: rights on the database itself, and settings made with ALTER DATABASE.
func (c *Container) Snapshot(ctx context.Context) error {
	err := c.administer(ctx, func(conn *pgx.Conn) (err error) {
		database, snapshot := quote(c.database), quote(c.snapshot())
		if _, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+snapshot+" WITH (FORCE)"); err != nil {
			return err
		}
		// Otherwise pools reconnect before the copy is made.
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

// Restore replaces the database with the copy made by the last [Container.Snapshot],
// including global positions. It ends all connections, as Snapshot does, and for a moment
// the database does not exist. End subscriptions before, because they do not notice that
// the messages changed.
func (c *Container) Restore(ctx context.Context) error {
	err := c.administer(ctx, func(conn *pgx.Conn) error {
		var there bool
		const look = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"
		if err := conn.QueryRow(ctx, look, c.snapshot()).Scan(&there); err != nil {
			return err
		}
		if !there {
			return errors.New("there is no snapshot: call Snapshot first")
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

// administer calls f with a connection to a database other than the tests'.
func (c *Container) administer(ctx context.Context, f func(*pgx.Conn) error) error {
	other := "postgres"
	if c.database == other {
		other = "template1"
	}
	defer c.reset()
	return c.inDatabase(ctx, other, f)
}

// reset removes the ended connections from the stores' pools. Otherwise each of them would
// fail a read.
func (c *Container) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.stores {
		s.Pool().Reset()
	}
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
