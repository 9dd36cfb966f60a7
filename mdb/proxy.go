package mdb

import (
	"context"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
)

// A proxied store is one whose write_message is in the language of PL/Proxy, which executes
// each call on a shard, as a transaction of its own. So the transaction on the proxy neither
// holds a category's lock nor undoes a write, and what needs that is rejected.

// A proxyKind says what a database does with a call.
type proxyKind int32

const (
	noProxy    proxyKind = iota
	plainProxy           // a proxy of Message DB's functions
	shardProxy           // a proxy that also has the functions of the schema message_store_shard
)

func proxyKindOf(path *pathState) proxyKind {
	switch {
	case path.proxied && path.whole:
		return shardProxy
	case path.proxied:
		return plainProxy
	}
	return noProxy
}

// A proxiedError is the error of a call that a proxied store rejects.
type proxiedError struct{ what, why string }

func (e *proxiedError) Error() string {
	return "mdb: " + e.what + ": write_message is a function of PL/Proxy, and " + e.why
}

func (e *proxiedError) Unwrap() error { return ErrProxied }

const (
	commitsAlone = "what it writes on a shard is committed immediately"

	whyNotSeveral = commitsAlone + ": the messages of one call could be written in part, and have others in between; make the proxy with mdb proxy-sql, write one message at a time, or use WriteEach"
	whyNotInTx    = commitsAlone + ", whether or not the transaction is; use the Store"
	whyNoLock     = "a lock on a shard is released immediately"
	whyNoAll      = "the messages of different shards have no common order; read each shard, with a connection to it"
	whyNoLook     = "the proxy has no table message_store.messages to look for the messages in; make the proxy with mdb proxy-sql"
	whyNoTable    = "it reads the table messages, which only the shards have; use a connection to the shard"
)

// statement returns what is executed instead of st, or an error if there is nothing.
func (k proxyKind) statement(st *statement) (*statement, error) {
	if k == noProxy {
		return st, nil
	}
	switch st {
	case messageByID:
		return nil, &proxiedError{"get a message by its ID", whyNoTable}
	case sinceInStream, sinceInCategory, sinceInAll:
		return nil, &proxiedError{"find the messages since a time", whyNoTable}
	case streamBackwards, categoryBackwards, allBackwards.all, allBackwards.ofTypes, allBackwards.inCategories, allBackwards.ofTypesInCategories:
		return nil, &proxiedError{"read backwards", whyNoTable}
	}
	if k == shardProxy {
		return onShard(st), nil
	}
	switch st {
	case writeMessages, appendMessages:
		return nil, &proxiedError{"write several messages", whyNotSeveral}
	case writeMessage:
		return writeProxied, nil
	case appendMessage:
		return appendProxied, nil
	}
	return st, nil
}

// statements replaces those of the steps.
func (k proxyKind) statements(steps []step) (err error) {
	if k == noProxy {
		return nil
	}
	for i := range steps {
		if steps[i].st, err = k.statement(steps[i].st); err != nil {
			return err
		}
	}
	return nil
}

// onShard returns the statement that executes a function of the shard instead of st, which has the same
// arguments and columns.
func onShard(st *statement) *statement {
	switch st {
	case writeMessage, appendMessage:
		return writeOnShard
	case writeMessages, appendMessages:
		return writeSeveralOnShard
	case directCategoryHead:
		return headOnShard
	case lastInCategory:
		return lastOnShard
	case beforeInCategory:
		return beforeOnShard
	case lastInStream:
		return lastInStreamOnShard
	}
	return st
}

// inTx returns what is executed instead of st in a transaction, or an error if nothing must be.
func (k proxyKind) inTx(st *statement) (*statement, error) {
	if k == noProxy {
		return st, nil
	}
	switch st {
	case writeMessage, appendMessage, writeMessages, appendMessages:
		return nil, &proxiedError{"write in a transaction", whyNotInTx}
	case acquireLocks:
		return nil, &proxiedError{"lock categories", whyNoLock}
	}
	return k.statement(st)
}

// errProxiedDirect is the error of each call of a proxied store with [WithDirectSQL].
var errProxiedDirect = &SetupError{
	Problem: "write_message is a function of PL/Proxy, and direct SQL would read and write a table of the proxy instead of the shards'",
	Remedy:  "leave out WithDirectSQL",
	err:     ErrProxied,
}

// errProxiedReplica is the error of each call of a proxied store with [WithReplica].
var errProxiedReplica = &SetupError{
	Problem: "write_message is a function of PL/Proxy, and a standby of the proxy has no messages",
	Remedy:  "leave out WithReplica; each shard may have a store with a replica",
	err:     ErrProxied,
}

// errProxiedCheck is what [Store.Check] reports of a proxied store without the functions of shards.
var errProxiedCheck = &SetupError{
	Problem: "write_message is a function of PL/Proxy: Check sees nothing of the shards, and Atomically, writes in a transaction, LockCategories and several messages in WriteMessages are rejected",
	Remedy:  "make the proxy with mdb proxy-sql; or run Check on each shard, with a connection to it, and accept this error, which wraps ErrProxied",
	err:     ErrProxied,
}

// proxy returns what a Store is known to be.
func (s *procedures) proxy() proxyKind {
	if r, ok := s.runner.(*poolRunner); ok {
		return r.first.proxy()
	}
	return noProxy
}

// proxied reports whether s is a Store that is known to be proxied.
func (s *procedures) proxied() bool { return s.proxy() != noProxy }

