// Package mdbtest is for the tests of programs that use package mdb: a store to
// test against, and the conformance suite.
//
// The PostgreSQL that it uses is the one at MDB_TEST_DATABASE_URL, whose role
// must be able to create databases, or else one that it starts from the programs
// on the machine and that ends with the test process. If there is neither, the
// test process ends with a line that says what to install.
package mdbtest

import (
	"context"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// Store returns a store on a database of the test's own, with Message DB
// installed. Both are gone when the test is over.
func Store(t testing.TB, opts ...mdb.StoreOption) *mdb.Store {
	t.Helper()
	return connect(t, testdb.New(t), opts)
}

// SharedStore returns a store on a database that the tests of a process share,
// which saves making one. They keep apart by using categories from [Category].
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

// Category returns a category that no other test uses: the name with a random
// suffix.
func Category(name string) mdb.Category {
	return mdb.Category(name + strings.ReplaceAll(uuid.NewString(), "-", ""))
}
