package mdb

import (
	"strings"

	"github.com/messagedb-go/messagedb/internal/names"
)

// A Category names all streams whose names begin with it: "account" is the
// category of "account-123". It contains no dash. It may have types, as in
// "account:command".
type Category string

// Stream returns the name of the category's stream with the given ID:
// "account", "123" → "account-123".
func (c Category) Stream(id string) StreamName {
	return StreamName(string(c) + "-" + id)
}

// CompoundID joins IDs to one whose cardinal ID is the first of them:
// "123", "456" → "123+456". Streams whose IDs share the cardinal ID go to the
// same member of a consumer group.
func CompoundID(ids ...string) string {
	return strings.Join(ids, "+")
}

// A StreamName names a stream: a category, a dash, and an ID, which may contain
// dashes itself. A name without a dash is that of a category; Message DB accepts
// messages to it as to any stream.
type StreamName string

// Category returns the part before the name's first dash, or all of the name if it has
// none.
func (s StreamName) Category() Category { return Category(names.Category(string(s))) }

// ID returns the part after the name's first dash, or "" if it has none.
func (s StreamName) ID() string { return names.ID(string(s)) }

// CardinalID returns the ID up to its first plus sign, or all of the ID if it has none.
// It decides which member of a consumer group receives the stream.
func (s StreamName) CardinalID() string { return names.CardinalID(string(s)) }

// Hash64 is the server's hash_64: the first eight bytes of the value's MD5, most
// significant first, as a signed number. A consumer group of n members gives a
// stream to the member whose number is the absolute value of Hash64 of the stream's
// cardinal ID, modulo n.
func Hash64(value string) int64 { return names.Hash64(value) }
