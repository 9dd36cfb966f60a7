package consumer

import (
	"hash/maphash"

	"github.com/messagedb-go/messagedb/mdb"
)

// partitionOf returns the number of a stream's partition. Unlike the members of Message DB's
// consumer groups, one of them also has the streams without an ID.
func partitionOf(stream mdb.StreamName, partitions int) int {
	return partitionOfKey(stream.CardinalID(), partitions)
}

func partitionOfKey(cardinalID string, partitions int) int {
	hash := mdb.Hash64(cardinalID)
	return int(uint64(max(hash, -hash)) % uint64(partitions))
}

// A numbering remembers the partitions of cardinal IDs, because hashing an ID takes as long as
// all else that a reader does with a message. Its zero value is empty.
type numbering struct {
	seed  maphash.Seed
	known [][2]numbered // by the hash of the ID, the one that was added last first
}

type numbered struct {
	length uint8 // 0: empty
	id     [numberedBytes]byte
	number uint16
}

const (
	numberedBytes = 37 // of an ID that is remembered: a UUID is shorter
	numberedPairs = 1 << 11
)

// of is partitionOf. The number of partitions must be the same in each call.
func (n *numbering) of(stream mdb.StreamName, partitions int) int {
	id := stream.CardinalID()
	if len(id) == 0 || len(id) > numberedBytes {
		return partitionOfKey(id, partitions)
	}
	if n.known == nil {
		n.seed, n.known = maphash.MakeSeed(), make([][2]numbered, numberedPairs)
	}
	pair := &n.known[maphash.String(n.seed, id)%numberedPairs]
	for i := range pair {
		if k := &pair[i]; string(k.id[:k.length]) == id {
			return int(k.number)
		}
	}
	pair[1] = pair[0]
	k := &pair[0]
	k.length, k.number = uint8(len(id)), uint16(partitionOfKey(id, partitions))
	copy(k.id[:], id)
	return int(k.number)
}
