package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx of database/sql
	_ "github.com/lib/pq"              // the driver postgres of database/sql

	"github.com/messagedb-go/messagedb/bench/internal/proctab"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// What is in the store before anything is measured.
const (
	seedMessages   = 100_000
	seedCategories = 16
	seedStreams    = 100 // of each category
	sharedMessages = 20_000
	sharedStreams  = 500
)

// connections is how many each pool has: as many as the most workers of a case.
const connections = 32

// An environment is a server with a seeded store, and every client on it.
type environment struct {
	server     *pgtest.Server
	postmaster int
	admin      *pgxpool.Pool
	store      *mdb.Store
	direct     *mdb.Store
	pgbench    *pgbench
	names      []string
	clients    []client
	official   []*mdb.Store // on Message DB's own SQL: by procedures, by direct SQL
	close      []func()
}

func (e *environment) Close() {
	for _, c := range slices.Backward(e.close) {
		c()
	}
}

// newServer starts a server that keeps its promises (fsync is on) and is reached by
// TCP, as it would be over a network.
func newServer(ctx context.Context) (e *environment, err error) {
	e = new(environment)
	if e.server, err = pgtest.Start(ctx, pgtest.Setting("fsync", "on"), pgtest.Setting("full_page_writes", "on"),
		pgtest.Setting("max_connections", "500"), pgtest.Setting("max_wal_size", "4GB")); err != nil {
		return nil, err
	}
	e.close = append(e.close, func() { _ = e.server.Stop() })
	if e.admin, err = pgxpool.New(ctx, e.server.TCP("postgres")); err != nil {
		return nil, errors.Join(err, e.server.Stop())
	}
	e.close = append(e.close, e.admin.Close)
	if e.postmaster, err = proctab.Postmaster(ctx, e.admin); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// newEnvironment starts a server and gives it a store and clients.
func newEnvironment(ctx context.Context) (e *environment, err error) {
	if e, err = newServer(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	folder, err := os.MkdirTemp("", "mdb-bench-")
	if err != nil {
		return nil, err
	}
	e.close = append(e.close, func() { _ = os.RemoveAll(folder) })
	if e.pgbench, err = newPgbench(e.server.TCP("ours"), folder); err != nil {
		return nil, err
	}
	if e.store, e.direct, err = e.open(ctx, "ours", testdb.InstallOurs); err != nil {
		return nil, err
	}
	if testdb.Official() {
		procedures, direct, err := e.open(ctx, "official", testdb.InstallOfficial)
		if err != nil {
			return nil, err
		}
		e.official = []*mdb.Store{procedures, direct}
	}
	err = e.addClients(ctx)
	return e, err
}

// create makes a database, installs Message DB in it, and returns a connection to it.
func (e *environment) create(ctx context.Context, database string, install func(context.Context, *pgx.Conn) error) (*pgx.Conn, error) {
	if _, err := e.admin.Exec(ctx, "CREATE DATABASE "+database); err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, e.server.TCP(database))
	if err != nil {
		return nil, err
	}
	if err := install(ctx, conn); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	return conn, nil
}

// open installs Message DB in a database, fills it, and returns it both ways.
func (e *environment) open(ctx context.Context, database string, install func(context.Context, *pgx.Conn) error) (procedures, direct *mdb.Store, err error) {
	conn, err := e.create(ctx, database, install)
	if err != nil {
		return nil, nil, err
	}
	if err := errors.Join(seed(ctx, conn), conn.Close(ctx)); err != nil {
		return nil, nil, err
	}
	address := e.server.TCP(database)
	if procedures, err = mdb.Connect(ctx, withPool(address)); err != nil {
		return nil, nil, err
	}
	e.close = append(e.close, procedures.Close)
	direct, err = mdb.New(procedures.Pool(), mdb.WithDirectSQL())
	return procedures, direct, err
}

func withPool(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		panic(err) // the harness made it
	}
	q := u.Query()
	q.Set("pool_max_conns", fmt.Sprint(connections))
	u.RawQuery = q.Encode()
	return u.String()
}

// seed fills the store: sixteen categories, whose messages lie between one another's,
// and one that a process's workers or a group's members share.
func seed(ctx context.Context, conn *pgx.Conn) error {
	const insert = `INSERT INTO message_store.messages (stream_name, position, type, data, metadata)
SELECT $1 || i % $3::int || '-' || i / $3 % $4::int, i / $3 / $4, 'Deposited', $5::jsonb, '{"correlationStreamName": "transfer-1"}'
FROM generate_series(0, $2::int - 1) AS i`
	if _, err := conn.Exec(ctx, insert, "seed", seedMessages, seedCategories, seedStreams, string(payload)); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, insert, "shared", sharedMessages, 1, sharedStreams, string(payload)); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, "VACUUM ANALYZE message_store.messages")
	return err
}

func (e *environment) addClients(ctx context.Context) error {
	address := e.server.TCP("ours")
	bare, err := newFloor(ctx, address, connections)
	if err != nil {
		return err
	}
	e.close = append(e.close, bare.Close)
	pool, err := pgxpool.New(ctx, withPool(address))
	if err != nil {
		return err
	}
	e.close = append(e.close, pool.Close)
	e.add(floorName, wrapper{bare})
	e.add(proceduresName, mdbClient{e.store})
	e.add(directName, mdbClient{e.direct})
	e.add(pgxName, wrapper{pgxQuerier{pool}})
	for _, driver := range []struct{ name, registered string }{{"lib/pq", "postgres"}, {"pgx stdlib", "pgx"}} {
		for _, how := range []string{once, perCall} {
			db, err := sql.Open(driver.registered, address)
			if err != nil {
				return err
			}
			e.close = append(e.close, func() { _ = db.Close() })
			db.SetMaxOpenConns(connections)
			db.SetMaxIdleConns(connections)
			q, err := newSQLQuerier(ctx, db, how == once)
			if err != nil {
				return err
			}
			e.add("database/sql, "+driver.name+", "+how, wrapper{q})
		}
	}
	return nil
}

// The names of rivals that the floors name.
const (
	floorName      = "floor (pgconn, rows unread)"
	proceduresName = "mdb"
	directName     = "mdb, direct SQL"
	pgxName        = "pgx, CollectRows"
	once           = "prepared once"
	perCall        = "a Prepare per call"
	stdlibOnce     = "database/sql, pgx stdlib, " + once
	stdlibPerCall  = "database/sql, pgx stdlib, " + perCall
	pqPerCall      = "database/sql, lib/pq, " + perCall
)

func (e *environment) add(name string, c client) {
	e.names, e.clients = append(e.names, name), append(e.clients, c)
}

// settings returns what a figure depends on.
func (e *environment) settings(ctx context.Context) (string, error) {
	rows, err := e.admin.Query(ctx, `SELECT name || ' = ' || current_setting(name) FROM pg_settings
WHERE source NOT IN ('default', 'client') AND name NOT LIKE '%direct%' AND name NOT LIKE '%file' AND name !~ 'log|port|listen|socket' ORDER BY 1`)
	if err != nil {
		return "", err
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return strings.Join(lines, "; "), err
}
