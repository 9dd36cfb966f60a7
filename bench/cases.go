package main

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync/atomic"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx of database/sql
	_ "github.com/lib/pq"              // the driver postgres of database/sql

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// seed is what is in the store before anything is measured.
const (
	seedMessages   = 100_000
	seedCategories = 16
)

// An environment is a server with a seeded store, and every client on it.
type environment struct {
	server  *pgtest.Server
	names   []string
	clients []client
	close   []func()
}

func (e *environment) Close() {
	for _, c := range slices.Backward(e.close) {
		c()
	}
}

// newEnvironment starts a server that keeps its promises (fsync is on) and is
// reached by TCP, as it would be over a network.
func newEnvironment(ctx context.Context) (e *environment, err error) {
	e = new(environment)
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	if e.server, err = pgtest.Start(ctx, pgtest.Setting("fsync", "on"), pgtest.Setting("full_page_writes", "on")); err != nil {
		return nil, err
	}
	e.close = append(e.close, func() { _ = e.server.Stop() })
	url := e.server.TCP("postgres")

	store, err := mdb.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	e.close = append(e.close, store.Close)
	if err := schema.Install(ctx, store.Pool()); err != nil {
		return nil, err
	}
	if err := e.seed(ctx, store); err != nil {
		return nil, err
	}
	floor, err := newFloorClient(ctx, url)
	if err != nil {
		return nil, err
	}
	e.close = append(e.close, func() { _ = floor.conn.Close(context.WithoutCancel(ctx)) })
	direct, err := mdb.New(store.Pool(), mdb.WithDirectSQL())
	if err != nil {
		return nil, err
	}
	e.add("floor (pgconn, rows unread)", floor)
	e.add("mdb", mdbClient{store})
	e.add("mdb, direct SQL", mdbClient{direct})
	e.add("pgx, CollectRows", pgxClient{store.Pool()})
	for _, driver := range []struct{ name, registered string }{{"lib/pq", "postgres"}, {"pgx stdlib", "pgx"}} {
		for _, once := range []bool{true, false} {
			db, err := sql.Open(driver.registered, url)
			if err != nil {
				return nil, err
			}
			e.close = append(e.close, func() { _ = db.Close() })
			c, err := newSQLClient(ctx, db, once)
			if err != nil {
				return nil, err
			}
			how := "a Prepare per call"
			if once {
				how = "prepared once"
			}
			e.add(fmt.Sprintf("database/sql, %s, %s", driver.name, how), c)
		}
	}
	return e, nil
}

func (e *environment) add(name string, c client) {
	e.names, e.clients = append(e.names, name), append(e.clients, c)
}

func (e *environment) seed(ctx context.Context, store *mdb.Store) error {
	const insert = `INSERT INTO message_store.messages (stream_name, position, type, data, metadata)
SELECT 'seed' || i % $2 || '-' || i / $2 % 100, i / $2 / 100, 'Deposited', $3::jsonb, '{"correlationStreamName": "transfer-1"}'
FROM generate_series(0, $1::int - 1) AS i`
	if _, err := store.Pool().Exec(ctx, insert, seedMessages, seedCategories, payload); err != nil {
		return err
	}
	_, err := store.Pool().Exec(ctx, "VACUUM ANALYZE message_store.messages")
	return err
}

// cases are the rows of the table. Writes go to streams of their own, so that
// no client's streams are longer than another's.
func (e *environment) cases() []benchCase {
	var streams atomic.Int64
	write := func(c client, i int) func(context.Context) error {
		return func(ctx context.Context) error {
			return c.write(ctx, fmt.Sprintf("write%d-%d", i, streams.Add(1)%1000))
		}
	}
	batch := func(n int) func(client, int) func(context.Context) error {
		return func(c client, i int) func(context.Context) error {
			return func(ctx context.Context) error {
				return c.batch(ctx, fmt.Sprintf("batch%d-%d", i, streams.Add(1)), n)
			}
		}
	}
	page := func(n int) func(client, int) func(context.Context) error {
		position, size := int64(seedMessages/2), n
		if n == 0 { // at the end, as a subscription that has caught up
			position, size = 1<<40, mdb.DefaultBatchSize
		}
		return func(c client, _ int) func(context.Context) error {
			return func(ctx context.Context) error {
				got, err := c.category(ctx, "seed3", position, size)
				if err == nil && got != n {
					err = fmt.Errorf("%d messages, want %d", got, n)
				}
				return err
			}
		}
	}
	newCase := func(name string, messages int, op func(client, int) func(context.Context) error) benchCase {
		c := benchCase{name: name, messages: messages}
		for i := range e.clients {
			c.rivals = append(c.rivals, rival{e.names[i], op(e.clients[i], i)})
		}
		return c
	}
	return []benchCase{
		newCase("Write 1 message", 1, write),
		newCase("Write 100 messages to one stream, atomically", 100, batch(100)),
		newCase("Read an empty page of a category", 0, page(0)),
		newCase("Read a page of 10 messages of a category", 10, page(10)),
		newCase("Read a page of 1,000 messages of a category", 1000, page(1000)),
	}
}
