package mdbweb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/loosescan"
	"github.com/messagedb-go/messagedb/mdb"
)

const (
	// connWait is how long a request waits for a connection.
	connWait = 3 * time.Second
	// requestTime limits all statements of a page together.
	requestTime = 15 * time.Second
)

// errBusy says that all connections are in use.
var errBusy = errors.New("all connections are in use")

// A reader is the handler's own pool, on which transactions are read-only.
type reader struct {
	pool  *pgxpool.Pool
	begin string
	wait  time.Duration // for a connection
}

func newReader(store *mdb.Store, c *config) (*reader, error) {
	cfg := store.Pool().Config()
	cfg.MaxConns = int32(c.queries)
	cfg.MinConns, cfg.MinIdleConns = 0, 0
	cfg.MaxConnIdleTime = time.Minute
	timeout := strconv.FormatInt(c.timeout.Milliseconds(), 10)
	params := maps.Clone(cfg.ConnConfig.RuntimeParams)
	if params == nil {
		params = make(map[string]string)
	}
	if !c.pooler {
		for name := range params {
			switch strings.ToLower(name) { // the server would read another spelling, too
			case "statement_timeout", "default_transaction_read_only":
				delete(params, name)
			}
		}
		params["statement_timeout"] = timeout
		params["default_transaction_read_only"] = "on"
		params["application_name"] = strings.TrimSpace(params["application_name"] + " mdbweb")
	}
	cfg.ConnConfig.RuntimeParams = params
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		return nil, fmt.Errorf("mdbweb: open a pool: %w", err)
	}
	return &reader{pool, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = " + timeout + loosescan.ByIndex, connWait}, nil
}

// read calls f in a read-only transaction, which sees one state of the store.
func (r *reader) read(ctx context.Context, f func(ctx context.Context, tx pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	waits, stop := context.WithTimeout(ctx, r.wait)
	conn, err := r.pool.Acquire(waits)
	stop()
	if err != nil {
		if waits.Err() != nil && ctx.Err() == nil {
			return errBusy
		}
		return err
	}
	defer conn.Release()
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{BeginQuery: r.begin}, func(tx pgx.Tx) error { return f(ctx, tx) })
}
