package mdb

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// faults gathers what is wrong with a call, so that all of it is told at once.
type faults []Fault

func (f *faults) add(argument, given, allowed string) {
	*f = append(*f, Fault{Argument: argument, Given: given, Allowed: allowed})
}

func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return &ArgumentError{Faults: f}
}

// text checks what is sent as text: PostgreSQL's has no character zero.
func (f *faults) text(argument, value, allowed string) bool {
	switch {
	case value == "":
		f.add(argument, `""`, allowed)
	case !utf8.ValidString(value):
		f.add(argument, strconv.Quote(value), "valid UTF-8")
	case strings.ContainsRune(value, 0):
		f.add(argument, strconv.Quote(value), "text without the character zero")
	default:
		return true
	}
	return false
}

func (f *faults) messageType(argument, typ string) {
	f.text(argument, typ, "a message type")
}

func (f *faults) category(argument string, category Category) {
	const allowed = "a category, which holds no dash"
	if f.text(argument, string(category), allowed) && strings.Contains(string(category), "-") {
		f.add(argument, strconv.Quote(string(category)), allowed)
	}
}

// stream checks the name of a stream to be written to or asked about, which may
// be a category's.
func (f *faults) stream(stream StreamName) {
	const allowed = "a stream name, which is a category, a dash and an id"
	if !f.text("stream", string(stream), allowed) {
		return
	}
	category, id, dashed := strings.Cut(string(stream), "-")
	if category == "" || dashed && id == "" {
		f.add("stream", strconv.Quote(string(stream)), allowed)
	}
}

// streamWithID checks the name of a stream to be read.
func (f *faults) streamWithID(stream StreamName) {
	f.stream(stream)
	if stream != "" && !strings.Contains(string(stream), "-") {
		f.add("stream", strconv.Quote(string(stream)), "a stream name, which has an id (read a category by the functions for categories)")
	}
}

// caches refuses a pool whose mode needs a cache that is turned off: pgx would refuse
// each batch on it, in a way that does not tell that nothing was sent.
func (f *faults) caches(conn *pgx.ConnConfig) {
	const allowed = "at least 1 in the exec mode %q, or another mode"
	switch mode := conn.DefaultQueryExecMode; {
	case mode == pgx.QueryExecModeCacheStatement && conn.StatementCacheCapacity < 1:
		f.add("the pool's statement cache capacity", strconv.Itoa(conn.StatementCacheCapacity), fmt.Sprintf(allowed, mode))
	case mode == pgx.QueryExecModeCacheDescribe && conn.DescriptionCacheCapacity < 1:
		f.add("the pool's description cache capacity", strconv.Itoa(conn.DescriptionCacheCapacity), fmt.Sprintf(allowed, mode))
	}
}
