package mdb_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestIdempotent checks a write some of whose messages are already stored. Messages are
// letters: "ab" is a write of a and b.
func TestIdempotent(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	for _, tt := range []struct {
		name   string
		stored []string
		again  string
		opts   []mdb.WriteOption

		// One of these is expected: a duplicate at this position, the IDs in a
		// DuplicateIDError, or the version in a WrongVersionError.
		position int64
		present  string
		actual   *int64
	}{
		{name: "single", stored: []string{"a"}, again: "a", position: 0},
		{name: "single after others", stored: []string{"xy", "a", "z"}, again: "a", position: 2},
		{name: "single of a batch", stored: []string{"abc"}, again: "b", position: 1},
		{name: "batch", stored: []string{"abc"}, again: "abc", position: 0},
		{name: "batch written one by one", stored: []string{"x", "a", "b", "c", "y"}, again: "abc", position: 1},
		{name: "beginning of a batch", stored: []string{"abc"}, again: "ab", position: 0},
		{name: "end of a batch", stored: []string{"abc"}, again: "bc", position: 1},

		{name: "beginning present", stored: []string{"ab"}, again: "abc", present: "ab"},
		{name: "middle present", stored: []string{"b"}, again: "abc", present: "b"},
		{name: "end present", stored: []string{"c"}, again: "abc", present: "c"},
		{name: "wrong order", stored: []string{"ab"}, again: "ba", present: "ba"},
		{name: "not one after the other", stored: []string{"a", "x", "b"}, again: "ab", present: "ab"},

		{name: "no stream", stored: []string{"a"}, again: "a", opts: []mdb.WriteOption{mdb.ExpectNoStream()}, position: 0},
		{name: "no stream, with later ones", stored: []string{"ab", "c"}, again: "ab", opts: []mdb.WriteOption{mdb.ExpectNoStream()}, position: 0},
		{name: "version", stored: []string{"x", "ab"}, again: "ab", opts: []mdb.WriteOption{mdb.ExpectVersion(0)}, position: 1},
		// The server checks the version first, and then the ID.
		{name: "version of the repeat", stored: []string{"a"}, again: "a", opts: []mdb.WriteOption{mdb.ExpectVersion(0)}, present: "a"},
		{name: "other version", stored: []string{"a"}, again: "a", opts: []mdb.WriteOption{mdb.ExpectVersion(5)}, actual: new(int64)},
		{name: "other messages", stored: []string{"a"}, again: "b", opts: []mdb.WriteOption{mdb.ExpectNoStream()}, actual: new(int64)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			stream := mdbtest.Category("idempotent").Stream("1")
			ids := make(map[rune]uuid.UUID)
			write := func(letters string, opts ...mdb.WriteOption) ([]mdb.Written, error) {
				var ms []mdb.ProposedMessage
				for _, l := range letters {
					if ids[l] == uuid.Nil {
						ids[l] = uuid.New()
					}
					ms = append(ms, mdb.ProposedMessage{ID: ids[l], Type: "T" + string(l), Data: map[string]any{"l": l, "m": 1.5}, Metadata: []int32{l}})
				}
				return s.WriteMessages(t.Context(), stream, ms, opts...)
			}
			idsOf := func(letters string) (list []uuid.UUID) {
				for _, l := range letters {
					list = append(list, ids[l])
				}
				return list
			}
			for _, letters := range tt.stored {
				if _, err := write(letters); err != nil {
					t.Fatal(err)
				}
			}
			before := rows(t, s.Pool(), stream.Category())
			got, err := write(tt.again, append(tt.opts, mdb.Idempotent())...)
			switch {
			case tt.present != "":
				duplicate := wantError[*mdb.DuplicateIDError](t, err)
				if !slices.Equal(duplicate.IDs, idsOf(tt.present)) {
					t.Errorf("got IDs %v, want those of %s", duplicate.IDs, tt.present)
				}
				wantCode(t, err, "23505")
			case tt.actual != nil:
				if wrong := wantError[*mdb.WrongVersionError](t, err); wrong.Actual != *tt.actual {
					t.Errorf("got error %+v, want actual %d", wrong, *tt.actual)
				}
			case err != nil:
				t.Fatal(err)
			default:
				for i, id := range idsOf(tt.again) {
					want := mdb.Written{ID: id, Position: tt.position + int64(i), GlobalPosition: before[tt.position+int64(i)].GlobalPosition, Duplicate: true}
					if got[i] != want {
						t.Errorf("message %d: got %+v, want %+v", i, got[i], want)
					}
				}
			}
			if after := rows(t, s.Pool(), stream.Category()); len(after) != len(before) {
				t.Errorf("got %d rows, want as before %d", len(after), len(before))
			}
			// Without the option an existing ID is an error.
			if len(tt.opts) == 0 {
				_, err = write(tt.again)
				if duplicate := wantError[*mdb.DuplicateIDError](t, err); !slices.Equal(duplicate.IDs, idsOf(tt.again)) {
					t.Errorf("got IDs %v, want all of the call's", duplicate.IDs)
				}
				wantCode(t, err, "23505")
			}
		})
	}
}

