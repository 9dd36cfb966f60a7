package mdb_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// seed writes n messages to a stream and returns where they are.
func seed(t testing.TB, s *mdb.Store, stream mdb.StreamName, n int) []mdb.Written {
	t.Helper()
	w, err := s.WriteMessages(t.Context(), stream, proposals(n))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// streamPositions and globalPositions tell which messages were read.
func streamPositions(ms []mdb.Message) (p []int64) {
	for _, m := range ms {
		p = append(p, m.Position)
	}
	return p
}

func globalPositions(ms []mdb.Message) (p []int64) {
	for _, m := range ms {
		p = append(p, m.GlobalPosition)
	}
	return p
}

// TestReadFields compares all fields with what was written, however it is read.
func TestReadFields(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			s := newStore(t, newPool(t, testdb.Shared(t), execMode(mode)))
			stream := mdbtest.Category("fields").Stream("1")
			m := mdb.NewMessage("Happened", map[string]string{"a": "'\\\"🙂"})
			m.Metadata = []any{nil, 1}
			w := write(t, s, stream, m)
			microseconds := value[int64](t, s.Pool(), `SELECT (extract(epoch FROM time) * 1000000)::bigint FROM message_store.messages WHERE id = $1`, m.ID)
			onBoth(t, s, func(t *testing.T, c calls, _ database) {
				last, err := c.GetLastStreamMessage(t.Context(), stream)
				if err != nil {
					t.Fatal(err)
				}
				ofStream, err := c.GetStreamMessages(t.Context(), stream)
				if err != nil {
					t.Fatal(err)
				}
				ofCategory, err := c.GetCategoryMessages(t.Context(), stream.Category())
				if err != nil {
					t.Fatal(err)
				}
				if len(ofStream) != 1 || len(ofCategory) != 1 {
					t.Errorf("%d and %d messages, want 1", len(ofStream), len(ofCategory))
				}
				for _, got := range slices.Concat([]mdb.Message{last}, ofStream, ofCategory) {
					want := m.ID.String() + string(stream) + `Happened{"a": "'\\\"🙂"}[null, 1]`
					if text := got.ID.String() + string(got.Stream) + got.Type + string(got.Data) + string(got.Metadata); text != want {
						t.Errorf("read %s, want %s", text, want)
					}
					if got.Position != 0 || got.GlobalPosition != w.GlobalPosition {
						t.Errorf("positions %d and %d, want 0 and %d", got.Position, got.GlobalPosition, w.GlobalPosition)
					}
					if got.Time.Location() != time.UTC || got.Time.UnixMicro() != microseconds || got.Time.Nanosecond()%1000 != 0 {
						t.Errorf("time %v, want %v", got.Time, time.UnixMicro(microseconds).UTC())
					}
				}
			})
		})
	}
}

func TestGetStreamMessages(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	category := mdbtest.Category("stream")
	stream := category.Stream("1")
	seed(t, s, stream, 5)
	// Names that only begin alike are others.
	seed(t, s, stream+"0", 2)
	seed(t, s, mdb.StreamName(category), 2)
	onBoth(t, s, func(t *testing.T, c calls, _ database) {
		for _, tt := range []struct {
			name   string
			stream mdb.StreamName
			opts   []mdb.StreamReadOption
			want   []int64
		}{
			{"all", stream, nil, []int64{0, 1, 2, 3, 4}},
			{"from 0", stream, []mdb.StreamReadOption{mdb.FromPosition(0)}, []int64{0, 1, 2, 3, 4}},
			{"from 3", stream, []mdb.StreamReadOption{mdb.FromPosition(3)}, []int64{3, 4}},
			{"from the end", stream, []mdb.StreamReadOption{mdb.FromPosition(5)}, nil},
			{"from the largest", stream, []mdb.StreamReadOption{mdb.FromPosition(math.MaxInt64)}, nil},
			{"after none", stream, []mdb.StreamReadOption{mdb.AfterPosition(mdb.NoStream)}, []int64{0, 1, 2, 3, 4}},
			{"after 3", stream, []mdb.StreamReadOption{mdb.AfterPosition(3)}, []int64{4}},
			{"after the last", stream, []mdb.StreamReadOption{mdb.AfterPosition(4)}, nil},
			{"batch", stream, []mdb.StreamReadOption{mdb.WithBatchSize(2)}, []int64{0, 1}},
			{"batch behind", stream, []mdb.StreamReadOption{mdb.WithBatchSize(2), mdb.AfterPosition(0)}, []int64{1, 2}},
			{"huge batch", stream, []mdb.StreamReadOption{mdb.WithBatchSize(math.MaxInt)}, []int64{0, 1, 2, 3, 4}},
			{"unlimited", stream, []mdb.StreamReadOption{mdb.Unlimited(), mdb.FromPosition(1)}, []int64{1, 2, 3, 4}},
			{"unknown", category.Stream("2"), nil, nil},
		} {
			t.Run(tt.name, func(t *testing.T) {
				ms, err := c.GetStreamMessages(t.Context(), tt.stream, tt.opts...)
				if err != nil {
					t.Fatal(err)
				}
				if got := streamPositions(ms); !slices.Equal(got, tt.want) {
					t.Errorf("positions %v, want %v", got, tt.want)
				}
			})
		}
	})
}

