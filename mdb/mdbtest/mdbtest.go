// Package mdbtest gives the tests of a program that uses package mdb a store on a
// real Message DB.
//
// It creates databases on the PostgreSQL server at MDB_TEST_DATABASE_URL, whose role
// must be allowed to. Without that variable it starts a server from the PostgreSQL
// programs on the machine and stops it when the test process ends. If there are none,
// the test process exits with a message that says what to install.
package mdbtest

import (
	"context"
	"strings"
	"testing"

	"github.com/google/uuid"

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

func connect(t testing.TB, url string, opts []mdb.StoreOption) *mdb.Store {
	t.Helper()
	s, err := mdb.Connect(context.Background(), url, opts...)
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
