package conformance_test

import (
	"os"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest/conformance"
)

var t *testing.T // the argument of the test function that the example stands for

// A test of the Message DB at DATABASE_URL.
func ExampleRun() {
	conformance.Run(t, func(t testing.TB, opts ...mdb.StoreOption) *mdb.Store {
		store, err := mdb.Connect(t.Context(), os.Getenv("DATABASE_URL"), mdb.StoreOptions(opts))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(store.Close)
		return store
	})
}
