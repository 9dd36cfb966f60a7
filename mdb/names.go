package mdb

import (
	"crypto/md5" //nolint:gosec // Message DB's hash of names; nothing rests on it being hard to forge.
	"encoding/binary"
	"strings"
)

// A Category names all streams whose names begin with it: "account" is the
// category of "account-123". It holds no dash. It may carry types, as in
// "account:command".
type Category string

// Stream returns the name of the category's stream with the given id:
// "account", "123" → "account-123".
func (c Category) Stream(id string) StreamName {
	return StreamName(string(c) + "-" + id)
}

// CompoundID joins ids to one that has a cardinal id, which is the first of them:
// "123", "456" → "123+456". Streams whose ids share the cardinal id go to the
// same member of a consumer group.
func CompoundID(ids ...string) string {
	return strings.Join(ids, "+")
}

// A StreamName names a stream: a category, a dash, and an id, which may hold
// dashes itself. A name without a dash is that of a category; Message DB lets
// messages be written to it as to any stream.
type StreamName string

// Category returns what is before the name's first dash, or all of the name if
// it has none.
func (s StreamName) Category() Category {
	category, _, _ := strings.Cut(string(s), "-")
	return Category(category)
}

// ID returns what is behind the name's first dash, or "" if it has none.
func (s StreamName) ID() string {
	_, id, _ := strings.Cut(string(s), "-")
	return id
}

// CardinalID returns the id up to its first plus sign, or all of the id if it has
// none. It decides which member of a consumer group receives the stream.
func (s StreamName) CardinalID() string {
	cardinal, _, _ := strings.Cut(s.ID(), "+")
	return cardinal
}

// Hash64 is the server's hash_64: the first eight bytes of the value's MD5, most
// significant first, as a signed number. A consumer group of n members gives a
// stream to the member whose number is the remainder of the absolute value of
// Hash64 of the stream's cardinal id, divided by n.
func Hash64(value string) int64 {
	sum := md5.Sum([]byte(value)) //nolint:gosec // see the import
	return int64(binary.BigEndian.Uint64(sum[:8]))
}
