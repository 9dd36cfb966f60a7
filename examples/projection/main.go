// The example projection keeps a table of balances up to date with the messages of all
// accounts. It stores its position in the same transaction as the balances.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
)

const tables = `
CREATE SCHEMA IF NOT EXISTS bank;
CREATE TABLE IF NOT EXISTS bank.balances (account text PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE IF NOT EXISTS bank.progress (projection text PRIMARY KEY, position bigint NOT NULL);
INSERT INTO bank.progress VALUES ('balances', 0) ON CONFLICT DO NOTHING`

// project handles the new messages of the category and returns their number. It updates
// the position in the transaction that changes the balances, so each message is counted
// exactly once, whatever fails.
func project(ctx context.Context, store *mdb.Store) (n int, err error) {
	err = pgx.BeginFunc(ctx, store.Pool(), func(tx pgx.Tx) error {
		var position int64
		const progress = "SELECT position FROM bank.progress WHERE projection = 'balances' FOR UPDATE"
		if err := tx.QueryRow(ctx, progress).Scan(&position); err != nil {
			return err
		}
		messages, err := store.WithTx(tx).GetCategoryMessages(ctx, "account", mdb.AfterGlobalPosition(position))
		if err != nil {
			return err
		}
		for _, message := range messages {
			var moved struct{ Amount int64 }
			if err := message.Decode(&moved); err != nil {
				return err
			}
			if message.Type == "Withdrawn" {
				moved.Amount = -moved.Amount
			}
			const change = `INSERT INTO bank.balances VALUES ($1, $2)
				ON CONFLICT (account) DO UPDATE SET balance = balances.balance + excluded.balance`
			if _, err := tx.Exec(ctx, change, message.Stream.ID(), moved.Amount); err != nil {
				return err
			}
			position = message.GlobalPosition
		}
		n = len(messages)
		_, err = tx.Exec(ctx, "UPDATE bank.progress SET position = $1 WHERE projection = 'balances'", position)
		return err
	})
	return n, err
}

func run(ctx context.Context, url string) error {
	store, err := mdb.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer store.Close()

	if _, err := store.Pool().Exec(ctx, tables); err != nil {
		return err
	}
	type moved struct {
		Amount int64 `json:"amount"`
	}
	for _, m := range []struct {
		stream  mdb.StreamName
		message mdb.ProposedMessage
	}{
		{"account-1", mdb.NewMessage("Deposited", moved{100})},
		{"account-2", mdb.NewMessage("Deposited", moved{50})},
		{"account-1", mdb.NewMessage("Withdrawn", moved{30})},
	} {
		if _, err := store.WriteMessage(ctx, m.stream, m.message); err != nil {
			return err
		}
		n, err := project(ctx, store)
		if err != nil {
			return err
		}
		fmt.Printf("%d new message\n", n)
	}
	rows, err := store.Pool().Query(ctx, "SELECT account, balance FROM bank.balances ORDER BY account")
	if err != nil {
		return err
	}
	var account string
	var balance int64
	_, err = pgx.ForEachRow(rows, []any{&account, &balance}, func() error {
		fmt.Printf("account %s holds %d\n", account, balance)
		return nil
	})
	return err
}

func main() {
	url := os.Getenv("DATABASE_URL")
	if url == "" {
		log.Fatal("set DATABASE_URL to the URL of a database with Message DB")
	}
	if err := run(context.Background(), url); err != nil {
		log.Fatal(err)
	}
}
