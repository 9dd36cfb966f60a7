package mdb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/inspection"
)

// explain returns the error of a call, for users. what says what the call did, such as
// "get messages of stream account-123".
func explain(what string, err error) error {
	switch err.(type) { //nolint:errorlint // a runner returns these as they are, before it sends anything
	case *ArgumentError, *SetupError, *proxiedError:
		return err
	}
	if errors.As(err, new(*conditionError)) {
		return fmt.Errorf("mdb: %s: %w", what, err)
	}
	class := classify(err)
	err = scrub(err)
	switch class {
	case classSetup, classTransient, classUnsendable:
		if setup := explainSetup(err); setup != nil {
			return setup
		}
	case classMoved:
		return &MovedError{what: what, err: err}
	case classAborted:
		return fmt.Errorf("mdb: %s: an earlier error aborted the transaction, roll it back: %w", what, err)
	}
	return fmt.Errorf("mdb: %s: %w", what, err)
}

// setSequence is followed by the statement that corrects the sequence. A shard has positions of its own.
const setSequence = "stop all writers; then run mdb install -shard with its number on a shard, and elsewhere let the table's owner execute "

const installRemedy = "install it with the command mdb install, or with schema.Install of package mdb/schema"

// explainSetup returns a [*SetupError], or nil if the error is none of its cases. It looks
// for SQLSTATEs and names, which are the same in every language of the server.
func explainSetup(err error) error {
	for text, remedy := range unsendableRemedies {
		if errors.As(err, new(*unsendableError)) && strings.Contains(err.Error(), text) {
			return &SetupError{Problem: "pgx sent nothing, because " + text + " is required in the simple protocol", Remedy: remedy, err: err}
		}
	}
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return nil
	}
	text := serverText(pgErr)
	switch {
	case isConnectError(err) && isUnsupportedParameter(pgErr):
		return &SetupError{
			Problem: "the pooler rejects a start-up parameter (" + pgErr.Message + ")",
			Remedy:  "prepare the pool's configuration with Configure(cfg, BehindPooler()), or pass BehindPooler() to Connect (mdb: -pooler), and set the other settings on the role; ListenOn must bypass the pooler",
			err:     err,
		}
	case isConnectError(err) && pgErr.Code == "42704":
		// The name may be a part of a password, after a space that is not in quotes.
		return &SetupError{
			Problem: "the server does not know a parameter of the connection string",
			Remedy:  "leave out parameters of other libraries, such as schema and pgbouncer, and put values with spaces into quotes",
			err:     err,
		}
	case isConnectError(err):
		return nil
	case pgErr.Code == "42501" && (pgErr.Routine == "ExecWithCheckOptions" || pgErr.Routine == "check_enable_rls"):
		return &SetupError{
			Problem: "row-level security is on for the table messages (" + text + ")",
			Remedy:  "let its owner turn it off with ALTER TABLE message_store.messages DISABLE ROW LEVEL SECURITY",
			err:     err,
		}
	case pgErr.Code == "42501":
		return &SetupError{
			Problem: text,
			Remedy:  "grant the role message_store to the role that connects: GRANT message_store TO …; if it is granted, Store.Check reports what is missing",
			err:     err,
		}
	case strings.Contains(pgErr.Message, "message_store_shard."):
		return &SetupError{
			Problem: "a shard lacks the functions that the proxy calls (" + text + ")",
			Remedy:  "connect to the shard and run mdb install -shard with its number; Store.Check reports which shard",
			err:     err,
		}
	case pgErr.Code == "3F000" || strings.Contains(pgErr.Message, "message_store."):
		return &SetupError{
			Problem: "Message DB is not installed in this database, or its version lacks what was called (" + text + ")",
			Remedy:  installRemedy,
			err:     err,
		}
	case pgErr.Code == "42883" || pgErr.Code == "42P01":
		return &SetupError{
			Problem: "the search path does not contain the schema message_store (" + text + ")",
			Remedy:  "prepare the pool's configuration with Configure(cfg, StoreFirst()), or ALTER ROLE … SET search_path = message_store, …",
			err:     err,
		}
	case isGlobalPositionTaken(pgErr):
		return &SetupError{
			Problem: "the sequence of global positions is lower than those in the table (" + text + ")",
			Remedy:  setSequence + inspection.SequenceRemedy,
			err:     err,
		}
	}
	return nil
}

// unsendableRemedies are what pgx requires of a connection in the simple protocol, and how
// to set it.
var unsendableRemedies = map[string]string{
	"standard_conforming_strings=on": "prepare the pool's configuration with Configure, or ALTER ROLE … SET standard_conforming_strings = on",
	"client_encoding=UTF8":           "prepare the pool's configuration with Configure, or ALTER ROLE … SET client_encoding = 'UTF8'",
}

// A conditionError is an error in the condition of a read, whose text may quote the
// condition.
type conditionError struct{ err error } // wraps the server's

func (e *conditionError) Error() string {
	var pgErr *pgconn.PgError
	errors.As(e.err, &pgErr)
	return "the condition is not valid: " + pgErr.Message + " (SQLSTATE " + pgErr.Code + ")"
}

func (e *conditionError) Unwrap() error { return e.err }

// blameCondition returns err, the error of a read with the condition, as a
// [*conditionError] if it is about the condition.
//
// The server found the error when it parsed a query, and the query is that of Message DB's
// function, as it contains the condition. Any other text may quote a message: a function in
// the condition may fail on one, or build a query from it.
func blameCondition(condition string, err error) error {
	var pgErr *pgconn.PgError
	if condition == "" || !errors.As(err, &pgErr) || pgErr.InternalPosition == 0 || !strings.HasPrefix(pgErr.Code, "42") && pgErr.Code != "3F000" {
		return err
	}
	// The position counts characters. The condition may be a word that occurs elsewhere, too.
	position, end := int(pgErr.InternalPosition)-1, 0
	for before, after, ok := strings.Cut(pgErr.InternalQuery, condition); ok; before, after, ok = strings.Cut(after, condition) {
		begin := end + utf8.RuneCountInString(before)
		end = begin + utf8.RuneCountInString(condition)
		// A syntax error may be found after the condition.
		if pgErr.Code == "42601" || begin <= position && position < end {
			return &conditionError{err}
		}
	}
	return err
}

// contextError adds the context's error to err if the context has ended and err does not
// wrap it: pgx reports some of these errors as a network timeout only. A call that has
// succeeded stays a success.
func contextError(ctx context.Context, err error) error {
	if cause := ctx.Err(); err != nil && cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w (%w)", err, cause)
	}
	return err
}
