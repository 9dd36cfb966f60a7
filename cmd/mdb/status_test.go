package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
)

// TestStatusOf checks the exit status of each kind of error.
func TestStatusOf(t *testing.T) {
	t.Parallel()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		err  error
		want int
	}{
		"nil":                          {t.Context(), nil, 0},
		"nil, interrupted":             {ended, nil, 0},
		"any":                          {t.Context(), errors.New("any"), 1},
		"any, interrupted":             {ended, errors.New("any"), 130},
		"usage":                        {t.Context(), usage("wrong"), 2},
		"argument":                     {t.Context(), &mdb.ArgumentError{}, 2},
		"wrong version":                {t.Context(), fmt.Errorf("of many: %w", &mdb.WrongVersionError{}), 3},
		"nothing":                      {t.Context(), nothing("of it"), 4},
		"unknown outcome":              {t.Context(), &mdb.UnknownOutcomeError{}, 5},
		"unknown outcome, interrupted": {ended, &mdb.UnknownOutcomeError{}, 5},
		"duplicate ID":                 {t.Context(), &mdb.DuplicateIDError{}, 1},
		"set-up":                       {t.Context(), &mdb.SetupError{}, 1},
	} {
		if got := statusOf(c.ctx, c.err); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// TestRedact checks that no spelling of a connection string leaves its password, and
// that other texts stay as they are.
func TestRedact(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"cannot use postgres://me:secret@host/db",
		"cannot use postgres://me:sec@ret@host/db",
		"cannot use postgres://me:a secret@host/db",
		"cannot use postgresql:me:secret@host/db",
		`cannot use "host=h password='a \\' secret' dbname=d"`,
		"cannot use host=h PASSWORD = secret",
		"cannot use https://h/?sslpassword=secret",
	} {
		if got := redact(text); strings.Contains(got, "ret") || !strings.HasPrefix(got, "cannot use ") {
			t.Errorf("%q becomes %q", text, got)
		}
	}
	const harmless = `stream account-a@b is at version 3, expected 4 (user=me)`
	if got := redact(harmless); got != harmless {
		t.Errorf("%q becomes %q", harmless, got)
	}
}
