package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// A database is where the demo runs. All that the demo makes there bears the name of
// the run.
type database struct {
	run     string
	url     string
	server  *pgtest.Server // started for this run, or nil
	version string         // of PostgreSQL
	made    made
}

// Made is what the demo has installed in a database of the user's.
type made struct{ store, role, trigger, consumers bool }

func (d *database) accounts() mdb.Category  { return mdb.Category("demoAccount" + d.run) }
func (d *database) transfers() mdb.Category { return mdb.Category("demoTransfer" + d.run) }
func (d *database) ticks() mdb.Category     { return mdb.Category("demoTick" + d.run) }
func (d *database) consumer() string        { return "demoBalances" + d.run }
func (d *database) schema() string          { return "messagedb_demo_" + d.run }
func (d *database) application() string     { return "messagedb-demo-" + d.run }

func (d *database) account(i int) mdb.StreamName { return d.accounts().Stream(strconv.Itoa(i + 1)) }

// prepare returns the database of DATABASE_URL, if the user agrees while asking lasts, or
// that of a new server.
func prepare(ctx, asking context.Context) (*database, error) {
	d := &database{run: strings.ToLower(rand.Text()[:8]), url: os.Getenv("DATABASE_URL")}
	if d.url != "" {
		if err := d.prepareTheirs(ctx, asking); err != nil {
			return nil, err
		}
		return d, nil
	}

	fmt.Println("Starting a PostgreSQL for this run …")
	// Latencies are those of a server that writes to its disk.
	server, err := pgtest.Start(ctx, pgtest.Setting("fsync", "on"))
	if err != nil {
		return nil, err
	}
	d.server, d.url = server, server.URL("postgres")
	if err := d.install(ctx, inspection{}); err != nil {
		_ = server.Stop()
		return nil, err
	}
	return d, nil
}

// install installs what the inspection has not found, and the projection's tables.
func (d *database) install(ctx context.Context, found inspection) error {
	return d.connect(ctx, func(conn *pgx.Conn) error {
		if err := conn.QueryRow(ctx, "SELECT split_part(current_setting('server_version'), ' ', 1)").Scan(&d.version); err != nil {
			return err
		}
		if !found.store {
			if err := schema.Install(ctx, conn); err != nil {
				return err
			}
			d.made.store, d.made.role = true, !found.role
		}
		if !found.trigger {
			if err := schema.InstallNotify(ctx, conn); err != nil {
				return err
			}
			d.made.trigger = true
		}
		if !found.consumers {
			if err := schema.InstallConsumers(ctx, conn); err != nil {
				return err
			}
			d.made.consumers = true
		}
		return d.createTables(ctx, conn)
	})
}

// connect calls f with a connection that remains when the demo's connections are cut.
func (d *database) connect(ctx context.Context, f func(*pgx.Conn) error) error {
	cfg, err := pgx.ParseConfig(d.url)
	if err != nil {
		return err
	}
	cfg.RuntimeParams["application_name"] = d.application() + "-admin"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	return errors.Join(f(conn), conn.Close(ctx))
}

// open opens a store. Its pool finds the projection's tables after Message DB's.
func (d *database) open(ctx context.Context, opts ...mdb.StoreOption) (*mdb.Store, error) {
	cfg, err := pgxpool.ParseConfig(d.url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = writers + 2
	cfg.ConnConfig.RuntimeParams["application_name"] = d.application()
	cfg.ConnConfig.RuntimeParams["search_path"] = d.schema()
	mdb.Configure(cfg, mdb.StoreFirst())
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return mdb.New(pool, opts...)
}

// interrupt restarts the demo's own server. On a server of the user's it ends the
// demo's connections, and returns how many.
func (d *database) interrupt(ctx context.Context) (cut int, err error) {
	if d.server != nil {
		return 0, d.server.Restart("fast") //nolint:contextcheck // it is not to be cancelled
	}
	err = d.connect(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1",
			d.application()).Scan(&cut)
	})
	return cut, err
}
