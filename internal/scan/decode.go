package scan

import (
	"encoding/binary"
	"strconv"

	"github.com/google/uuid"
)

// jsonbVersion is the only version of jsonb's binary format so far.
const jsonbVersion = 1

func decodeUUID(v []byte, isBinary bool) (id uuid.UUID, ok bool) {
	if isBinary {
		copy(id[:], v)
		return id, len(v) == len(id)
	}
	// The parser alone would also accept braces, a urn:uuid: prefix and missing
	// hyphens, none of which PostgreSQL writes.
	if len(v) != len("00000000-0000-0000-0000-000000000000") {
		return id, false
	}
	id, err := uuid.ParseBytes(v)
	return id, err == nil
}

func decodeInt8(v []byte, isBinary bool) (int64, bool) {
	if isBinary {
		if len(v) != 8 {
			return 0, false
		}
		return int64(binary.BigEndian.Uint64(v)), true
	}
	// The conversion does not allocate for the up to 20 bytes of an int8. The error
	// is dropped because it quotes the value.
	n, err := strconv.ParseInt(string(v), 10, 64)
	return n, err == nil
}

func decodeJSON(v []byte, isBinary bool) ([]byte, bool) {
	if v == nil || !isBinary {
		return v, true
	}
	if len(v) == 0 || v[0] != jsonbVersion {
		return nil, false
	}
	return v[1:], true
}