func TestGetCategoryMessages(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	category := mdbtest.Category("category")
	var p []int64
	for _, stream := range []mdb.StreamName{
		category.Stream("1"), category.Stream("2"), mdb.StreamName(category), category.Stream("1"), category.Stream("2-3"),
	} {
		p = append(p, seed(t, s, stream, 1)[0].GlobalPosition)
		seed(t, s, (category + "x").Stream("1"), 1)
	}
	onBoth(t, s, func(t *testing.T, c calls, _ database) {
		for _, tt := range []struct {
			name string
			opts []mdb.CategoryReadOption
			want []int64
		}{
			{"all", nil, p},
			{"from 0", []mdb.CategoryReadOption{mdb.FromGlobalPosition(0)}, p},
			{"from the second", []mdb.CategoryReadOption{mdb.FromGlobalPosition(p[1])}, p[1:]},
			{"from in between", []mdb.CategoryReadOption{mdb.FromGlobalPosition(p[1] + 1)}, p[2:]},
			{"after 0", []mdb.CategoryReadOption{mdb.AfterGlobalPosition(0)}, p},
			{"after the second", []mdb.CategoryReadOption{mdb.AfterGlobalPosition(p[1])}, p[2:]},
			{"after the last", []mdb.CategoryReadOption{mdb.AfterGlobalPosition(p[4])}, nil},
			{"from the largest", []mdb.CategoryReadOption{mdb.FromGlobalPosition(math.MaxInt64)}, nil},
			{"batch", []mdb.CategoryReadOption{mdb.WithBatchSize(2)}, p[:2]},
			{"batch behind", []mdb.CategoryReadOption{mdb.AfterGlobalPosition(p[0]), mdb.WithBatchSize(3)}, p[1:4]},
			{"unlimited", []mdb.CategoryReadOption{mdb.Unlimited()}, p},
		} {
			t.Run(tt.name, func(t *testing.T) {
				ms, err := c.GetCategoryMessages(t.Context(), category, tt.opts...)
				if err != nil {
					t.Fatal(err)
				}
				if got := globalPositions(ms); !slices.Equal(got, tt.want) {
					t.Errorf("global positions %v, want %v", got, tt.want)
				}
			})
		}
	})
}

// TestDefaultBatchSize has a read without options stop where the documentation
// says, and one without a limit not.
func TestDefaultBatchSize(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("default").Stream("1")
	const n = mdb.DefaultBatchSize + 1
	seed(t, s, stream, n)
	onBoth(t, s, func(t *testing.T, c calls, _ database) {
		lengths := func(ms []mdb.Message, err error) int {
			if err != nil {
				t.Error(err)
			}
			return len(ms)
		}
		got := []int{
			lengths(c.GetStreamMessages(t.Context(), stream)),
			lengths(c.GetCategoryMessages(t.Context(), stream.Category())),
			lengths(c.GetStreamMessages(t.Context(), stream, mdb.Unlimited())),
			lengths(c.GetCategoryMessages(t.Context(), stream.Category(), mdb.Unlimited())),
		}
		if want := []int{n - 1, n - 1, n, n}; !slices.Equal(got, want) {
			t.Errorf("%v messages, want %v", got, want)
		}
	})
}

func TestWithCorrelation(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	category := mdbtest.Category("correlation")
	origin := mdbtest.Category("origin")
	var p []int64
	for i, metadata := range []any{
		map[string]any{"correlationStreamName": origin.Stream("1")},
		nil,
		map[string]any{"correlationStreamName": string(origin)},
		map[string]any{"correlationStreamName": (origin + "x").Stream("1")},
		map[string]any{"correlationStreamName": origin.Stream("2"), "other": 1},
		[]string{"correlationStreamName"},
	} {
		w := write(t, s, category.Stream(fmt.Sprint(i%2)), mdb.ProposedMessage{Type: "Happened", Metadata: metadata})
		p = append(p, w.GlobalPosition)
	}
	onBoth(t, s, func(t *testing.T, c calls, _ database) {
		for _, tt := range []struct {
			opts []mdb.CategoryReadOption
			want []int64
		}{
			{nil, []int64{p[0], p[2], p[4]}},
			{[]mdb.CategoryReadOption{mdb.AfterGlobalPosition(p[0])}, []int64{p[2], p[4]}},
			{[]mdb.CategoryReadOption{mdb.WithBatchSize(2)}, []int64{p[0], p[2]}},
		} {
			ms, err := c.GetCategoryMessages(t.Context(), category, append(tt.opts, mdb.WithCorrelation(origin))...)
			if err != nil {
				t.Fatal(err)
			}
			if got := globalPositions(ms); !slices.Equal(got, tt.want) {
				t.Errorf("global positions %v, want %v", got, tt.want)
			}
		}
	})
}

