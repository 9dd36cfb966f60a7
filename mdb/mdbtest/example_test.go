package mdbtest_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

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

// balances is code of a service, too: its tables, and a handler that keeps them up to date.
type balances struct{ pool *pgxpool.Pool }

func (balances) migrate(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, "CREATE TABLE public.balances (account text PRIMARY KEY, balance bigint NOT NULL)")
	return err
}

func (b balances) handle(ctx context.Context, m mdb.Message) error {
	var deposited struct{ Amount int }
	if err := m.Decode(&deposited); err != nil {
		return err
	}
	_, err := b.pool.Exec(ctx, `INSERT INTO public.balances VALUES ($1, $2)
		ON CONFLICT (account) DO UPDATE SET balance = balances.balance + $2`, m.Stream.ID(), deposited.Amount)
	return err
}

// Databases of this template contain Message DB and the service's tables.
var withBalances = mdbtest.NewTemplate(balances{}.migrate)

func TestBalances(t *testing.T) {
	store := withBalances.Store(t)
	for _, amount := range []int{10, 32} {
		if err := deposit(t.Context(), store, "123", amount); err != nil {
			t.Fatal(err)
		}
	}
	mdbtest.Expect(t, store, "account-123",
		mdb.NewMessage("Deposited", map[string]int{"amount": 10}),
		mdb.NewMessage("Deposited", map[string]int{"amount": 32}))

	mdbtest.CatchUp(t, func(ctx context.Context, live mdb.SubscribeOption) error {
		return store.SubscribeToCategory(ctx, "account", balances{store.Pool()}.handle, live)
	})
	var balance int
	row := store.Pool().QueryRow(t.Context(), "SELECT balance FROM public.balances WHERE account = '123'")
	if err := row.Scan(&balance); err != nil || balance != 42 {
		t.Errorf("got %d, %v, want 42", balance, err)
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

// A template contains a service's own tables; migrate creates them.
func ExampleNewTemplate() {
	template := mdbtest.NewTemplate(balances{}.migrate) // a variable of the test package

	store := template.Store(t)
	if err := deposit(t.Context(), store, "123", 10); err != nil {
		t.Fatal(err)
	}
}

// A handler receives all messages that were written before.
func ExampleCatchUp() {
	store := withBalances.Store(t)
	if err := deposit(t.Context(), store, "123", 10); err != nil {
		t.Fatal(err)
	}

	mdbtest.CatchUp(t, func(ctx context.Context, live mdb.SubscribeOption) error {
		return store.SubscribeToCategory(ctx, "account", balances{store.Pool()}.handle, live)
	})
}

// A stream contains these messages and no others.
func ExampleExpect() {
	store := mdbtest.Store(t)
	if err := deposit(t.Context(), store, "123", 10); err != nil {
		t.Fatal(err)
	}

	mdbtest.Expect(t, store, "account-123", mdb.NewMessage("Deposited", map[string]int{"amount": 10}))
}
