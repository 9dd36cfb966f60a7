package conformance

import (
	"slices"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

type groupCase struct {
	CardinalID string          `json:"cardinal_id"`
	Members    map[int64]int64 `json:"members"` // by the group's size
}

func (s *suite) groups(t *testing.T) {
	t.Helper()
	cases := load[[]groupCase](t, "groups.json")
	category := mdbtest.Category("group")
	owner := make(map[mdb.StreamName]groupCase)
	for _, c := range cases {
		for _, id := range []string{c.CardinalID, mdb.CompoundID(c.CardinalID, "1"), mdb.CompoundID(c.CardinalID, "2", "3")} {
			stream := category.Stream(id)
			owner[stream] = c
			write(t, s.store.Pool(), proposal{stream: stream})
		}
	}
	// A stream without an id belongs to no member.
	write(t, s.store.Pool(), proposal{stream: mdb.StreamName(category)})

	const read = `SELECT stream_name FROM message_store.get_category_messages($1::varchar,
		consumer_group_member => $2::bigint, consumer_group_size => $3::bigint)`

	s.check(t, "consumer group: the hash of the cardinal id chooses the member", func(t *testing.T) {
		for stream, c := range owner {
			for size, member := range c.Members {
				if hash := mdb.Hash64(c.CardinalID); abs(hash)%size != member {
					t.Errorf("member by Hash64 of %q in a group of %d is %d, want %d", c.CardinalID, size, abs(hash)%size, member)
				}
				if !slices.Contains(list[string](t, s.store.Pool(), read, string(category), member, size), string(stream)) {
					t.Errorf("member %d of %d does not get %s", member, size, stream)
				}
			}
		}
	})

	s.check(t, "consumer group: each stream with an id belongs to one member", func(t *testing.T) {
		for _, size := range []int{1, 2, 3, 7} {
			bySQL, byMDB := make(map[string]int), make(map[string]int)
			for member := range size {
				for _, stream := range list[string](t, s.store.Pool(), read, string(category), member, size) {
					bySQL[stream]++
				}
				messages, err := s.store.GetCategoryMessages(t.Context(), category, mdb.AsConsumerGroup(member, size))
				if err != nil {
					t.Fatal(err)
				}
				for i := range messages {
					stream := messages[i].Stream
					byMDB[string(stream)]++
					if owner := abs(mdb.Hash64(stream.CardinalID())) % int64(size); owner != int64(member) {
						t.Errorf("member %d of %d gets %s of member %d", member, size, stream, owner)
					}
				}
			}
			for how, got := range map[string]map[string]int{"SQL": bySQL, "mdb": byMDB} {
				if len(got) != len(owner) {
					t.Errorf("%s: %d members get %d streams, want %d", how, size, len(got), len(owner))
				}
				for stream, times := range got {
					if times != 1 {
						t.Errorf("%s: %s belongs to %d of %d members, want one", how, stream, times, size)
					}
				}
			}
		}
	})
}

func abs(n int64) int64 { return max(n, -n) }