// TestAsConsumerGroup has each stream go to the member that the documentation of
// Hash64 says, and the category's own stream to none.
func TestAsConsumerGroup(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	category := mdbtest.Category("group")
	for i := range 20 {
		seed(t, s, category.Stream(mdb.CompoundID(fmt.Sprint("k", i%10), fmt.Sprint(i))), 2)
	}
	seed(t, s, mdb.StreamName(category), 3)
	all, err := s.GetCategoryMessages(t.Context(), category)
	if err != nil {
		t.Fatal(err)
	}
	onBoth(t, s, func(t *testing.T, c calls, _ database) {
		for _, size := range []int{1, 2, 3, 7, math.MaxInt16} {
			seen := 0
			for member := range min(size, 7) {
				got, err := c.GetCategoryMessages(t.Context(), category, mdb.AsConsumerGroup(member, size))
				if err != nil {
					t.Fatal(err)
				}
				var want []int64
				for _, m := range all {
					if m.Stream.ID() == "" {
						continue
					}
					hash := mdb.Hash64(m.Stream.CardinalID())
					if uint64(max(hash, -hash))%uint64(size) == uint64(member) {
						want = append(want, m.GlobalPosition)
					}
				}
				if !slices.Equal(globalPositions(got), want) {
					t.Errorf("member %d of %d reads %v, want %v", member, size, globalPositions(got), want)
				}
				seen += len(want)
			}
			if size <= 7 && seen != 40 {
				t.Errorf("%d members read %d messages together, want 40", size, seen)
			}
		}
	})
}

func TestGetLastStreamMessage(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	category := mdbtest.Category("last")
	stream := category.Stream("1")
	for _, typ := range []string{"A", "B", "A", "C"} {
		write(t, s, stream, mdb.NewMessage(typ, nil))
	}
	write(t, s, mdb.StreamName(category), mdb.NewMessage("D", nil))
	onBoth(t, s, func(t *testing.T, c calls, _ database) {
		for _, tt := range []struct {
			stream mdb.StreamName
			opts   []mdb.LastMessageOption
			want   int64 // -1 for none
			typ    string
		}{
			{stream, nil, 3, "C"},
			{stream, []mdb.LastMessageOption{mdb.OfType("A")}, 2, "A"},
			{stream, []mdb.LastMessageOption{mdb.OfType("B")}, 1, "B"},
			{stream, []mdb.LastMessageOption{mdb.OfType("D")}, -1, ""},
			{mdb.StreamName(category), nil, 0, "D"},
			{category.Stream("2"), nil, -1, ""},
		} {
			m, err := c.GetLastStreamMessage(t.Context(), tt.stream, tt.opts...)
			if tt.want < 0 {
				if !errors.Is(err, mdb.ErrNoMessage) {
					t.Errorf("%s: message %+v, error %v, want ErrNoMessage", tt.stream, m, err)
				}
				continue
			}
			if err != nil || m.Position != tt.want || m.Type != tt.typ || m.Stream != tt.stream {
				t.Errorf("%s: message %+v, error %v, want position %d of type %s", tt.stream, m, err, tt.want, tt.typ)
			}
		}
	})
}

func TestVersions(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("version").Stream("1")
	seed(t, s, stream, 3)
	onBoth(t, s, func(t *testing.T, c calls, _ database) {
		for stream, want := range map[mdb.StreamName]int64{
			stream:                                  2,
			stream.Category().Stream("2"):           mdb.NoStream,
			mdb.StreamName(stream.Category()):       mdb.NoStream,
			mdb.StreamName(stream.Category()) + "x": mdb.NoStream,
		} {
			if got, err := c.StreamVersion(t.Context(), stream); err != nil || got != want {
				t.Errorf("%s is at version %d, error %v, want %d", stream, got, err, want)
			}
		}
		if got, err := c.MessageStoreVersion(t.Context()); err != nil || got != "1.3.0" {
			t.Errorf("Message DB's version is %q, error %v, want 1.3.0", got, err)
		}
	})
}

// TestReadInTxSeesItsWrites has a transaction read what only it can see.
func TestReadInTxSeesItsWrites(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("own").Stream("1")
	tx := begin(t, s.Pool())
	mtx := s.WithTx(tx)
	write(t, mtx, stream, mdb.NewMessage("Happened", nil))
	for c, want := range map[calls]int64{mtx: 0, s: mdb.NoStream} {
		if got, err := c.StreamVersion(t.Context(), stream); err != nil || got != want {
			t.Errorf("%T: version %d, error %v, want %d", c, got, err, want)
		}
	}
}
