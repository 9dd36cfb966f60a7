package mdbtest

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
)

// Conformance tests that a server, the way to it and package mdb together do what
// Message DB 1.3.0 does: each of its functions and views by plain SQL, and where
// mdb has a method for it by that. It runs a subtest for each behaviour, in
// parallel.
//
// It calls open for the stores it needs; open closes them when the test that it is
// given is over, as [Store] does. A store's role is message_store, a member of it,
// or an owner, and its connections are prepared by [mdb.Configure] or a role's
// settings that do the same. The suite writes to categories of its own and leaves
// nothing else behind.
func Conformance(t *testing.T, open func(t testing.TB, opts ...mdb.StoreOption) *mdb.Store) {
	t.Helper()
	s := &suite{
		store: open(t, mdb.WithConditions()),
		plain: open(t),
	}
	s.names(t)
	s.lock(t)
	s.write(t)
	s.debug(t)
	s.errors(t)
	s.read(t)
	s.batches(t)
	s.groups(t)
	s.conditions(t)
	s.last(t)
	s.views(t)
	s.privileges(t)
	s.plans(t)
	s.put(t)
	s.get(t)
}

// A suite is one run of Conformance. Its subtests run in parallel on one pool, so
// none holds a connection of it while it waits for another: what needs two takes
// one from connect.
type suite struct {
	store *mdb.Store
	plain *mdb.Store // without conditions
}

// connect returns a connection like the pool's, beside it.
func (s *suite) connect(t testing.TB, change func(*pgx.ConnConfig)) *pgx.Conn {
	t.Helper()
	cfg := s.store.Pool().Config()
	if cfg.BeforeConnect != nil {
		if err := cfg.BeforeConnect(t.Context(), cfg.ConnConfig); err != nil {
			t.Fatal(err)
		}
	}
	if change != nil {
		change(cfg.ConnConfig)
	}
	conn, err := pgx.ConnectConfig(t.Context(), cfg.ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, conn)
	return conn
}

// begin returns a transaction that is rolled back at the end of the test.
func (s *suite) begin(t testing.TB, opts pgx.TxOptions) pgx.Tx {
	t.Helper()
	tx, err := s.store.Pool().BeginTx(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	rollbackAfter(t, tx)
	return tx
}
