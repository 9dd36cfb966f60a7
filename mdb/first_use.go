package mdb

import (
	"context"
	"errors"
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
// It looks on the connection, or in the transaction, of the call, and assumes that the
// others are configured alike. Concurrent first calls may each look.
type firstUse struct {
	done atomic.Bool // whether a look has found no problem
}

// A querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// over reports whether there is nothing left to look at. It allocates nothing.
func (u *firstUse) over() bool { return u == nil || u.done.Load() }

// acquire returns a connection of the pool on which the store may be used.
func (u *firstUse) acquire(ctx context.Context, pool *pgxpool.Pool, mode pgx.QueryExecMode) (*pgxpool.Conn, error) {
	conn, err := acquire(ctx, pool)
	if err != nil {
		return nil, err
	}
	if u.over() {
		return conn, nil
	}
	if err := u.check(ctx, conn.Conn(), lookMode(mode)); err != nil {
		conn.Release()
		return nil, contextError(ctx, err)
	}
	return conn, nil
}

// check returns an error if the store must not be used, or if it failed to find out. The
// call's own statement was not sent.
func (u *firstUse) check(ctx context.Context, q querier, mode []any) error {
	path, err := lookAtPath(ctx, q, mode...)
	switch {
	case err == nil:
		if err := path.problem(); err != nil {
			return err
		}
		// Functions that are not there yet may be installed later.
		if path.installed {
			u.done.Store(true)
		}
		return nil
	case cannotLook(err):
		u.done.Store(true)
		if _, inTx := q.(txSession); inTx {
			return err // which has aborted the transaction
		}
		return nil
	}
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && !isFatal(pgErr) || errors.As(err, new(*unsendableError)) {
		return err
	}
	return &brokenError{err: err}
}

// cannotLook reports whether the server will never answer, because it is a proxy without
// the catalogues, or does not let the role read them.
func cannotLook(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || isFatal(pgErr) {
		return false
	}
	class := pgErr.Code[:min(2, len(pgErr.Code))]
	return class == "42" || class == "0A"
}

// A pathState says whether the installed functions depend on the search path, and where it
// leads.
type pathState struct {
	installed bool   // whether the role can see functions of Message DB
	dependent bool   // whether they depend on the search path
	first     bool   // whether the path begins with message_store
	hidden    bool   // whether it finds another table messages first
	others    string // functions that the path finds, and that fit some calls better
	path      string
	role      string // the role whose settings apply, quoted
}

// pathInspection reads only catalogues. It is sent without being prepared, because it is
// used once.
const pathInspection = `
WITH
	store AS (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'message_store' AND pg_catalog.has_schema_privilege(oid, 'USAGE')),
	path AS (SELECT nspname, n FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS s(nspname, n) WHERE nspname <> 'pg_catalog')
SELECT
	EXISTS (SELECT FROM pg_catalog.pg_proc AS p JOIN store ON p.pronamespace = store.oid WHERE p.proname = 'write_message'),
	EXISTS (` + searchpath.Dependent + `),
	coalesce((SELECT nspname = 'message_store' FROM path ORDER BY n LIMIT 1), false),
	EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN store ON c.relnamespace = store.oid
		WHERE c.relname = 'messages' AND NOT pg_catalog.pg_table_is_visible(c.oid)),
	-- Of Message DB's functions with one argument, which is a varchar, a text fits these better.
	coalesce((SELECT pg_catalog.string_agg(DISTINCT nspname || '.' || p.proname, ', ')
		FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS ns ON ns.oid = p.pronamespace JOIN path USING (nspname)
		WHERE nspname <> 'message_store' AND p.proargtypes = ARRAY['pg_catalog.text'::pg_catalog.regtype::oid]::oidvector
			AND p.proname IN ('acquire_lock', 'cardinal_id', 'category', 'hash_64', 'id', 'is_category', 'stream_version')), ''),
	pg_catalog.current_setting('search_path'),
	pg_catalog.quote_ident(session_user)`

// lookMode returns the argument with which pgx does not prepare the statement.
func lookMode(mode pgx.QueryExecMode) []any {
	if mode != pgx.QueryExecModeSimpleProtocol {
		mode = pgx.QueryExecModeExec
	}
	return []any{mode}
}

func lookAtPath(ctx context.Context, q querier, mode ...any) (pathState, error) {
	var s pathState
	rows, err := q.Query(ctx, pathInspection, mode...)
	err = readAll(rows, notSent(q, err), one(&s.installed, &s.dependent, &s.first, &s.hidden, &s.others, &s.path, &s.role))
	return s, err
}

// problem returns a [*SetupError] if the path leads the functions astray.
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
