package mdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/puddle/v2"
)

// TestIsTransient checks the errors of this package, of the server and of connections, also
// wrapped by a handler.
func TestIsTransient(t *testing.T) {
	t.Parallel()
	server := func(code string) error { return &pgconn.PgError{Severity: "ERROR", Code: code} }
	fatal := func(code string) error { return &pgconn.PgError{Severity: "FATAL", Code: code} }
	passing := server("40001")
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("a mistake of the program's"), false},
		{context.Canceled, false},
		{fmt.Errorf("timeout: %w", context.DeadlineExceeded), false},
		{fmt.Errorf("%w (%w)", passing, context.Canceled), false},
		{io.ErrUnexpectedEOF, true},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, true},
		{pgconn.ErrConnClosed, true},
		{&acquireError{errors.New("a hook's reason")}, true},
		{&acquireError{context.DeadlineExceeded}, false},
		{&acquireError{puddle.ErrClosedPool}, false},
		{passing, true},
		{server("40P01"), true},
		{server("55P03"), true},
		{server("53300"), true},
		{server("57014"), true},
		{fatal("57P01"), true},
		{server("25006"), true},
		{server("26000"), true},
		{server("25P02"), false},
		{server("23505"), false},
		{server("22P02"), false},
		{server("42P01"), false},
		{server("XX000"), false},
		{pgx.ErrNoRows, false},
		{pgx.ErrTxClosed, false},
		{&ArgumentError{}, false},
		{ErrNoMessage, false},
		{&WrongVersionError{err: passing}, false},
		{&DuplicateIDError{err: passing}, false},
		{&SetupError{err: passing}, false},
		{&UnknownOutcomeError{err: io.EOF}, false},
		{&SkippedError{err: fmt.Errorf("mdb: %w", passing)}, true},
		{&SkippedError{err: &WrongVersionError{err: passing}}, false},
		{&HandlerError{err: passing}, true},
		{&HandlerError{err: errors.New("cannot handle it")}, false},
		{&HandlerError{err: &PanicError{Value: passing}}, false},
		{&unsendableError{errors.New("cannot encode")}, false},
		{&unreadableError{io.EOF}, false},
	} {
		if got := IsTransient(tt.err); got != tt.want {
			t.Errorf("%T %v: got %t, want %t", tt.err, tt.err, got, tt.want)
		}
	}
}

// TestTooManyParameters checks that pgx still reports what it cannot encode like a failure
// to write, with the texts that isTooLarge knows. An update of pgx may change them.
func TestTooManyParameters(t *testing.T) {
	t.Parallel()
	frontend := pgproto3.NewFrontend(nil, io.Discard)
	frontend.SendBind(&pgproto3.Bind{Parameters: make([][]byte, 1<<16)})
	err := frontend.Flush()
	if err == nil || !pgconn.SafeToRetry(err) || !isTooLarge(err) || classify(err) != classUnsendable {
		t.Errorf("got %v, class %d, want an error that says the message is too large", err, classify(err))
	}
	if testing.Short() {
		t.Skip("allocates more than 1 GiB")
	}
	frontend.SendQuery(&pgproto3.Query{String: string(make([]byte, 1<<30))})
	if err := frontend.Flush(); !isTooLarge(err) || classify(err) != classUnsendable {
		t.Errorf("got %v, want an error that says the message is too large", err)
	}
}
