// Package conformance checks that a Message DB behaves like Message DB 1.3.0. It is
// for authors of other servers, of proxies and poolers in front of one, and of other
// ways to install the schema.
//
// [Run] calls each function and reads each view of the schema by plain SQL, in the
// forms in which clients call them, and compares results, errors, locks, privileges
// and the use of indexes. It makes the same calls through package mdb.
package conformance

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
)

// Run checks the Message DB that the stores of open are connected to. It runs a
// subtest for each behaviour, in parallel, in groups by function; docs/conformance.md
// of the repository lists them.
//
// Run calls open for each store that it needs, and open closes the store when the
// test that it receives is over. The role of a store is message_store, a member of
// it, or the owner of the schema. The pool of a store is configured with
// [mdb.Configure], or the role has equivalent settings. The subtests write to
// categories of their own, with random names, and leave nothing else behind.
func Run(t *testing.T, open func(t testing.TB, opts ...mdb.StoreOption) *mdb.Store) {
	t.Helper()
	run(t, open, func(string, string) {})
}

// sections are the groups of behaviours, in the order of the page.
var sections = []struct {
	name   string
	checks []func(*suite, *testing.T)
}{
	{"stream names", []func(*suite, *testing.T){(*suite).names, (*suite).hash}},
	{"write_message", []func(*suite, *testing.T){
		(*suite).write, (*suite).payloads, (*suite).versions, (*suite).ids, (*suite).rejections,
	}},
	{"get_stream_messages", []func(*suite, *testing.T){
		(*suite).signature, (*suite).reads, (*suite).defaultBatch, (*suite).conditions, (*suite).rejections,
	}},
	{"get_category_messages", []func(*suite, *testing.T){
		(*suite).signature, (*suite).reads, (*suite).defaultBatch, (*suite).groups, (*suite).conditions, (*suite).rejections,
	}},
	{"get_last_stream_message", []func(*suite, *testing.T){(*suite).signature, (*suite).last}},
	{"stream_version", []func(*suite, *testing.T){(*suite).version}},
	{"acquire_lock", []func(*suite, *testing.T){(*suite).locks}},
	{"message_store_version", []func(*suite, *testing.T){(*suite).storeVersion}},
	{"settings for debugging", []func(*suite, *testing.T){(*suite).debug}},
	{"summary views", []func(*suite, *testing.T){(*suite).views}},
	{"privileges", []func(*suite, *testing.T){(*suite).privileges, (*suite).missingPrivileges, (*suite).otherRoles, (*suite).readOnly}},
	{"indexes", []func(*suite, *testing.T){(*suite).indexes}},
	{"package mdb", []func(*suite, *testing.T){
		(*suite).roundTrip, (*suite).clientVersions, (*suite).clientIDs, (*suite).batches, (*suite).writers, (*suite).options, (*suite).sequences, (*suite).selections,
	}},
}

// run calls listed with the names of each section and subtest.
func run(t *testing.T, open func(t testing.TB, opts ...mdb.StoreOption) *mdb.Store, listed func(section, behaviour string)) {
	t.Helper()
	store := open(t, mdb.WithConditions())
	for _, section := range sections {
		t.Run(section.name, func(t *testing.T) {
			t.Parallel()
			s := &suite{store: store, section: section.name, listed: listed}
			for _, check := range section.checks {
				check(s, t)
			}
		})
	}
}

// A suite is one call of Run, in one of its sections. Its subtests run in parallel on
// one pool, so a subtest never waits for a second connection of the pool: it takes
// that one from connect.
type suite struct {
	store   *mdb.Store
	section string // which is the function's name where the section is about one
	listed  func(section, behaviour string)
}

// check runs a subtest in parallel with the others.
func (s *suite) check(t *testing.T, behaviour string, test func(t *testing.T)) {
	t.Helper()
	s.listed(s.section, behaviour)
	t.Run(behaviour, func(t *testing.T) {
		t.Parallel()
		test(t)
	})
}

// A client is a Store or a Tx.
type client interface {
	WriteMessage(ctx context.Context, stream mdb.StreamName, m mdb.ProposedMessage, opts ...mdb.WriteOption) (mdb.Written, error)
	WriteMessages(ctx context.Context, stream mdb.StreamName, ms []mdb.ProposedMessage, opts ...mdb.WriteOption) ([]mdb.Written, error)
	GetStreamMessages(ctx context.Context, stream mdb.StreamName, opts ...mdb.StreamOption) ([]mdb.Message, error)
	GetCategoryMessages(ctx context.Context, category mdb.Category, opts ...mdb.CategoryOption) ([]mdb.Message, error)
	GetLastStreamMessage(ctx context.Context, stream mdb.StreamName, opts ...mdb.LastMessageOption) (mdb.Message, error)
	StreamVersion(ctx context.Context, stream mdb.StreamName) (int64, error)
	MessageStoreVersion(ctx context.Context) (string, error)
}

// onStoreAndTx calls test with the store, and then with a transaction of it that is
// rolled back.
func (s *suite) onStoreAndTx(t *testing.T, test func(how string, c client)) {
	t.Helper()
	test("Store", s.store)
	tx := s.begin(t, pgx.TxOptions{})
	test("Tx", s.store.WithTx(tx))
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
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
