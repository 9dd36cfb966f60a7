package mdb

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// explain returns the error of a call, for users. what says what the call did, such as
// "get messages of stream account-123".
func explain(what string, err error) error {
	switch err.(type) { //nolint:errorlint // a runner returns these as they are, before it sends anything
	case *ArgumentError, *SetupError:
		return err
	}
	class := classify(err)
	err = scrub(err)
	switch class {
	case classSetup:
		if setup := explainSetup(err); setup != nil {
			return setup
		}
	case classAborted:
		return fmt.Errorf("mdb: %s: an earlier error aborted the transaction, roll it back: %w", what, err)
	}
	return fmt.Errorf("mdb: %s: %w", what, err)
}

const installRemedy = "install it with the command mdb install, or with schema.Install of package mdb/schema"

// explainSetup returns a [*SetupError], or nil if the error is none of its cases. It looks
// for SQLSTATEs and names, which are the same in every language of the server.
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
			Problem: "Message DB is not installed in this database, or its version lacks what was called (" + serverText(pgErr) + ")",
			Remedy:  installRemedy,
			err:     err,
		}
	case pgErr.Code == "42883" || pgErr.Code == "42P01":
		return &SetupError{
			Problem: "the search path does not contain the schema message_store (" + serverText(pgErr) + ")",
			Remedy:  "prepare the pool's configuration with Configure, or ALTER ROLE … SET search_path = message_store, …",
			err:     err,
		}
	}
	return nil
}

// contextError adds the context's error to err if the context has ended and err does not
// wrap it: pgx reports some of these errors as a network timeout only.
func contextError(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w (%w)", err, cause)
	}
	return err
}