// TestIdempotentContent checks that a write is a repetition only if its content is equal,
// as PostgreSQL compares JSON.
func TestIdempotentContent(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	raw := func(text string) json.RawMessage { return json.RawMessage(text) }
	first := mdb.ProposedMessage{Type: "T", Data: raw(`{"a": 1, "b": [1.0, null]}`), Metadata: raw(`null`)}
	with := func(change func(*mdb.ProposedMessage)) mdb.ProposedMessage {
		m := first
		change(&m)
		return m
	}
	for _, tt := range []struct {
		name  string
		again mdb.ProposedMessage
		same  bool
	}{
		{"same", first, true},
		{"other spelling", with(func(m *mdb.ProposedMessage) { m.Data = raw(`{"b":[1,null],"a":2,"a":1.00}`) }), true},
		{"marshalled", with(func(m *mdb.ProposedMessage) { m.Data = map[string]any{"a": 1, "b": []any{1, nil}} }), true},
		{"other type", with(func(m *mdb.ProposedMessage) { m.Type = "t" }), false},
		{"other data", with(func(m *mdb.ProposedMessage) { m.Data = raw(`{"a": 1, "b": [1]}`) }), false},
		{"no data", with(func(m *mdb.ProposedMessage) { m.Data = nil }), false},
		{"no metadata", with(func(m *mdb.ProposedMessage) { m.Metadata = nil }), false},
		{"other metadata", with(func(m *mdb.ProposedMessage) { m.Metadata = raw(`{}`) }), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			stream := mdbtest.Category("content").Stream("1")
			first, again := first, tt.again
			first.ID = uuid.New()
			again.ID = first.ID
			w := write(t, s, stream, first)
			got, err := s.WriteMessage(t.Context(), stream, again, mdb.Idempotent())
			w.Duplicate = true
			switch {
			case tt.same && (err != nil || got != w):
				t.Errorf("got %+v, error %v, want %+v", got, err, w)
			case !tt.same:
				wantError[*mdb.DuplicateIDError](t, err)
			}
			// In another stream it is never the same message.
			_, err = s.WriteMessage(t.Context(), stream.Category().Stream("2"), again, mdb.Idempotent())
			wantError[*mdb.DuplicateIDError](t, err)
		})
	}
}

// TestIdempotentNew checks that the option changes nothing for new messages.
func TestIdempotentNew(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("new").Stream("1")
	for i := range int64(3) {
		w := write(t, s, stream, mdb.ProposedMessage{Type: "Happened"}, mdb.Idempotent(), mdb.ExpectVersion(i-1))
		if w.Position != i || w.Duplicate {
			t.Errorf("got %+v, want position %d and no duplicate", w, i)
		}
	}
}

// TestIdempotentLookLost checks that the query for existing messages is retried when its
// connection breaks, and that the outcome stays unknown as long as the query does not
// succeed.
func TestIdempotentLookLost(t *testing.T) {
	t.Parallel()
	var w wire
	pool := newPool(t, testdb.Shared(t), w.attach, oneConnection)
	patient, hasty := newStore(t, pool, attempts(3)), newStore(t, pool, attempts(1))
	stream := mdbtest.Category("look").Stream("1")
	m := mdb.NewMessage("Happened", []string{canary})
	want := write(t, patient, stream, m)
	want.Duplicate = true
	for _, place := range []int{unsent, lost, 0} {
		w.cut(cut{"find_messages", place})
		_, err := hasty.WriteMessage(t.Context(), stream, m, mdb.Idempotent())
		if !isUnknown(err) {
			t.Errorf("got error %v, want an unknown outcome", err)
		}
		checkNoCanary(t, err)
		w.cut(cut{"find_messages", place})
		if got, err := patient.WriteMessage(t.Context(), stream, m, mdb.Idempotent()); err != nil || got != want {
			t.Errorf("got %+v, error %v, want %+v", got, err, want)
		}
	}
}

// TestIdempotentRace checks that of many concurrent writes of the same messages one
// writes, and all succeed.
func TestIdempotentRace(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	for _, opts := range [][]mdb.WriteOption{{mdb.Idempotent()}, {mdb.Idempotent(), mdb.ExpectNoStream()}} {
		t.Run(fmt.Sprintf("%d options", len(opts)), func(t *testing.T) {
			t.Parallel()
			stream := mdbtest.Category("race").Stream("1")
			ms := proposals(3)
			var wg sync.WaitGroup
			var first atomic.Int64
			for range 16 {
				wg.Go(func() {
					w, err := s.WriteMessages(t.Context(), stream, ms, opts...)
					if err != nil {
						t.Error(err)
						return
					}
					if !w[0].Duplicate {
						first.Add(1)
					}
					for i, w := range w {
						if w.ID != ms[i].ID || w.Position != int64(i) || w.GlobalPosition == 0 {
							t.Errorf("message %d: got %+v", i, w)
						}
					}
				})
			}
			wg.Wait()
			if n := first.Load(); n != 1 {
				t.Errorf("got %d writes that wrote, want 1", n)
			}
			if p := positions(t, s.Pool(), stream); !slices.Equal(p, []int64{0, 1, 2}) {
				t.Errorf("got positions %v, want 0 to 2", p)
			}
		})
	}
}
