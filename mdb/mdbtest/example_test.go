package mdbtest_test

import (
	"context"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// deposit is what a service might do.
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
