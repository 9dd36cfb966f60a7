package mdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"
)

// TestClassify checks the consequences of each kind of error: whether a write, a read and
// a transaction are retried, and whether a write that met the error may have happened.
func TestClassify(t *testing.T) {
	t.Parallel()
	server := func(code string) error { return &pgconn.PgError{Severity: "ERROR", Code: code} }
	fatal := func(code string) error { return &pgconn.PgError{Severity: "FATAL", Code: code} }
	internal := func(text string) error { return &pgconn.PgError{Severity: "ERROR", Code: "XX000", Message: text} }
	raised := func(text string) error { return &pgconn.PgError{Severity: "ERROR", Code: "P0001", Message: text} }
	unique := func(constraint string) error {
		return &pgconn.PgError{Severity: "ERROR", Code: "23505", ConstraintName: constraint}
	}
	uniqueOf := func(schema, table, constraint string) error {
		return &pgconn.PgError{Severity: "ERROR", Code: "23505", SchemaName: schema, TableName: table, ConstraintName: constraint}
	}
	const (
		W = 1 << iota // a write is retried, a limited number of times
		R             // a read is retried, once a page has been read
		F             // a subscription's first read is retried, too
		T             // a transaction is run again, a limited number of times
		L             // a write may have happened
		O             // a write, and a transaction that is surely not committed, are retried for as long as an outage may take
	)
	for _, tt := range []struct {
		err  error
		want int
	}{
		{io.ErrUnexpectedEOF, O | R | F | L},
		{context.DeadlineExceeded, O | R | F | L}, // of another call's context
		{&brokenError{sent: true, err: io.EOF}, O | R | F | L},
		{&brokenError{sent: false, err: io.EOF}, O | R | F},
		{&acquireError{errors.New("a hook said no")}, O | R | F},
		{&acquireError{context.DeadlineExceeded}, O | R | F},
		{&acquireError{puddle.ErrClosedPool}, 0},
		{fmt.Errorf("look: %w", &acquireError{fmt.Errorf("acquire: %w", puddle.ErrClosedPool)}), 0},
		{&acquireError{server("22023")}, 0}, // a hook's statement, which the server rejected
		{&acquireError{server("42501")}, R},
		{&acquireError{server("40001")}, O | R | F},
		{&acquireError{fatal("57P01")}, O | R | F},
		{&acquireError{server("53300")}, O | R | F},
		{&acquireError{io.ErrUnexpectedEOF}, O | R | F}, // in a hook
		{&SetupError{}, R},
		{fatal("57P01"), O | R | F | L}, // terminated
		{fatal("57P02"), O | R | F | L}, // crash
		{fatal("57P05"), O | R | F},     // idle for too long, so the statement has not arrived
		{fatal("25P03"), O | R | F},     // idle for too long in a transaction
		{fatal("25P04"), O | R | F | L}, // a transaction that took too long

		{&unsendableError{errors.New("cannot encode")}, 0},
		{&brokenError{sent: false, err: errors.New("message body too large")}, 0},
		{&unreadableError{errors.New("cannot decode")}, W | L},
		{fmt.Errorf("timeout: %w", &unreadableError{context.Canceled}), W | L},
		{server("57014"), R | F}, // statement timeout
		{server("40001"), W | R | F | T},
		{server("40P01"), W | R | F | T},
		{server("55P03"), W | R | F | T},
		{server("40003"), O | R | F | L},
		{server("53200"), R | F},     // out of memory
		{server("53300"), R | F},     // too many connections
		{server("58030"), R | F},     // I/O
		{server("25006"), O | R | F}, // a standby
		{server("25P01"), R | F},
		{server("25P02"), R | F},
		{server("08006"), O | R | F | L},
		{server("0A000"), R | F | T}, // outdated statement
		{server("26000"), R | F | T},
		{server("42883"), R},
		{server("42P01"), R},
		{server("3F000"), R},
		{server("42501"), R},
		{server("XX000"), R}, // could not open relation
		{internal("cannot assign TransactionIds during recovery"), O | R | F},
		{internal("cannot make new WAL entries during recovery"), O | R | F},
		{internal("cache lookup failed for type 1"), R},
		{errCancelledWait, W | R | F | L},
		{fmt.Errorf("%w (%w)", errCancelledWait, context.Canceled), W | R | F | L},
		{server("XX001"), 0}, // damaged data
		{server("42601"), 0}, // a condition's syntax
		{server("42703"), R}, // while Message DB is upgraded
		{server("42704"), R},
		{server("42725"), R},
		{server("42804"), R},
		{server("22P02"), 0},
		{server("23514"), 0},
		{server(""), 0}, // of a server that only speaks like PostgreSQL
		{unique("messages_pkey"), W | R | F | T},
		{unique("messages_id"), 0},
		{unique("messages_stream"), 0},
		{unique("other"), 0},
		{uniqueOf("message_store", "messages", "messages_pkey"), W | R | F | T},
		{uniqueOf("public", "messages", "messages_pkey"), 0}, // of a projection by a trigger
		{uniqueOf("message_store", "projection", "messages_pkey"), 0},
		{raised("Wrong expected version: 3 (Stream: account-1, Stream Version: 4)"), 0},
		{raised("Must be a category: account-1"), 0},
		{raised("something else"), 0},
	} {
		class := classify(tt.err)
		got := 0
		for flag, holds := range map[int]bool{
			W: class.retryWrite() == byAttempts, R: class.retryRead(true), F: class.retryRead(false), T: class.retryTransaction() == byAttempts, L: class.lost(),
			O: class.retryWrite() == byTime && class.retryTransaction() == byTime,
		} {
			if holds {
				got |= flag
			}
		}
		if got != tt.want {
			t.Errorf("%v: got %06b, want %06b (of OLTFRW)", tt.err, got, tt.want)
		}
	}
	if len(consequences) != int(classUnknown)+1 {
		t.Errorf("got consequences of %d classes, want %d", len(consequences), classUnknown+1)
	}
}