// sharded reports whether s is a Store on a proxy that has the functions of shards.
func (s *procedures) sharded() bool { return s.proxy() == shardProxy }

// lookSharded is sharded, after it is known what the database is.
func (s *Store) lookSharded(ctx context.Context) (bool, error) {
	if !s.first.over() {
		conn, err := s.first.acquire(ctx, s.pool, s.config.execMode)
		if err != nil {
			return false, err
		}
		conn.Release()
	}
	if s.proxy() == plainProxy {
		return false, errProxiedConsumer
	}
	return s.sharded(), nil
}

// errProxiedConsumer is the error of a consumer whose messages are those of a proxy without the functions of shards.
var errProxiedConsumer = &SetupError{
	Problem: "write_message is a function of PL/Proxy, and the proxy has neither the table messages nor the functions of shards",
	Remedy:  "make the proxy with mdb proxy-sql, or give the consumer a store of the shard that has its categories",
	err:     ErrProxied,
}

// A proxyError is the error of a write that was interrupted on the proxy. The shard may have
// committed it.
type proxyError struct{ err error }

func (e *proxyError) Error() string { return e.err.Error() }
func (e *proxyError) Unwrap() error { return e.err }

// proxyLost returns err, the error of a write on a proxied store, as a [*proxyError] if the
// shard may have committed the write. It may unless the shard has reported an error, or the
// proxy has rejected the statement before it has called the function.
func proxyLost(err error) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || isConnectError(err) || errors.As(err, new(*acquireError)) {
		return err
	}
	if _, _, remote := remoteError(pgErr.Message); remote {
		return err
	}
	if classify(err) == classNotSent || strings.HasPrefix(strings.ToLower(pgErr.Message), configText) {
		return err
	}
	switch pgErr.Code[:min(2, len(pgErr.Code))] {
	case "40", "53", "55", "57", "58", "XX":
		return &proxyError{err}
	}
	return err
}

// The beginnings of PL/Proxy's texts, which it does not translate.
const (
	proxyText  = "PL/Proxy function "
	configText = "pl/proxy: " // in lower case; of a cluster that is not set up correctly
	remoteText = "] REMOTE "
)

// remoteError returns the parts of the text of an error that a shard has reported:
//
//	message_store.write_message(6): [database] REMOTE ERROR: text
//
// The severity is in the language of the shard. It is (null) if libpq has found the error.
func remoteError(message string) (severity, text string, ok bool) {
	_, remote, ok := strings.Cut(message, remoteText)
	if !ok {
		return "", "", false
	}
	severity, text, ok = strings.Cut(remote, ": ")
	return severity, text, ok
}

// classifyProxied returns the class of an error of PL/Proxy itself, or of a session on a shard
// that has ended. PL/Proxy reports both as ordinary errors.
func classifyProxied(e *pgconn.PgError) (c class, ok bool) {
	switch e.Code {
	case "XX000", "P0002", "P0003":
		if strings.Contains(e.Message, proxyText) {
			if isShardUnreachable(e) {
				return classNotSent, true
			}
			return classUnknown, true
		}
	}
	switch e.Code[:min(2, len(e.Code))] {
	case "08", "25", "53", "57", "58", "XX": // the other codes never end a session
		// The severity may be FATAL in another language.
		if severity, _, ok := remoteError(e.Message); ok && severity != "ERROR" {
			return classUnknown, true
		}
	}
	return 0, false
}

// isShardUnreachable reports whether PL/Proxy could not connect to a shard, so that it has sent
// nothing to it:
//
//	PL/Proxy function message_store.write_message(6): [database] PQconnectPoll: text
func isShardUnreachable(e *pgconn.PgError) bool {
	if !strings.HasPrefix(e.Message, proxyText) {
		return false // it is that of a proxy after this one, whose text may be in the middle
	}
	_, text, _ := strings.Cut(e.Message, "): ")
	if strings.HasPrefix(text, "connect timeout to: ") {
		return true
	}
	if !strings.HasPrefix(text, "[") {
		return false
	}
	_, text, _ = strings.Cut(text, "] ")
	return strings.HasPrefix(text, "PQconnectStart: ") || strings.HasPrefix(text, "PQconnectPoll: ")
}

// isOfShard reports whether the error is about a shard, while the proxy works.
func isOfShard(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || isConnectError(err) || isFatal(pgErr) {
		return false
	}
	_, _, remote := remoteError(pgErr.Message)
	_, lost := classifyProxied(pgErr)
	return remote || lost
}

// constraintOf returns the name of the constraint that is violated. PL/Proxy leaves it out, so
// it may have to be found in the text, which quotes it as the language of the shard does.
func constraintOf(e *pgconn.PgError) string {
	if e.ConstraintName != "" {
		return e.ConstraintName
	}
	_, text, _ := remoteError(e.Message)
	for _, name := range []string{"messages_id", "messages_stream", "messages_pkey"} {
		if containsName(text, name) {
			return name
		}
	}
	return ""
}

// containsName reports whether the text contains the name, and not only as a part of another
// name.
func containsName(text, name string) bool {
	part := func(r rune) bool {
		return r == '_' || r == '$' || unicode.IsLetter(r) || unicode.IsDigit(r)
	}
	for {
		before, after, ok := strings.Cut(text, name)
		if !ok {
			return false
		}
		last, _ := utf8.DecodeLastRuneInString(before)
		next, _ := utf8.DecodeRuneInString(after)
		if !part(last) && !part(next) {
			return true
		}
		text = after
	}
}
