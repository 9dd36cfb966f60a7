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
		{"C50 last message", stream, nil, 3},
		{"C51 last message of a type", stream, "Changed", 2},
		{"C51 last message of the first one's type", stream, "Opened", 0},
		{"C51 last message of the last one's type", stream, "Closed", 3},
		{"C52 last message of a type that has none", stream, "Moved", none},
		{"C52 last message of a stream without messages", category.Stream("2"), nil, none},
		{"C52 last message of a category", mdb.StreamName(category), nil, none},
		{"C52 last message of a type in a category", mdb.StreamName(category), "Opened", none},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
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

			m, err := s.store.GetLastStreamMessage(t.Context(), test.stream, opts...)
			switch {
			case test.want == none:
				if !errors.Is(err, mdb.ErrNoMessage) {
					t.Errorf("GetLastStreamMessage returns %v, want ErrNoMessage", err)
				}
			case err != nil:
				t.Error(err)
			case !slices.Equal(recorded(m), want):
				t.Errorf("GetLastStreamMessage: got %s, want %s", brief(recorded(m)), brief(want))
			}
		})
	}

	t.Run("C52 last message of NULL", func(t *testing.T) {
		t.Parallel()
		if got := records(t, s.store.Pool(), `message_store.get_last_stream_message(NULL)`); len(got) != 0 {
			t.Errorf("got %s, want none", brief(got))
		}
	})

	t.Run("C52 last message of a category's own stream", func(t *testing.T) {
		t.Parallel()
		bare := mdb.StreamName(mdbtest.Category("last"))
		write(t, s.store.Pool(), proposal{stream: bare})
		if got := records(t, s.store.Pool(), `message_store.get_last_stream_message($1::varchar)`, string(bare)); len(got) != 1 {
			t.Errorf("SQL: got %s, want one", brief(got))
		}
		if m, err := s.store.GetLastStreamMessage(t.Context(), bare); err != nil || m.Stream != bare {
			t.Errorf("GetLastStreamMessage returns %v of %q, want a message of %q", err, m.Stream, bare)
		}
	})

	for _, test := range []struct {
		name   string
		stream mdb.StreamName
		want   int64
	}{
		{"C53 version of a stream", stream, 3},
		{"C53 version of a stream of one message", other, 0},
		{"C53 version of a stream without messages", category.Stream("2"), mdb.NoStream},
		{"C53 version of a category without a stream of its own", mdb.StreamName(category), mdb.NoStream},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := value[*int64](t, s.store.Pool(), `SELECT message_store.stream_version($1::varchar)`, string(test.stream))
			if test.want == mdb.NoStream {
				if got != nil {
					t.Errorf("stream_version is %d, want NULL", *got)
				}
			} else if got == nil || *got != test.want {
				t.Errorf("stream_version is %v, want %d", optional(got), test.want)
			}
			version, err := s.store.StreamVersion(t.Context(), test.stream)
			if err != nil || version != test.want {
				t.Errorf("StreamVersion returns %d, %v, want %d", version, err, test.want)
			}
		})
	}
}
