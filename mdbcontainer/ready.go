package mdbcontainer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/mdb/schema"
)

const (
	startTimeout = time.Minute
	startPause   = 50 * time.Millisecond
)

// await returns when the server accepts connections over the network. The log would not
// do: an image starts the server twice when it creates the database, and a reused
// container may have started it any number of times.
func (c *Container) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := c.inDatabase(ctx, c.database, func(conn *pgx.Conn) error { return conn.Ping(ctx) })
		if err == nil {
			return nil
		}
		// Except while it starts, an error of the server itself is permanent.
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && pgErr.Code != "57P03" {
			return err
		}
		if state, stateErr := c.State(ctx); stateErr == nil && !state.Running {
			return fmt.Errorf("the container exited with status %d; its log ends with\n%s", state.ExitCode, c.logTail(ctx))
		}
		select {
		case <-time.After(startPause):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w; the container's log ends with\n%s",
				context.Cause(ctx), err, c.logTail(context.WithoutCancel(ctx)))
		}
	}
}

func (c *Container) logTail(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	logs, err := c.Logs(ctx)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = logs.Close() }()
	text, err := io.ReadAll(logs)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}

// installerLock makes concurrent Runs on a reused container wait for one another. Its key
// differs from those of Message DB, of the NOTIFY trigger and of schema.Install.
const installerLock = "SELECT pg_advisory_lock(1296319044, 2)"

func (c *Container) install(ctx context.Context, notify bool, scripts []script) error {
	return c.inDatabase(ctx, c.database, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, installerLock); err != nil {
			return fmt.Errorf("wait for other installers: %w", err)
		}
		if err := schema.Install(ctx, conn); err != nil {
			return err
		}
		if notify {
			if err := schema.InstallNotify(ctx, conn); err != nil {
				return err
			}
		}
		for _, s := range scripts {
			// Only the simple protocol runs several statements in one call.
			if _, err := conn.PgConn().Exec(ctx, s.sql).ReadAll(); err != nil {
				return fmt.Errorf("run %s: %w", s.name, err)
			}
		}
		return nil
	})
}

// inDatabase calls f with a connection to a database of the server.
func (c *Container) inDatabase(ctx context.Context, database string, f func(*pgx.Conn) error) error {
	address, err := c.url(ctx, database)
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return f(conn)
}
