package mdb

import (
	"context"
	"errors"
	"maps"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/searchpath"
)

// A firstUse looks at the server before the first statement of a store. Message DB's own
// functions write to, and lock by, whatever the search path finds first under the names of
// its table and functions, and report success. So nothing must be sent before it is known
// that they find Message DB's.
//
// It looks on the connection, or in the transaction, of the call, and assumes that the other
// connections of the pool are configured alike. It looks again on a connection with another
// configuration, which a transaction may be on. Concurrent first calls may each look.
type firstUse struct {
	done      atomic.Bool     // whether a look has found no problem
	dependent atomic.Bool     // whether the functions depend on the search path
	kind      atomic.Int32    // the proxyKind
	config    *pgx.ConnConfig // of the pool's connections
	direct    bool            // whether the store uses direct SQL
	replica   bool            // whether the store has a replica
	watcher   *watcher
}

// A querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// over reports whether there is nothing left to look at. It allocates nothing.
func (u *firstUse) over() bool { return u == nil || u.done.Load() }

// proxy returns what the database is known to be.
func (u *firstUse) proxy() proxyKind {
	if u == nil {
		return noProxy
	}
	return proxyKind(u.kind.Load())
}

const pathKey = traceKey + " search path"

// overOn reports whether there is nothing left to look at on the connection of a transaction,
// which is nil if it is not known, and if so, what the database is there.
func (u *firstUse) overOn(conn *pgx.Conn) (over bool, proxy proxyKind) {
	switch {
	case !u.over():
		return false, noProxy
	case u == nil:
		return true, noProxy
	case conn == nil:
		return !u.dependent.Load(), u.proxy()
	}
	data := conn.PgConn().CustomData()
	if data[pathKey] == nil && u.alike(conn.Config()) {
		data[pathKey] = u.proxy()
	}
	proxy, over = data[pathKey].(proxyKind)
	return over, proxy
}

// alike reports whether a connection with the configuration has the search path of the
// pool's connections.
func (u *firstUse) alike(cfg *pgx.ConnConfig) bool {
	return cfg.Host == u.config.Host && cfg.Port == u.config.Port && cfg.Database == u.config.Database &&
		cfg.User == u.config.User && maps.Equal(cfg.RuntimeParams, u.config.RuntimeParams)
}

// acquire returns a connection of the pool on which the store may be used.
func (u *firstUse) acquire(ctx context.Context, pool *pgxpool.Pool, mode pgx.QueryExecMode) (*pgxpool.Conn, error) {
	conn, err := acquire(ctx, pool)
	if err != nil {
		return nil, err
	}
	if u.over() {
		return conn, nil
	}
	usable := false
	defer func() {
		if !usable { // also if a tracer of pgx panics
			conn.Release()
		}
	}()
	var path pathState
	err = u.watcher.watch(ctx, conn.Conn(), func() (err error) {
		path, err = u.check(ctx, conn.Conn(), lookMode(mode))
		return err
	})
	if err != nil {
		return nil, contextError(ctx, err)
	}
	u.found(path)
	usable = true
	return conn, nil
}

// check returns an error if the store must not be used, or if it failed to find out. The
// call's own statement was not sent.
func (u *firstUse) check(ctx context.Context, q querier, mode []any) (pathState, error) {
	path, err := lookAtPath(ctx, q, mode...)
	if err == nil {
		err = u.problem(&path)
		return path, err
	}
	if cannotLook(err) {
		return pathState{installed: true}, nil
	}
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && !isFatal(pgErr) || errors.As(err, new(*unsendableError)) {
		return path, err
	}
	return path, &brokenError{err: err}
}

// problem returns a [*SetupError] if the store must not be used.
func (u *firstUse) problem(path *pathState) error {
	if path.proxied && u.direct {
		return errProxiedDirect
	}
	if path.proxied && u.replica {
		return errProxiedReplica
	}
	return path.problem()
}

