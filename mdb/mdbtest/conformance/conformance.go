// Package conformance checks that a Message DB behaves like Message DB 1.3.0. It is
// for authors of other servers, of proxies and poolers in front of one, and of other
// ways to install the schema.
//
// [Run] calls each function and reads each view of the schema by plain SQL, in the
// forms in which clients call them, and compares results, errors, locks, privileges
// and the use of indexes. It makes the same calls through package mdb.
package conformance

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
)

// Run checks the Message DB that the stores of open are connected to. It runs a
// subtest for each behaviour, in parallel.
//
// Run calls open for each store that it needs, and open closes the store when the
// test that it receives is over. The role of a store is message_store, a member of
// it, or the owner of the schema. The pool of a store is configured with
// [mdb.Configure], or the role has equivalent settings. The subtests write to
// categories of their own, with random names, and leave nothing else behind.
func Run(t *testing.T, open func(t testing.TB, opts ...mdb.StoreOption) *mdb.Store) {
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

// A suite is one call of Run. Its subtests run in parallel on one pool, so a subtest
// never waits for a second connection of the pool: it takes that one from connect.
type suite struct {
	store *mdb.Store
	plain *mdb.Store // without conditions
}

// connect returns a connection with the settings of the pool that is not part of it.
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
