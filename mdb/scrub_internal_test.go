package mdb

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// FuzzErrors checks that errors of servers, proxies and triggers, whatever they say,
// become errors that wrap the server's, and quote nothing of its parts that may contain
// a payload.
func FuzzErrors(f *testing.F) {
	for _, seed := range [][4]string{
		{"P0001", "ERROR", "Wrong expected version: 3 (Stream: account-1, Stream Version: 4)", ""},
		{"P0001", "ERROR", "Wrong expected version: 3 (Stream: x Stream Version: 9), Stream Version: 99999999999999999999)", ""},
		{"23505", "ERROR", "duplicate key", "messages_id"},
		{"23505", "ERROR", "duplicate key", "messages_stream"},
		{"22P02", "ERROR", `invalid input syntax for type json: "{"`, ""},
		{"42883", "ERROR", "function get_stream_messages(unknown) does not exist", ""},
		{"42501", "ERROR", "permission denied for table messages", ""},
		{"25P02", "ERROR", "current transaction is aborted", ""},
		{"57P01", "FATAL", "terminating connection", ""},
		{"", "", "", ""},
		{"0", "PANIC", "\xff\x00", "messages_pkey"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	const canary = "c4n4ry-payload"
	f.Fuzz(func(t *testing.T, code, severity, message, constraint string) {
		server := &pgconn.PgError{
			Code: code, Severity: severity, Message: message, ConstraintName: constraint,
			Detail: canary, Where: canary, InternalQuery: canary,
		}
		err := explain("write to stream account-1", fmt.Errorf("wrapped: %w", server))
		for _, format := range []string{"%v", "%+v", "%q", "%#v"} {
			if text := fmt.Sprintf(format, err); strings.Contains(text, canary) {
				t.Errorf("%s of the error quotes the payload: %s", format, text)
			}
		}
		var found *pgconn.PgError
		if !errors.As(err, &found) || found != server {
			t.Fatalf("got %v, want an error that wraps the server's", err)
		}
		if strings.HasPrefix(code, "22") && len(message) > len("invalid") && strings.Contains(err.Error(), message) {
			t.Errorf("the error of a data exception quotes the server's text: %v", err)
		}
		told := wrongVersion.MatchString(message)
		if severity != "FATAL" && severity != "PANIC" {
			raised := code == "P0001" && told
			unique := code == "23505" && constraint == "messages_stream"
			if got, want := classify(server) == classWrongVersion, raised || unique; got != want {
				t.Errorf("whether it is a WrongVersionError: got %t, want %t", got, want)
			}
		}
		if !told && actualVersion(server) != unknownVersion {
			t.Errorf("got version %d from a text without one", actualVersion(server))
		}
	})
}

var wrongVersion = regexp.MustCompile(`(?s)Wrong expected version: .*Stream Version: (-?[0-9]+)\)$`)

// TestServerText checks what users see of a server's error whose text contains a payload,
// in the words of PostgreSQL's translations, and of one whose text cannot.
func TestServerText(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  pgconn.PgError
		want string
	}{
		{pgconn.PgError{Code: "22P02", Message: `invalid input syntax for type integer: "4711"`}, "invalid text representation"},
		{pgconn.PgError{Code: "22P02", Message: "ungültige Eingabesyntax für Typ integer: »4711«"}, "invalid text representation"},
		{pgconn.PgError{Code: "22P02", Message: "syntaxe en entrée invalide pour le type integer : « 4711 »"}, "invalid text representation"},
		{pgconn.PgError{Code: "22P02", Message: `integer型の入力構文が不正です: "4711"`}, "invalid text representation"},
		{pgconn.PgError{Code: "22XXX", Message: "4711"}, "data exception"},
		{pgconn.PgError{Code: "P0001", Message: "4711"}, "exception raised by a function"},
		{pgconn.PgError{Code: "ZZZZZ", Message: "4711"}, "error"},
		{pgconn.PgError{Code: "XX000", Message: "4711"}, "internal error"},
		{pgconn.PgError{Code: "", Message: "4711"}, "error"},
		{pgconn.PgError{Code: "42601", Message: "4711", InternalQuery: "SELECT 4711"}, "syntax error"},
		{pgconn.PgError{Code: "23514", Message: "4711", Routine: "exec_stmt_raise"}, "integrity constraint violation"},

		{pgconn.PgError{Code: "42601", Message: `syntax error in tsquery: "4711"`}, "syntax error"},
		{pgconn.PgError{Code: "42P01", Message: `relation "4711" does not exist`}, "undefined table"},
		{pgconn.PgError{Code: "42883", Message: `function "4711" does not exist`}, "undefined function"},
		{pgconn.PgError{Code: "3F000", Message: `schema "4711" does not exist`}, "invalid schema name"},
		{pgconn.PgError{Code: "0A000", Message: `cross-database references are not implemented: "4711.a.b"`}, "feature not supported"},
		{pgconn.PgError{Code: "54000", Message: `word is too long in tsquery: "4711"`}, "program limit exceeded"},
		{pgconn.PgError{Code: "58P01", Message: `could not open file "4711" for reading: No such file or directory`}, "system error"},

		{pgconn.PgError{Code: "42601", Message: `syntax error at or near "FORM"`, Position: 1}, `syntax error at or near "FORM"`},
		{pgconn.PgError{Code: "0A000", Message: "cached plan must not change result type", Routine: "RevalidateCachedQuery"}, "cached plan must not change result type"},
		{pgconn.PgError{Code: "54000", Message: `index row size 2736 exceeds btree version 4 maximum 2704 for index "messages_stream"`, ConstraintName: "messages_stream"}, `index row size 2736 exceeds btree version 4 maximum 2704 for index "messages_stream"`},
		{pgconn.PgError{Code: "42501", Message: "permission denied for table messages"}, "permission denied for table messages"},
		{pgconn.PgError{Code: "53100", Message: `could not extend file "base/1/2"`}, `could not extend file "base/1/2"`},
		{pgconn.PgError{Code: "42P05", Message: `prepared statement "x" already exists`}, `prepared statement "x" already exists`},
		{pgconn.PgError{Code: "P0001", Message: "Must be a stream name: account", Routine: "exec_stmt_raise"}, "Must be a stream name: account"},
		{pgconn.PgError{Code: "P0001", Message: "rejected: Consumer group 4711", Routine: "exec_stmt_raise"}, "exception raised by a function"},
	} {
		if got := serverText(&tt.err); got != tt.want {
			t.Errorf("%s %q: got %q, want %q", tt.err.Code, tt.err.Message, got, tt.want)
		}
	}
}
