package mdbtest_test

import (
	"context"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// deposit is code of a service.
func deposit(ctx context.Context, store *mdb.Store, account string, amount int) error {
	data := map[string]int{"amount": amount}
	_, err := store.WriteMessage(ctx, mdb.Category("account").Stream(account), mdb.NewMessage("Deposited", data))
	return err
}

func TestDeposit(t *testing.T) {
	store := mdbtest.Store(t)
	if err := deposit(t.Context(), store, "123", 10); err != nil {
		t.Fatal(err)
	}
	last, err := store.GetLastStreamMessage(t.Context(), "account-123")
	if err != nil || last.Type != "Deposited" {
		t.Errorf("got %v, %v, want a deposit", last.Type, err)
	}
}

var t *testing.T // the argument of the test function that an example stands for

// A test of its own database: deposit is the function that it tests.
func Example() {
	store := mdbtest.Store(t)

	if err := deposit(t.Context(), store, "123", 10); err != nil {
		t.Fatal(err)
	}

	last, err := store.GetLastStreamMessage(t.Context(), "account-123")
	if err != nil || last.Type != "Deposited" {
		t.Errorf("got %v, %v, want a deposit", last.Type, err)
	}
}

// Tests that share a database write to categories of their own, and can run in
// parallel.
func ExampleSharedStore() {
	t.Parallel()
	store := mdbtest.SharedStore(t)
	stream := mdbtest.Category("account").Stream("123")

	_, err := store.WriteMessage(t.Context(), stream, mdb.NewMessage("Opened", nil), mdb.ExpectNoStream())
	if err != nil {
		t.Fatal(err)
	}
}
