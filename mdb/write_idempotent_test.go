package mdb_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/schema"
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
		differs  string // of the DuplicateIDError
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
		{name: "wrong order", stored: []string{"ab"}, again: "ba", present: "ba", differs: "position"},
		{name: "not one after the other", stored: []string{"a", "x", "b"}, again: "ab", present: "ab", differs: "position"},

		{name: "no stream", stored: []string{"a"}, again: "a", opts: []mdb.WriteOption{mdb.ExpectNoStream()}, position: 0},
		{name: "no stream, with later ones", stored: []string{"ab", "c"}, again: "ab", opts: []mdb.WriteOption{mdb.ExpectNoStream()}, position: 0},
		{name: "version", stored: []string{"x", "ab"}, again: "ab", opts: []mdb.WriteOption{mdb.ExpectVersion(0)}, position: 1},
		// The server checks the version first, and then the ID.
		{name: "version of the repeat", stored: []string{"a"}, again: "a", opts: []mdb.WriteOption{mdb.ExpectVersion(0)}, present: "a", differs: "position"},
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
				if duplicate.Differs != tt.differs {
					t.Errorf("got a difference in %q, want %q", duplicate.Differs, tt.differs)
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
					want := mdb.Written{ID: id, Position: tt.position + int64(i), GlobalPosition: before[tt.position+int64(i)].GlobalPosition, Time: before[tt.position+int64(i)].Time, Duplicate: true}
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

// TestIdempotentContent checks that a write is a repetition only if its type and data are
// equal, as PostgreSQL compares JSON, and that the error says what differs.
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
		name    string
		again   mdb.ProposedMessage
		differs string
	}{
		{"same", first, ""},
		{"other spelling", with(func(m *mdb.ProposedMessage) { m.Data = raw(`{"b":[1,null],"a":2,"a":1.00}`) }), ""},
		{"marshalled", with(func(m *mdb.ProposedMessage) { m.Data = map[string]any{"a": 1, "b": []any{1, nil}} }), ""},
		{"no metadata", with(func(m *mdb.ProposedMessage) { m.Metadata = nil }), ""},
		{"other metadata", with(func(m *mdb.ProposedMessage) { m.Metadata = raw(`{"traceparent": "00-1"}`) }), ""},
		{"other type", with(func(m *mdb.ProposedMessage) { m.Type = "t" }), "type"},
		{"other data", with(func(m *mdb.ProposedMessage) { m.Data = raw(`{"a": 1, "b": [1]}`) }), "data"},
		{"no data", with(func(m *mdb.ProposedMessage) { m.Data = nil }), "data"},
		{"other type and data", with(func(m *mdb.ProposedMessage) { m.Type, m.Data = "t", nil }), "type"},
	} {
		for i, opts := range [][]mdb.WriteOption{{mdb.Idempotent()}, {mdb.Idempotent(), mdb.ExpectNoStream()}} {
			t.Run(fmt.Sprintf("%s, %d", tt.name, i), func(t *testing.T) {
				t.Parallel()
				stream := mdbtest.Category("content").Stream("1")
				first, again := first, tt.again
				first.ID = uuid.New()
				again.ID = first.ID
				w := write(t, s, stream, first)
				got, err := s.WriteMessage(t.Context(), stream, again, opts...)
				w.Duplicate = true
				checkDiffers := func(err error, part string) {
					t.Helper()
					duplicate := wantError[*mdb.DuplicateIDError](t, err)
					text := "a message with ID " + first.ID.String() + " already exists and differs in its " + part
					if duplicate.Differs != part || !strings.Contains(err.Error(), text) || !slices.Equal(duplicate.IDs, []uuid.UUID{first.ID}) {
						t.Errorf("got error %v with %+v, want a difference in %s", err, duplicate, part)
					}
					checkNoCanary(t, err)
				}
				switch {
				case tt.differs == "" && (err != nil || got != w):
					t.Errorf("got %+v, error %v, want %+v", got, err, w)
				case tt.differs != "":
					checkDiffers(err, tt.differs)
				}
				// In another stream it is never the same message.
				_, err = s.WriteMessage(t.Context(), stream.Category().Stream("2"), again, opts...)
				checkDiffers(err, "stream")
			})
		}
	}
}

