package main

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx of database/sql
	_ "github.com/lib/pq"              // the driver postgres of database/sql

	"github.com/messagedb-go/messagedb/bench/internal/pgserver"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// The messages in the store before anything is measured.
const (
	seedMessages   = 100_000
	seedCategories = 16
	seedStreams    = 100 // of each category
	sharedMessages = 20_000
	sharedStreams  = 500
)

// connections is the size of each pool: the most workers of a case, except one that is about more.
const connections = 64

// An environment is a server with a seeded store, and the clients that use it.
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
	groups     []groupedStores
	close      []func()
}

func (e *environment) Close() {
	for _, c := range slices.Backward(e.close) {
		c()
	}
}

// newServer starts a server with fsync, which the clients reach by TCP.
func newServer(ctx context.Context) (e *environment, err error) {
	e = new(environment)
	if e.server, err = pgtest.Start(ctx, pgtest.Setting("fsync", "on"), pgtest.Setting("full_page_writes", "on"),
		pgtest.Setting("max_connections", "1000"), pgtest.Setting("max_wal_size", "4GB")); err != nil {
		return nil, err
	}
	e.close = append(e.close, func() { _ = e.server.Stop() })
	if e.admin, err = pgxpool.New(ctx, e.server.TCP("postgres")); err != nil {
		return nil, errors.Join(err, e.server.Stop())
	}
	e.close = append(e.close, e.admin.Close)
	if e.postmaster, err = pgserver.Postmaster(ctx, e.admin); err != nil {
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
	if err := e.addClients(ctx); err != nil {
		return nil, err
	}
	err = e.addGrouped(ctx)
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
	if procedures, err = mdb.Connect(ctx, pgserver.PoolURL(address, connections)); err != nil {
		return nil, nil, err
	}
	e.close = append(e.close, procedures.Close)
	direct, err = mdb.New(procedures.Pool(), mdb.WithDirectSQL())
	return procedures, direct, err
}

// seed fills the store with interleaved categories, with one whose messages are handled
// concurrently, and with a gap in the global positions.
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
	if err := seedGap(ctx, conn); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, "VACUUM ANALYZE message_store.messages")
	return err
}

func (e *environment) addClients(ctx context.Context) error {
	address := e.server.TCP("ours")
	bare, err := newRawClient(ctx, address, connections)
	if err != nil {
		return err
	}
	e.close = append(e.close, bare.Close)
	pool, err := pgxpool.New(ctx, pgserver.PoolURL(address, connections))
	if err != nil {
		return err
	}
	e.close = append(e.close, pool.Close)
	e.add(rawName, wrapper{bare})
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

// The names of variants.
const (
	rawName        = "raw pgconn, same procedures"
	proceduresName = "mdb"
	directName     = "mdb, direct SQL"
	pgxName        = "pgx, CollectRows"
	once           = "prepared once"
	perCall        = "prepares per call"
	stdlibOnce     = "database/sql, pgx stdlib, " + once
	stdlibPerCall  = "database/sql, pgx stdlib, " + perCall
	pqPerCall      = "database/sql, lib/pq, " + perCall
)

func (e *environment) add(name string, c client) {
	e.names, e.clients = append(e.names, name), append(e.clients, c)
}

// facts returns what the results depend on.
func (e *environment) facts(ctx context.Context, o options) ([]fact, error) {
	settings, err := e.settings(ctx)
	return []fact{
		{"date", time.Now().Format(time.DateOnly)},
		{"commit", commit(ctx)},
		{"go", runtime.Version()},
		{"goos", runtime.GOOS},
		{"goarch", runtime.GOARCH},
		{"cpu", cpuModel()},
		{"cpus", strconv.Itoa(runtime.NumCPU())},
		{"postgresql", strconv.Itoa(e.server.Version())},
		{"settings", settings},
		{"store-messages", strconv.Itoa(seedMessages + sharedMessages)},
		{"rounds", strconv.Itoa(o.rounds)},
		{"turn", o.turn.String()},
	}, err
}

// settings returns the settings of the server that are not the default.
func (e *environment) settings(ctx context.Context) (string, error) {
	rows, err := e.admin.Query(ctx, `SELECT name || ' = ' || current_setting(name) FROM pg_settings
WHERE source NOT IN ('default', 'client') AND name NOT LIKE '%direct%' AND name NOT LIKE '%file' AND name !~ 'log|port|listen|socket' ORDER BY 1`)
	if err != nil {
		return "", err
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return strings.Join(lines, "; "), err
}
