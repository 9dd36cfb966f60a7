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

// TestClassifyProxied checks the class of errors that have come through PL/Proxy, in the
// languages of shards.
func TestClassifyProxied(t *testing.T) {
	t.Parallel()
	const write = "message_store.write_message(6): [shard] "
	for _, test := range []struct {
		code, message string
		want          class
	}{
		{"XX000", "PL/Proxy function " + write + "PQconsumeInput: server closed the connection unexpectedly\n", classUnknown},
		{"XX000", "PL/Proxy function " + write + "PQflush: could not send data to server: Broken pipe\n", classUnknown},
		{"XX000", "PL/Proxy function " + write + "PQconsumeInput: [x] PQconnectPoll: ", classUnknown},
		{"XX000", "PL/Proxy function message_store.write_message(6): query timeout", classUnknown},
		{"P0002", "PL/Proxy function message_store.write_message(6): Non-SETOF function requires 1 row from remote query, got 0", classUnknown},
		{"P0003", "PL/Proxy function message_store.write_message(6): Non-SETOF function requires 1 row from remote query, got 2", classUnknown},
		{"XX000", "PL/Proxy function " + write + "PQconnectPoll: connection to server at \"127.0.0.1\", port 1 failed: Connection refused\n", classNotSent},
		{"XX000", "PL/Proxy function " + write + "PQconnectPoll: connection to server failed: FATAL:  the database system is starting up\n", classNotSent},
		{"XX000", "PL/Proxy function " + write + "PQconnectStart: connection to server on socket failed: No such file or directory\n", classNotSent},
		{"XX000", "PL/Proxy function message_store.write_message(6): connect timeout to: host=a", classNotSent},
		{"XX000", write + "REMOTE ERROR: PL/Proxy function " + write + "PQconnectPoll: x", classUnknown}, // of a proxy after the proxy
		{"XX000", write + "REMOTE ERROR: cache lookup failed for type 1", classInternal},
		{"XX000", write + "REMOTE FEHLER: Cache-Suche nach Typ 1 fehlgeschlagen", classUnknown}, // it might be FATAL
		{"XX000", write + "REMOTE (null): (null)", classUnknown},
		{"XX000", "Pl/Proxy: cluster not found: mdb", classInternal},
		{"57P01", write + "REMOTE FATAL: terminating connection due to administrator command", classUnknown},
		{"57P01", write + "REMOTE 致命的エラー: 管理者コマンドにより接続を終了しています", classUnknown},
		{"57014", write + "REMOTE ERROR: canceling statement due to statement timeout", classUnavailable},
		{"08006", write + "REMOTE FATAL: connection lost", classUnknown},
		{"53100", write + "REMOTE PANIC: could not write to file", classUnknown},
		{"53100", write + "REMOTE ERROR: could not extend file", classUnavailable},
		{"25P03", write + "REMOTE FATAL: terminating connection due to idle-in-transaction timeout", classUnknown},
		{"40P01", write + "REMOTE FEHLER: Verklemmung entdeckt", classTransient},
		{"23505", write + `REMOTE ERROR: duplicate key value violates unique constraint "messages_id"`, classDuplicateID},
		{"23505", write + `REMOTE FEHLER: doppelter Schlüsselwert verletzt Unique-Constraint »messages_id«`, classDuplicateID},
		{"23505", write + "REMOTE ERREUR: la valeur d'une clé dupliquée rompt la contrainte unique « messages_id »", classDuplicateID},
		{"23505", write + `REMOTE ERROR: 重複したキー値は一意性制約"messages_id"違反となります`, classDuplicateID},
		{"23505", write + `REMOTE ERROR: duplicate key value violates unique constraint "messages_stream"`, classWrongVersion},
		{"23505", write + `REMOTE ERROR: duplicate key value violates unique constraint "messages_pkey"`, classTransient},
		{"23505", write + `REMOTE ERROR: duplicate key value violates unique constraint "my_messages_id"`, classRefused},
		{"23505", write + `REMOTE ERROR: duplicate key value violates unique constraint "messages_id_2"`, classRefused},
		{"23505", `message_store.write_message(6): [messages_id] REMOTE ERROR: duplicate key value violates unique constraint "mine"`, classRefused},
		{"23505", `duplicate: "messages_id"`, classRefused},                                                              // raised here
		{"P0001", "Wrong expected version: 7 (Stream: a-(6): [x] REMOTE FATAL: , Stream Version: 2)", classWrongVersion}, // of no proxy
		{"P0001", write + "REMOTE ERROR: Wrong expected version: 7 (Stream: a-1, Stream Version: 2)", classWrongVersion},
		{"P0001", write + "REMOTE ERROR: Wrong expected version: 7 (Stream: a-PL/Proxy function ] REMOTE FATAL: , Stream Version: 2)", classWrongVersion},
	} {
		err := &pgconn.PgError{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: test.code, Message: test.message, Routine: "plproxy_remote_error"}
		if got := classify(err); got != test.want {
			t.Errorf("%s %s: got class %d, want %d", test.code, test.message, got, test.want)
		}
		lost := test.want == classUnknown || test.want == classNotSent
		if lost && !IsTransient(err) || IsTransient(&UnknownOutcomeError{err: err}) {
			t.Errorf("%s %s: IsTransient follows another class", test.code, test.message)
		}
	}
	// What ends the statement on the proxy does not end it on the shard.
	for code, want := range map[string]class{"57014": classUnknown, "40001": classUnknown, "55000": classUnknown, "42501": classSetup, "22P02": classArgument} {
		err := &pgconn.PgError{Severity: "ERROR", Code: code, Message: "local"}
		if got := classify(proxyLost(err)); got != want {
			t.Errorf("%s on the proxy: got class %d, want %d", code, got, want)
		}
		err.Message = write + "REMOTE ERROR: x"
		if got := classify(proxyLost(err)); got == classUnknown {
			t.Errorf("%s of the shard: got an unknown outcome", code)
		}
	}
	notSent := &pgconn.PgError{Code: "XX000", Message: "PL/Proxy function " + write + "PQconnectPoll: x"}
	if got := classify(proxyLost(notSent)); got != classNotSent {
		t.Errorf("a failed connection to a shard: got class %d, want %d", got, classNotSent)
	}
	config := &pgconn.PgError{Code: "XX000", Message: "Pl/Proxy: cluster not found: mdb"}
	if got := classify(proxyLost(config)); got != classInternal {
		t.Errorf("a missing cluster: got class %d, want %d", got, classInternal)
	}
}
