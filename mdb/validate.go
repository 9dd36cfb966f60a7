package mdb

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// argumentFaults collects all problems of a call's arguments, for one [*ArgumentError].
type argumentFaults []Fault

func (f *argumentFaults) add(argument, given, allowed string) {
	*f = append(*f, Fault{Argument: argument, Given: given, Allowed: allowed})
}

func (f argumentFaults) err() error {
	if len(f) == 0 {
		return nil
	}
	return &ArgumentError{Faults: f}
}

// text checks a value that is sent as text, which cannot contain U+0000 in PostgreSQL.
func (f *argumentFaults) text(argument, value, allowed string) bool {
	switch {
	case value == "":
		f.add(argument, `""`, allowed)
	case !utf8.ValidString(value):
		f.add(argument, strconv.Quote(value), "valid UTF-8")
	case strings.ContainsRune(value, 0):
		f.add(argument, strconv.Quote(value), "text without the character U+0000")
	default:
		return true
	}
	return false
}

func (f *argumentFaults) messageType(argument, typ string) {
	f.text(argument, typ, "a message type")
}

func (f *argumentFaults) category(argument string, category Category) {
	const allowed = "a category, which contains no dash"
	if f.text(argument, string(category), allowed) && strings.Contains(string(category), "-") {
		f.add(argument, strconv.Quote(string(category)), allowed)
	}
}

// stream checks the name of a stream for writes and for methods that look at one message.
// It may be the name of a category.
func (f *argumentFaults) stream(stream StreamName) {
	const allowed = "a stream name, which is a category, a dash and an id"
	if !f.text("stream", string(stream), allowed) {
		return
	}
	category, id, dashed := strings.Cut(string(stream), "-")
	if category == "" || dashed && id == "" {
		f.add("stream", strconv.Quote(string(stream)), allowed)
	}
}

// streamWithID checks the name of a stream for reads and subscriptions.
func (f *argumentFaults) streamWithID(stream StreamName) {
	f.stream(stream)
	if stream != "" && !strings.Contains(string(stream), "-") {
		f.add("stream", strconv.Quote(string(stream)), "the name of a stream, with an id (read a category with the methods for categories)")
	}
}

// caches rejects a pool whose exec mode requires a cache that is turned off. On such a pool
// pgx fails each batch, with an error that does not say that nothing was sent.
func (f *argumentFaults) caches(conn *pgx.ConnConfig) {
	const allowed = "at least 1 in the exec mode %q, or another mode"
	switch mode := conn.DefaultQueryExecMode; {
	case mode == pgx.QueryExecModeCacheStatement && conn.StatementCacheCapacity < 1:
		f.add("the pool's statement cache capacity", strconv.Itoa(conn.StatementCacheCapacity), fmt.Sprintf(allowed, mode))
	case mode == pgx.QueryExecModeCacheDescribe && conn.DescriptionCacheCapacity < 1:
		f.add("the pool's description cache capacity", strconv.Itoa(conn.DescriptionCacheCapacity), fmt.Sprintf(allowed, mode))
	}
}