// found records what a look has found. Functions that are not there yet may be installed
// later.
func (u *firstUse) found(path pathState) {
	if path.dependent {
		u.dependent.Store(true)
	}
	u.kind.Store(int32(proxyKindOf(&path)))
	u.done.Store(path.installed && u.problem(&path) == nil)
}

// checkTx is like check, in a transaction, which stays usable if the server does not answer.
func (u *firstUse) checkTx(ctx context.Context, tx txSession, mode []any) (proxy proxyKind, err error) {
	if _, err := tx.Exec(ctx, savepoint.sql); err != nil {
		return noProxy, err
	}
	path, err := u.check(ctx, tx, mode)
	if _, undoErr := tx.Exec(ctx, undoSavepoint); err == nil {
		err = undoErr
	}
	if err != nil {
		return noProxy, err
	}
	proxy = proxyKindOf(&path)
	if tx.conn != nil {
		tx.conn.PgConn().CustomData()[pathKey] = proxy
	}
	if tx.conn == nil || u.alike(tx.conn.Config()) {
		u.found(path)
	}
	return proxy, nil
}

// errNoAnswer is the error of a look without a row.
var errNoAnswer = errors.New("the server has answered the look at the search path without a row")

// cannotLook reports whether the server will never answer, because it is a proxy without
// the catalogues, or does not let the role read them.
func cannotLook(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return errors.Is(err, errNoAnswer) || errors.As(err, new(*unreadableError))
	}
	class := pgErr.Code[:min(2, len(pgErr.Code))]
	return !isFatal(pgErr) && (class == "42" || class == "0A")
}

// A pathState says whether the installed functions depend on the search path, and where it
// leads.
type pathState struct {
	installed bool   // whether the role can see functions of Message DB
	proxied   bool   // whether write_message is PL/Proxy's
	whole     bool   // whether so are the functions of shards, and the role may call them
	dependent bool   // whether they depend on the search path
	first     bool   // whether the path begins with message_store
	hidden    bool   // whether it finds another table messages first
	others    string // functions that the path finds, and that fit some calls better
	path      string
	role      string // the role whose settings apply, quoted
}

// lookMode returns the argument with which pgx does not prepare the statement.
func lookMode(mode pgx.QueryExecMode) []any {
	if mode != pgx.QueryExecModeSimpleProtocol {
		mode = pgx.QueryExecModeExec
	}
	return []any{mode}
}

// read reads the columns of searchpath.Inspection.
func (s *pathState) read() func(pgx.Rows) error {
	return one(&s.installed, &s.proxied, &s.whole, &s.dependent, &s.first, &s.hidden, &s.others, &s.path, &s.role)
}

func lookAtPath(ctx context.Context, q querier, mode ...any) (pathState, error) {
	var s pathState
	rows, err := q.Query(ctx, searchpath.Inspection, mode...)
	err = readAll(rows, notSent(q, err), s.read())
	if err == nil && s.role == "" {
		err = errNoAnswer
	}
	return s, err
}

// problem returns a [*SetupError] if the functions do not find Message DB's objects by the path.
func (s *pathState) problem() error {
	const pin = "let the owner of the functions call schema.PinSearchPath, or mdb install -pin-search-path"
	switch {
	case !s.installed || !s.dependent:
		return nil
	case s.first && !s.hidden && s.others == "":
		return nil
	case s.first && !s.hidden:
		return &SetupError{
			Problem: "the installed functions of Message DB depend on the search path, " + s.path +
				", which contains other functions with their names: " + s.others,
			Remedy: pin + ", or drop these functions",
		}
	}
	what := ", which does not begin with message_store"
	if s.first {
		what = ", which finds another table messages first"
	}
	return &SetupError{
		Problem: "the installed functions of Message DB depend on the search path, " + s.path + what,
		Remedy: "prepare the pool's configuration with Configure(cfg, StoreFirst()), or " + pin +
			", or, behind a pooler, ALTER ROLE " + s.role + " SET search_path = " + storeFirst(s.path),
	}
}
