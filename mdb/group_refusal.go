package mdb

import (
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// The statement of a group does not fail if a write of it does, because that would fail the
// other writes. So these errors are made as the server makes them for a write by itself.

// takenID returns the error of a write of which an ID is taken.
func takenID() error {
	return &pgconn.PgError{
		Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "23505",
		Message:    `duplicate key value violates unique constraint "messages_id"`,
		SchemaName: "message_store", TableName: "messages", ConstraintName: "messages_id",
	}
}

// wrongVersion returns the error of a write to a stream that is not as expected.
func (w *proposedWrite) wrongVersion(actual int64) error {
	expected := unknownVersion
	if w.expected != nil {
		expected = *w.expected
	}
	return &pgconn.PgError{
		Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "P0001",
		Message: fmt.Sprintf("%s%d (Stream: %s, Stream Version: %d)", versionText, expected, w.stream, actual),
	}
}