// TestDuplicateText checks that the error of a batch names the message that differs.
func TestDuplicateText(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("text").Stream("1")
	ms := proposals(3)
	if _, err := s.WriteMessages(t.Context(), stream, ms); err != nil {
		t.Fatal(err)
	}
	ms[1].Type, ms[2].Data = "Other", nil
	_, err := s.WriteMessages(t.Context(), stream, ms, mdb.Idempotent())
	duplicate := wantError[*mdb.DuplicateIDError](t, err)
	want := fmt.Sprintf("mdb: a message with one of 3 IDs already exists, the first of them %s, and that with ID %s differs in its type", ms[0].ID, ms[1].ID)
	if err.Error() != want || duplicate.Differs != "type" {
		t.Errorf("got error %v, want %q", err, want)
	}
	// Nothing differs, but one is missing.
	ms = append(proposals(1), mdb.ProposedMessage{ID: ms[0].ID, Type: "Happened", Data: ms[0].Data})
	_, err = s.WriteMessages(t.Context(), stream, ms, mdb.Idempotent())
	if duplicate := wantError[*mdb.DuplicateIDError](t, err); duplicate.Differs != "" || !slices.Equal(duplicate.IDs, []uuid.UUID{ms[1].ID}) {
		t.Errorf("got error %v with %+v, want no difference", err, duplicate)
	}
}

// TestIdempotentUnseen checks that the outcome is unknown if the server reports an ID as a
// duplicate and the look does not find it: the message cannot be compared. So it is if the
// look has reached a standby, which may lag. Later the same call succeeds.
func TestIdempotentUnseen(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	// With it, Message DB's own functions work with the path of the case "standby".
	if _, err := schema.PinSearchPath(t.Context(), newPool(t, url)); err != nil {
		t.Fatal(err)
	}
	exec(t, newPool(t, url), `
		CREATE SCHEMA standby;
		CREATE FUNCTION standby.pg_is_in_recovery() RETURNS bool LANGUAGE sql AS 'SELECT true';
		GRANT USAGE ON SCHEMA standby TO message_store;
		CREATE POLICY written ON message_store.messages FOR INSERT WITH CHECK (true);
		CREATE POLICY hidden ON message_store.messages FOR SELECT USING (coalesce(current_setting('mdb.hidden', true), '') <> 'yes')`)
	sees := newStore(t, newPool(t, url, asRole("message_store")), attempts(2))
	for name, prepare := range map[string][]func(*pgxpool.Config){
		"hidden":  {parameter("mdb.hidden", "yes")},
		"standby": {parameter("search_path", "standby, message_store, pg_catalog")},
	} {
		t.Run(name, func(t *testing.T) {
			var log journal
			s := newStore(t, newPool(t, url, append(prepare, asRole("message_store"))...), log.option(), attempts(2))
			stream := mdbtest.Category("unseen").Stream("1")
			m := mdb.NewMessage("Happened", canary)
			m.Data = []string{canary}
			want := write(t, sees, stream, m)
			want.Duplicate = true
			exec(t, newPool(t, url), `ALTER TABLE message_store.messages ENABLE ROW LEVEL SECURITY`)
			_, err := s.WriteMessage(t.Context(), stream, m, mdb.Idempotent())
			if unknown := wantError[*mdb.UnknownOutcomeError](t, err); !slices.Equal(unknown.IDs, []uuid.UUID{m.ID}) || is[*mdb.DuplicateIDError](err) {
				t.Errorf("got error %v, want the unknown outcome of %s", err, m.ID)
			}
			if n := log.retries(); n != 1 {
				t.Errorf("got %d retries, want 1", n)
			}
			checkNoCanary(t, err)
			if got, err := sees.WriteMessage(t.Context(), stream, m, mdb.Idempotent()); err != nil || got != want {
				t.Errorf("got %+v, error %v, want %+v", got, err, want)
			}
		})
	}
}

// TestIdempotentLookLostThenDiffers checks that a lost look does not make the outcome
// unknown if a later one finds that the messages differ: no attempt can have written.
func TestIdempotentLookLostThenDiffers(t *testing.T) {
	t.Parallel()
	var w wire
	s := newStore(t, newPool(t, testdb.Shared(t), w.attach, oneConnection), attempts(3))
	stream := mdbtest.Category("look").Stream("1")
	m := mdb.NewMessage("Happened", 1)
	write(t, s, stream, m)
	m.Data = 2
	w.cut(cut{"find_messages", 0})
	_, err := s.WriteMessage(t.Context(), stream, m, mdb.Idempotent())
	if duplicate := wantError[*mdb.DuplicateIDError](t, err); duplicate.Differs != "data" || w.uncut() != 0 {
		t.Errorf("got error %v, want a difference in data", err)
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
