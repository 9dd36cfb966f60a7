package mdb

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// FuzzErrors has errors of servers, proxies and triggers say anything at all. What is
// made of them is an error that still is the server's, and quotes nothing of its parts
// that may hold a payload.
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
		if strings.Contains(message, canary) {
			return
		}
		err := explain("write to stream account-1", fmt.Errorf("wrapped: %w", server))
		for _, format := range []string{"%v", "%+v", "%q", "%#v"} {
			if text := fmt.Sprintf(format, err); strings.Contains(text, canary) {
				t.Errorf("%s of the error holds the payload: %s", format, text)
			}
		}
		var found *pgconn.PgError
		if !errors.As(err, &found) || found.Code != code {
			t.Fatalf("%v is not the server's error any more", err)
		}
		for part, text := range map[string]string{"detail": found.Detail, "where": found.Where, "internal query": found.InternalQuery} {
			if text != "" {
				t.Errorf("the %s is %q", part, text)
			}
		}
		if strings.HasPrefix(code, "22") && strings.Contains(found.Message, `"`) {
			t.Errorf("a data exception quotes: %s", found.Message)
		}
		told := wrongVersion.MatchString(message)
		if severity != "FATAL" && severity != "PANIC" {
			raised := code == "P0001" && told
			unique := code == "23505" && constraint == "messages_stream"
			if got, want := classify(server) == classWrongVersion, raised || unique; got != want {
				t.Errorf("it is a wrong version: %t, want %t", got, want)
			}
		}
		if !told && actualVersion(server) != unknownVersion {
			t.Errorf("a version %d out of nothing", actualVersion(server))
		}
	})
}

var wrongVersion = regexp.MustCompile(`(?s)Wrong expected version: .*Stream Version: (-?[0-9]+)\)$`)
