package main

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/bench/internal/pgserver"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// A server is a PostgreSQL whose work is counted. Nothing but the measurements happens on it: it does not vacuum by itself, and no
// checkpoint is due during a run.
type server struct {
	*pgtest.Server

	admin      *pgxpool.Pool
	postmaster int
}

func newServer(ctx context.Context, more ...pgtest.Option) (s *server, err error) {
	s = new(server)
	opts := []pgtest.Option{
		pgtest.Setting("fsync", "on"), pgtest.Setting("full_page_writes", "on"), pgtest.Setting("autovacuum", "off"),
		pgtest.Setting("checkpoint_timeout", "1h"), pgtest.Setting("max_wal_size", "16GB"),
	}
	if s.Server, err = pgtest.Start(ctx, append(opts, more...)...); err != nil {
		return nil, err
	}
	if s.admin, err = pgxpool.New(ctx, pgserver.PoolURL(s.TCP("postgres"), 1)); err == nil {
		s.postmaster, err = pgserver.Postmaster(ctx, s.admin)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *server) close() error {
	if s.admin != nil {
		s.admin.Close()
	}
	return s.Stop()
}

// counters are what a server has used so far.
type counters struct {
	wal  int64 // bytes
	xids int64
	cpu  time.Duration
}

// counters reads them without a transaction ID.
func (s *server) counters(ctx context.Context) (c counters, err error) {
	err = s.admin.QueryRow(ctx, "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint").Scan(&c.wal, &c.xids)
	c.cpu = pgserver.CPU(s.postmaster)
	return c, err
}

// create creates a database and sets it up.
func (s *server) create(ctx context.Context, database string, setup func(context.Context, *pgx.Conn) error) error {
	if _, err := s.admin.Exec(ctx, "CREATE DATABASE "+database); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, s.TCP(database))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // what was executed is committed
	return setup(ctx, conn)
}

// ours returns a setup that installs Message DB, and then executes statements.
func ours(statements string) func(context.Context, *pgx.Conn) error {
	return func(ctx context.Context, conn *pgx.Conn) error {
		if err := testdb.InstallOurs(ctx, conn); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, statements)
		return err
	}
}

// connect returns a store of a database, with a connection for each writer.
func (s *server) connect(ctx context.Context, database string, opts ...mdb.ConnectOption) (*mdb.Store, error) {
	return mdb.Connect(ctx, pgserver.PoolURL(s.TCP(database), writers), opts...)
}
