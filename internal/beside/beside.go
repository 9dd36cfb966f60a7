// Package beside gives package consumer what it needs of a mdb.Store, and package mdbweb what it needs of a store
// and of a consumer.Operator, and what these do not export.
package beside

import (
	"context"
	"log/slog"

	"github.com/jackc/pgx/v5"
)

// A Store has functions of a mdb.Store.
type Store struct {
	// Logger is that of the store.
	Logger *slog.Logger
	// Direct reports whether the store uses direct SQL.
	Direct bool
	// Sharded reports whether the database is a proxy of PL/Proxy that has the functions of shards. If the store does not know it yet, it
	// looks at the server. The error is a mdb.SetupError if the proxy lacks the functions, or if the store must not be used.
	Sharded func(ctx context.Context) (bool, error)
	// Connect opens a connection beside the pool, configured as the pool's connections are.
	// The caller closes it.
	Connect func(ctx context.Context) (*pgx.Conn, error)
	// Watch calls f after each notification of a consumer, with its name, and with an empty
	// name if there may have been one of any consumer. f must not block. stop ends the calls.
	// If the store does not listen for notifications, f is never called.
	Watch func(f func(consumer string)) (stop func())
	// ReadOnly is called with the error of a write on a connection of the pool that the server has
	// rejected because it is read-only. It reports whether there are such connections, which it replaces.
	ReadOnly func(ctx context.Context, err error) bool
	// Explain returns the error of a statement as a user should see it, without texts of the
	// server that can quote a row.
	Explain func(what string, err error) error
}

// Explain is that of a Store, and is set by package mdb.
var Explain func(what string, err error) error

// Of is set by package mdb to a func(*mdb.Store) Store, whose argument this package cannot
// name.
var Of any

// The hooks of a Store, which package mdb sets. The types of their arguments are those of package mdb.
var (
	// Handling is a func(s *mdb.Store) (start, end) that returns what to call before and after a handler, with
	// an mdb.Handling, or nil.
	Handling any
	// Observe is a func(s, consumer, live, retry, held) that adds hooks to the callbacks of a consumer.
	Observe any
	// Failed is a func(s) func(mdb.FailedHandling) that returns what to call after a failed attempt, or nil.
	Failed any
)

// What package mdbweb needs.
var (
	// NotifyLike is a func(s *mdb.Store) mdb.StoreOption that lets another store wait for notifications as s does, or with the
	// defaults if s does not wait for them. Package mdb sets it.
	NotifyLike any
	// SelectParked is a
	//
	//	func(o *consumer.Operator, ctx context.Context, consumer string, f *ledger.ParkedFilter,
	//		most func(*ledger.ParkedCount) *int) (ledger.ParkedCount, []consumer.ParkedStream, error)
	//
	// that returns what a filter selects of what is parked. The number of rows that most returns are read, or all if that is nil.
	// Package consumer sets it.
	SelectParked any
)
