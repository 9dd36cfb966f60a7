// Package mdbtest gives the tests of a program that uses package mdb a store on a
// real Message DB, and helps them to use it: [CatchUp] runs a subscription until it has
// caught up, and [Expect] compares a stream with the messages that it should contain.
//
// It creates databases on the PostgreSQL server at MDB_TEST_DATABASE_URL, whose role
// must be allowed to. Without that variable it starts a server from the PostgreSQL
// programs on the machine and stops it when the test process ends. If there are none,
// the test process exits with a message that says what to install.
//
// On the server at MDB_TEST_DATABASE_URL, the names of the databases begin with mdb_test_.
// A database of a test is dropped when the test is over. A template and a shared database
// remain when the test process ends, and the next process that uses the server drops them.
// If no other process will, drop them with DROP DATABASE.
package mdbtest

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// Store returns a store on a new database with Message DB installed. The store is
// closed and the database dropped when the test is over.
func Store(t testing.TB, opts ...mdb.StoreOption) *mdb.Store {
	t.Helper()
	return connect(t, testdb.New(t), opts)
}

// SharedStore returns a store on a database that the tests of a process share, which
// is faster than creating one. Each test writes to categories from [Category], so that
// tests do not see each other's messages.
func SharedStore(t testing.TB, opts ...mdb.StoreOption) *mdb.Store {
	t.Helper()
	return connect(t, testdb.Shared(t), opts)
}

// A Template is a database with Message DB and what else a program needs in it, such as
// its own tables. Tests receive copies, so the set-up runs once in a process. Create a
// Template with [NewTemplate], as a variable of the test package. It is safe for concurrent
// use.
type Template struct {
	key   string
	setup func(context.Context, string) error
}

var templates atomic.Int64

// NewTemplate returns a template that setup prepares, when the first test asks for a store.
// setup receives a pool on a new database with Message DB installed, and the context of that
// test. It must close other connections that it opens, because PostgreSQL cannot copy a
// database that has connections. If it returns an error, all tests that ask for a store of
// the template fail with it.
func NewTemplate(setup func(ctx context.Context, pool *pgxpool.Pool) error) *Template {
	return &Template{
		key: fmt.Sprintf(" %d", templates.Add(1)),
		setup: func(ctx context.Context, url string) error {
			s, err := mdb.Connect(ctx, url)
			if err != nil {
				return err
			}
			defer s.Close()
			return setup(ctx, s.Pool())
		},
	}
}

// Store is like the function [Store], on a copy of the template.
func (tmpl *Template) Store(t testing.TB, opts ...mdb.StoreOption) *mdb.Store {
	t.Helper()
	return connect(t, testdb.NewFrom(t, tmpl.key, tmpl.setup), opts)
}

// SharedStore is like the function [SharedStore], on a copy that all tests share which
// call this method of the template.
func (tmpl *Template) SharedStore(t testing.TB, opts ...mdb.StoreOption) *mdb.Store {
	t.Helper()
	return connect(t, testdb.SharedFrom(t, tmpl.key, tmpl.setup), opts)
}

func connect(t testing.TB, url string, opts []mdb.StoreOption) *mdb.Store {
	t.Helper()
	s, err := mdb.Connect(context.Background(), url, mdb.StoreOptions(opts))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Category returns a category that no other test uses: name with a random suffix.
func Category(name string) mdb.Category {
	return mdb.Category(name + strings.ReplaceAll(uuid.NewString(), "-", ""))
}
