package consumer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// An oldSchemaError says that the schema of consumers has a version that is too old.
type oldSchemaError struct{ version int }

func (e *oldSchemaError) Error() string {
	return fmt.Sprintf("the schema message_store_consumers has version %d, and this program needs version %d", e.version, schema.ConsumersVersion)
}

const installRemedy = "install it with the command mdb install -consumers, or with schema.InstallConsumers of package mdb/schema"

// fatal returns the error with which Run ends if the first join fails with err, or nil if it
// is to be retried.
func fatal(name string, explain func(what string, err error) error, err error) error {
	var old *oldSchemaError
	if errors.As(err, &old) {
		return &mdb.SetupError{Problem: old.Error(), Remedy: installRemedy}
	}
	if errors.Is(err, context.DeadlineExceeded) || mdb.IsTransient(err) {
		return nil
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && !strings.Contains(pgErr.Message, "message_store_shard.") {
		switch pgErr.Code {
		case "3F000", "42883":
			return &mdb.SetupError{Problem: "the schema message_store_consumers is missing or incomplete", Remedy: installRemedy}
		case "42P01":
			return &mdb.SetupError{
				Problem: "the store has no table message_store.messages, which consumers read: Message DB is not installed",
				Remedy:  "give the consumer a store whose pool leads to the database with its messages",
			}
		case "42501":
			return &mdb.SetupError{
				Problem: "the role may not use the schema message_store_consumers",
				Remedy:  "grant the role message_store to it",
			}
		case ledger.Conflict:
			return &mdb.SetupError{Problem: pgErr.Message, Remedy: "run it as it was, or give the consumer another name"}
		case ledger.NoConsumer:
			return &mdb.SetupError{Problem: pgErr.Message, Remedy: "run the consumer once"}
		case ledger.Partitions:
			return &mdb.SetupError{
				Problem: pgErr.Message,
				Remedy:  "pass that number to WithPartitions, or leave the option out; the command mdb consumers resize changes the number",
			}
		}
	}
	return explain("join the consumer "+name, err)
}

var errStateOnProxy = &mdb.SetupError{
	Problem: "write_message is a function of PL/Proxy, and a proxy cannot have the state of a consumer",
	Remedy:  "keep the state on one of the shards, with StateIn, or give the consumer a store of the shard that has its categories",
}

// onProxy returns the error of a consumer whose state would be on a proxy, which may be why err has occurred.
func (r *running) onProxy(ctx context.Context, err error) error {
	switch codeOf(err) {
	case "3F000", "42883", "42P01":
	default:
		return err
	}
	if r.config.elsewhere {
		return err
	}
	if sharded, wrong := besideOf(r.store).Sharded(ctx); sharded || errors.As(wrong, new(*mdb.SetupError)) {
		return errStateOnProxy
	}
	return err
}
