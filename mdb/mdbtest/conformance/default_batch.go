package conformance

import (
	"slices"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// defaultBatch is about how many messages the section's function returns if the call
// does not say.
func (s *suite) defaultBatch(t *testing.T) {
	t.Helper()
	const more = mdb.DefaultBatchSize + 1
	category := mdbtest.Category("batch")
	stream := category.Stream("1")
	writeMany(t, s.store.Pool(), stream, "Tested", more)

	ofStream := s.section == "get_stream_messages"
	of := string(category)
	if ofStream {
		of = string(stream)
	}
	read := func(t *testing.T, c client, opts ...mdb.ReadOption) ([]mdb.Message, error) {
		t.Helper()
		if ofStream {
			return c.GetStreamMessages(t.Context(), stream, streamOptions(opts)...)
		}
		return c.GetCategoryMessages(t.Context(), category, categoryOptions(opts)...)
	}

	for _, test := range []struct {
		name  string
		calls []string
		opts  []mdb.ReadOption
		want  int
	}{
		{"batch size: 1000 by default and for NULL", []string{"($1::varchar)", "($1::varchar, NULL, NULL)"}, nil, mdb.DefaultBatchSize},
		{"batch size: -1 returns more than the default", []string{"($1::varchar, batch_size => -1)"}, []mdb.ReadOption{mdb.Unlimited()}, more},
	} {
		s.check(t, test.name, func(t *testing.T) {
			for _, call := range test.calls {
				positions := list[int64](t, s.store.Pool(), `SELECT position FROM message_store.`+s.section+call, of)
				if len(positions) != test.want || positions[0] != 0 || !slices.IsSorted(positions) {
					t.Errorf("%s: got %d messages, the first at %v, want %d from 0 on", call, len(positions), positions[:min(1, len(positions))], test.want)
				}
			}
			s.onStoreAndTx(t, func(how string, c client) {
				if messages, err := read(t, c, test.opts...); err != nil || len(messages) != test.want {
					t.Errorf("%s: got %d messages, %v, want %d", how, len(messages), err, test.want)
				}
			})
		})
	}
}

func streamOptions(opts []mdb.ReadOption) []mdb.StreamOption {
	all := make([]mdb.StreamOption, len(opts))
	for i, opt := range opts {
		all[i] = opt
	}
	return all
}

func categoryOptions(opts []mdb.ReadOption) []mdb.CategoryOption {
	all := make([]mdb.CategoryOption, len(opts))
	for i, opt := range opts {
		all[i] = opt
	}
	return all
}
