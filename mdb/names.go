package mdb

import (
	"strings"

	"github.com/messagedb-go/messagedb/internal/names"
)

// A Category stands for all streams whose names start with it and a dash: "account" is the
// category of "account-123". It contains no dash. It may have types, as in
// "account:command".
type Category string

// Stream returns the name of the category's stream with the given ID:
// "account", "123" → "account-123".
func (c Category) Stream(id string) StreamName {
	return StreamName(string(c) + "-" + id)
}

// CompoundID joins IDs to one ID, whose cardinal ID is the first of them:
// "123", "456" → "123+456". The same member of a consumer group receives all streams with
// the same cardinal ID.
func CompoundID(ids ...string) string {
	return strings.Join(ids, "+")
}

// A StreamName is the name of a stream: a category, a dash and an ID, which may contain
// dashes too. A name without a dash is a category; Message DB accepts writes to it as to
// any stream.
type StreamName string

// Category returns the part before the name's first dash, or all of the name if it has
// none.
func (s StreamName) Category() Category { return Category(names.Category(string(s))) }

// ID returns the part after the name's first dash, or "" if it has none.
func (s StreamName) ID() string { return names.ID(string(s)) }

// CardinalID returns the ID up to its first plus sign, or all of the ID if it has none.
// It decides which member of a consumer group receives the stream.
func (s StreamName) CardinalID() string { return names.CardinalID(string(s)) }

// Hash64 returns the same as the server's hash_64: the first eight bytes of the value's
// MD5, in big-endian order, as a signed number. In a consumer group of n members, the
// number of the member that receives a stream is the absolute value of Hash64 of the
// stream's cardinal ID, modulo n.
func Hash64(value string) int64 { return names.Hash64(value) }
