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

// TestMain starts one container for all tests of a package. The body is a function of its
// own, because os.Exit does not run deferred calls.
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

// A test restores the database afterwards, for the tests that follow.
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
		t.Cleanup(store.Close) // runs before Restore
	}
}

// A test starts its own container, here with the service's tables beside Message DB.
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
