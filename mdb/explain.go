package mdb

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// explain returns the error of a call that did something about a stream, a
// category or nothing in particular.
func explain(what string, err error) error {
	class := classify(err)
	err = scrub(err)
	switch class {
	case classSetup:
		if setup := explainSetup(err); setup != nil {
			return setup
		}
	case classAborted:
		return fmt.Errorf("mdb: %s: an earlier error has ended the transaction, roll it back: %w", what, err)
	}
	return fmt.Errorf("mdb: %s: %w", what, err)
}

// explainSetup tells the cases apart by names, which are the same in every
// language that the server speaks.
func explainSetup(err error) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return nil
	}
	switch {
	case pgErr.Code == "42501":
		return &SetupError{
			Problem: serverText(pgErr),
			Remedy:  "grant the role message_store to the role that connects: GRANT message_store TO …",
			err:     err,
		}
	case pgErr.Code == "3F000" || strings.Contains(pgErr.Message, "message_store."):
		return &SetupError{
			Problem: "Message DB is not installed in this database, or in a version that lacks what was called (" + serverText(pgErr) + ")",
			Remedy:  "install it, for example by the command mdb install, or by schema.Install of package mdb/schema",
			err:     err,
		}
	case pgErr.Code == "42883" || pgErr.Code == "42P01":
		return &SetupError{
			Problem: "the search path does not lead to the schema message_store (" + serverText(pgErr) + ")",
			Remedy:  "let Configure prepare the pool's configuration, or ALTER ROLE … SET search_path = message_store, …",
			err:     err,
		}
	}
	return nil
}

// contextError makes sure that an error that a context's end has caused is also
// the context's error: pgx reports some of them as a network timeout.
func contextError(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w (%w)", err, cause)
	}
	return err
}
