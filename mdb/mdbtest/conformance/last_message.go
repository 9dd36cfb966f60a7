package conformance

import (
	"errors"
	"slices"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

func (s *suite) last(t *testing.T) {
	t.Helper()
	category := mdbtest.Category("last")
	stream, other := category.Stream("1"), category.Stream("1+1")
	var written []record
	for i, typ := range []string{"Opened", "Changed", "Changed", "Closed"} {
		write(t, s.store.Pool(), proposal{stream: stream, typ: typ, data: `{"b": 1, "a": 2, "a": 3}`})
		written = append(written, asText(t, s.store.Pool(), string(stream), int64(i)))
	}
	write(t, s.store.Pool(), proposal{stream: other, typ: "Opened"})

	const none = -1
	for _, test := range []struct {
		name   string
		stream mdb.StreamName
		typ    any
		want   int
	}{
		{"returns the message with the greatest position", stream, nil, 3},
		{"type: the last message of a type", stream, "Changed", 2},
		{"type: of the first message", stream, "Opened", 0},
		{"type: of the last message", stream, "Closed", 3},
		{"type: that no message has", stream, "Moved", none},
		{"returns nothing for a stream without messages", category.Stream("2"), nil, none},
		{"type: of a stream without messages", category.Stream("2"), "Opened", none},
		{"returns nothing for a category that is not a stream", mdb.StreamName(category), nil, none},
		{"type: with a category that is not a stream", mdb.StreamName(category), "Opened", none},
	} {
		s.check(t, test.name, func(t *testing.T) {
			want := []record{}
			if test.want != none {
				want = written[test.want : test.want+1]
			}
			var opts []mdb.LastMessageOption
			got := records(t, s.store.Pool(), `message_store.get_last_stream_message($1::varchar, $2::varchar)`, string(test.stream), test.typ)
			if typ, ok := test.typ.(string); ok {
				opts = append(opts, mdb.OfType(typ))
			} else if one := records(t, s.store.Pool(), `message_store.get_last_stream_message($1::varchar)`, string(test.stream)); !slices.Equal(one, got) {
				t.Errorf("SQL with one argument: got %s, with two %s", brief(one), brief(got))
			}
			if !slices.Equal(got, want) {
				t.Errorf("SQL: got %s, want %s", brief(got), brief(want))
			}

			s.onStoreAndTx(t, func(how string, c client) {
				m, err := c.GetLastStreamMessage(t.Context(), test.stream, opts...)
				switch {
				case test.want == none:
					if !errors.Is(err, mdb.ErrNoMessage) {
						t.Errorf("%s: got %v, want ErrNoMessage", how, err)
					}
				case err != nil:
					t.Error(err)
				case !slices.Equal(recorded(m), want):
					t.Errorf("%s: got %s, want %s", how, brief(recorded(m)), brief(want))
				}
			})
		})
	}

	s.check(t, "returns nothing for NULL", func(t *testing.T) {
		if got := records(t, s.store.Pool(), `message_store.get_last_stream_message(NULL)`); len(got) != 0 {
			t.Errorf("got %s, want none", brief(got))
		}
	})

	s.check(t, "reads a stream that is named like a category", func(t *testing.T) {
		bare := mdb.StreamName(mdbtest.Category("last"))
		write(t, s.store.Pool(), proposal{stream: bare})
		if got := records(t, s.store.Pool(), `message_store.get_last_stream_message($1::varchar)`, string(bare)); len(got) != 1 {
			t.Errorf("SQL: got %s, want one", brief(got))
		}
		if m, err := s.store.GetLastStreamMessage(t.Context(), bare); err != nil || m.Stream != bare {
			t.Errorf("GetLastStreamMessage returns %v of %q, want a message of %q", err, m.Stream, bare)
		}
	})
}

func (s *suite) version(t *testing.T) {
	t.Helper()
	category := mdbtest.Category("version")
	stream, other := category.Stream("1"), category.Stream("1+1")
	writeMany(t, s.store.Pool(), stream, "Tested", 4)
	writeMany(t, s.store.Pool(), other, "Tested", 1)
	for _, test := range []struct {
		name   string
		stream mdb.StreamName
		want   int64
	}{
		{"is the greatest position", stream, 3},
		{"is 0 for a stream of one message", other, 0},
		{"is NULL for a stream without messages", category.Stream("2"), mdb.NoStream},
		{"is NULL for a stream whose name begins like another", stream + "0", mdb.NoStream},
		{"is NULL for a category that is not a stream", mdb.StreamName(category), mdb.NoStream},
	} {
		s.check(t, test.name, func(t *testing.T) {
			got := value[*int64](t, s.store.Pool(), `SELECT message_store.stream_version($1::varchar)`, string(test.stream))
			if test.want == mdb.NoStream {
				if got != nil {
					t.Errorf("stream_version is %d, want NULL", *got)
				}
			} else if got == nil || *got != test.want {
				t.Errorf("stream_version is %v, want %d", optional(got), test.want)
			}
			s.onStoreAndTx(t, func(how string, c client) {
				if version, err := c.StreamVersion(t.Context(), test.stream); err != nil || version != test.want {
					t.Errorf("%s: got %d, %v, want %d", how, version, err, test.want)
				}
			})
		})
	}
}
