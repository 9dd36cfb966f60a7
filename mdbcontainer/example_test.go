package mdbcontainer_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"testing"

	"github.com/testcontainers/testcontainers-go"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdbcontainer"
)

// shared is the container of the package's tests.
var shared *mdbcontainer.Container

// One container for all tests of a package is started in TestMain. TestMain itself
// calls os.Exit with what this returns, because os.Exit leaves no time for a defer.
func Example_testMain() {
	testMain := func(m *testing.M) int {
		ctx := context.Background()
		c, err := mdbcontainer.Run(ctx, image, mdbcontainer.WithNotify())
		defer testcontainers.TerminateContainer(c)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if err := c.Snapshot(ctx); err != nil { // of the empty store
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		shared = c
		return m.Run()
	}
	_ = func(m *testing.M) { os.Exit(testMain(m)) }
}

// A test that needs the store as it was has it restored when it is over.
func Example_restore() {
	_ = func(t *testing.T) {
		t.Cleanup(func() {
			if err := shared.Restore(context.Background()); err != nil {
				t.Error(err)
			}
		})
		store, err := shared.Store(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(store.Close) // which comes before Restore
	}
}

// A test may have a container of its own, here one with tables that the service keeps
// beside Message DB.
func Example_perTest() {
	_ = func(t *testing.T) {
		c, err := mdbcontainer.Run(t.Context(), "postgres:17",
			mdbcontainer.WithInitScripts("testdata/tables.sql"),
			mdbcontainer.WithSetting("max_connections", "500"))
		testcontainers.CleanupContainer(t, c)
		if err != nil {
			t.Fatal(err)
		}
	}
}

func ExampleRun() {
	ctx := context.Background()
	c, err := mdbcontainer.Run(ctx, image)
	defer testcontainers.TerminateContainer(c)
	if err != nil {
		log.Print(err)
		return
	}
	store, err := c.Store(ctx)
	if err != nil {
		log.Print(err)
		return
	}
	defer store.Close()
	written, err := store.WriteMessage(ctx, "account-123", mdb.NewMessage("Deposited", nil))
	fmt.Println(written.Position, err)
	// Output: 0 <nil>
}
