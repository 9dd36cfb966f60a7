// Package names parses the names of streams, as Message DB's functions do. It works on plain
// strings, so that packages that mdb imports can use it.
package names

import (
	"crypto/md5" //nolint:gosec // Message DB's hash of names; it is not used for security.
	"encoding/binary"
	"strings"
)

// Category returns the part of a stream's name before its first dash, or all of the
// name if it has none.
func Category(stream string) string {
	category, _, _ := strings.Cut(stream, "-")
	return category
}

// ID returns the part after the first dash, or "" if there is none.
func ID(stream string) string {
	_, id, _ := strings.Cut(stream, "-")
	return id
}

// CardinalID returns the ID up to its first plus sign, or all of the ID if it has none.
func CardinalID(stream string) string {
	cardinal, _, _ := strings.Cut(ID(stream), "+")
	return cardinal
}

// Hash64 returns the same as the server's hash_64: the first eight bytes of the value's
// MD5, in big-endian order, as a signed number.
func Hash64(value string) int64 {
	sum := md5.Sum([]byte(value)) //nolint:gosec // see the import
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

// Member returns the number of the member that receives the stream, in a consumer group of
// the size, as the server computes it. It returns -1 for a name without a dash, which no
// member receives.
func Member(stream string, size int64) int64 {
	if !strings.Contains(stream, "-") {
		return -1
	}
	hash := Hash64(CardinalID(stream))
	return max(hash, -hash) % size
}
