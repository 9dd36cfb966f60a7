package mdb

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// scrub returns err with a text that quotes no part of a row. It wraps the server's error,
// which is unchanged.
func scrub(err error) error {
	var pgErr *pgconn.PgError
	if isConnectError(err) || !errors.As(err, &pgErr) || errors.As(err, new(*serverError)) || errors.As(err, new(*conditionError)) {
		return err
	}
	return &serverError{pgErr, err}
}

// A serverError has the text of a server's error, or a fixed text if that may quote a
// row.
type serverError struct {
	server *pgconn.PgError
	err    error // wraps server
}

func (e *serverError) Error() string {
	text := e.server.Severity + ": " + serverText(e.server) + " (SQLSTATE " + e.server.Code + ")"
	for _, cause := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(e.err, cause) {
			return text + " (" + cause.Error() + ")"
		}
	}
	return text
}

func (e *serverError) Unwrap() error { return e.err }

// serverText returns the server's text if that cannot contain a part of a row, and
// otherwise the meaning of its SQLSTATE.
func serverText(e *pgconn.PgError) string {
	// What a proxy has put before the text of a function of Message DB may be anything, and
	// so may be what an exception of somebody else's contains.
	if e.Code == "P0001" && raisedAt(e.Message) == 0 {
		return e.Message
	}
	if textIsSafe(e) && !isRaised(e) {
		return e.Message
	}
	if meaning := meanings[e.Code]; meaning != "" {
		return meaning
	}
	if len(e.Code) == 5 {
		if meaning := meanings[e.Code[:2]]; meaning != "" {
			return meaning
		}
	}
	return "error"
}

// isRaised reports whether the error comes from a function in a procedural language, or from
// another server through it: these may have any SQLSTATE with any text. Languages that
// PostgreSQL does not include are not recognized.
func isRaised(e *pgconn.PgError) bool {
	file := e.File[strings.LastIndexByte(e.File, '/')+1:]
	switch file {
	case "plperl.c", "pltcl.c", "dblink.c", "connection.c", "plv8.cc":
		return true
	}
	return e.Routine == "exec_stmt_raise" || strings.HasPrefix(file, "plpy_") || strings.HasPrefix(e.Routine, "plproxy_")
}

// textIsSafe reports whether the server's text for the SQLSTATE, in any language, contains
// at most names of objects and settings, sizes, and words of our own statement.
func textIsSafe(e *pgconn.PgError) bool {
	switch e.Code {
	case "23502", "23503", "23505", "23514", "23P01", // constraints: the row is in the detail, not in the text
		"25001", "25006", "25P01", "25P02", "25P03", "25P04",
		"26000", "28000", "28P01", "3D000",
		"40001", "40003", "40P01", "42501", "42P05",
		"54001", "55P03",
		"57014", "57P01", "57P02", "57P03", "57P05":
		return true
	case "0A000":
		return e.Position != 0 || e.Routine == "RevalidateCachedQuery" // a plan that must not change
	case "3F000", "42601", "42703", "42883", "42P01", "42P02", "42P18":
		// Only an error in our own statement has a position in it. Otherwise a function may
		// have built a statement from a row, or a cast to regclass, tsquery or another type
		// with a syntax has failed, and the text quotes what they were given.
		return e.Position != 0
	case "54000":
		return e.ConstraintName != "" // a row is too large for an index; a tsquery is quoted
	case "58P01":
		return false // a function may read the file that a row names
	}
	return strings.HasPrefix(e.Code, "08") || strings.HasPrefix(e.Code, "53") || strings.HasPrefix(e.Code, "58")
}

// meanings are PostgreSQL's names for SQLSTATEs and their classes, from appendix A of its
// manual.
var meanings = map[string]string{
	movedCode: "the shard does not write the category",
	"22":      "data exception",
	"22001":   "string data, right truncation",
	"22003":   "numeric value out of range",
	"22007":   "invalid datetime format",
	"22008":   "datetime field overflow",
	"22012":   "division by zero",
	"22021":   "character not in repertoire",
	"22023":   "invalid parameter value",
	"22030":   "duplicate JSON object key value",
	"22032":   "invalid JSON text",
	"2201W":   "invalid row count in LIMIT clause",
	"22P02":   "invalid text representation",
	"22P03":   "invalid binary representation",
	"22P05":   "untranslatable character",

	"3F000": "invalid schema name",
	"42601": "syntax error",
	"42703": "undefined column",
	"42883": "undefined function",
	"42P01": "undefined table",

	"0A": "feature not supported",
	"21": "cardinality violation",
	"23": "integrity constraint violation",
	"25": "invalid transaction state",
	"27": "triggered data change violation",
	"38": "external routine exception",
	"39": "external routine invocation exception",
	"40": "transaction rollback",
	"42": "syntax error or access rule violation",
	"44": "WITH CHECK OPTION violation",
	"54": "program limit exceeded",
	"55": "object not in prerequisite state",
	"57": "operator intervention",
	"58": "system error",
	"F0": "configuration file error",
	"HV": "foreign data wrapper error",
	"P0": "exception raised by a function",
	"XX": "internal error",
}
