package mdb_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// stored is a row of the table.
type stored struct {
	ID                       uuid.UUID
	Stream, Type             string
	Position, GlobalPosition int64
	Data, Metadata           *string
}

// rows returns a category's rows, in order.
func rows(t testing.TB, db database, category mdb.Category) []stored {
	t.Helper()
	r, _ := db.Query(t.Context(), `SELECT id, stream_name, type, position, global_position, data::text, metadata::text
		FROM message_store.messages WHERE message_store.category(stream_name) = $1 ORDER BY global_position`, string(category))
	s, err := pgx.CollectRows(r, pgx.RowToStructByPos[stored])
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestWrite compares what writes say of themselves with what the table holds, as
// the owner and with the rights of an application.
func TestWrite(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"", "message_store"} {
		t.Run("role "+role, func(t *testing.T) {
			t.Parallel()
			onBoth(t, newStore(t, newPool(t, testdb.Shared(t), asRole(role))), testWrite)
		})
	}
}

func testWrite(t *testing.T, c calls, db database) {
	category := mdbtest.Category("write")
	one, two := category.Stream("1"), category.Stream("2")
	data := func(text string) json.RawMessage { return json.RawMessage(text) }
	var written []mdb.Written
	var want []stored
	single := func(stream mdb.StreamName, m mdb.ProposedMessage, data, metadata *string, position int64) {
		t.Helper()
		w := write(t, c, stream, m)
		written = append(written, w)
		want = append(want, stored{w.ID, string(stream), m.Type, position, w.GlobalPosition, data, metadata})
	}
	text := func(s string) *string { return &s }

	single(one, mdb.NewMessage("First", data(`{"a": 1}`)), text(`{"a": 1}`), nil, 0)
	single(two, mdb.ProposedMessage{Type: "Second", Metadata: data(`{"m": null}`)}, nil, text(`{"m": null}`), 0)
	single(one, mdb.NewMessage("Third", []any{"x", 2, nil}), text(`["x", 2, null]`), nil, 1)
	// Message DB takes a category for a stream's name.
	single(mdb.StreamName(category), mdb.NewMessage("Fourth", nil), nil, nil, 0)
	ms := proposals(3)
	ms[1].Metadata = map[string]bool{"second": true}
	batch, err := c.WriteMessages(t.Context(), one, ms)
	if err != nil {
		t.Fatal(err)
	}
	if len(batch) != 3 {
		t.Fatalf("%d written for 3 messages", len(batch))
	}
	for i, w := range batch {
		if w.ID != ms[i].ID {
			t.Errorf("message %d of the batch has ID %s, want %s", i, w.ID, ms[i].ID)
		}
		written = append(written, w)
	}
	want = append(want,
		stored{ms[0].ID, string(one), "Happened", 2, batch[0].GlobalPosition, text(`{"n": 0}`), nil},
		stored{ms[1].ID, string(one), "Happened", 3, batch[1].GlobalPosition, text(`{"n": 1}`), text(`{"second": true}`)},
		stored{ms[2].ID, string(one), "Happened", 4, batch[2].GlobalPosition, text(`{"n": 2}`), nil})
	single(two, mdb.NewMessage("Last", nil), nil, nil, 1)

	for i, w := range written {
		if w.Position != want[i].Position || w.Duplicate {
			t.Errorf("write %d: %+v, want position %d and no duplicate", i, w, want[i].Position)
		}
		if i > 0 && w.GlobalPosition <= written[i-1].GlobalPosition {
			t.Errorf("write %d: global position %d follows %d", i, w.GlobalPosition, written[i-1].GlobalPosition)
		}
	}
	got := rows(t, db, category)
	if len(got) != len(want) {
		t.Fatalf("%d rows, want %d", len(got), len(want))
	}
	for i := range got {
		if g, w := asJSON(t, got[i]), asJSON(t, want[i]); g != w {
			t.Errorf("row %d is\n%s, want\n%s", i, g, w)
		}
	}
}

func asJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestWriteMintsIDs has a message without an ID get a new one at each write, and
// one with an ID keep it.
func TestWriteMintsIDs(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("mint").Stream("1")
	m := mdb.ProposedMessage{Type: "Happened"}
	a, b := write(t, s, stream, m), write(t, s, stream, m)
	if a.ID == uuid.Nil || a.ID == b.ID {
		t.Errorf("IDs %s and %s, want two", a.ID, b.ID)
	}
	batch, err := s.WriteMessages(t.Context(), stream, []mdb.ProposedMessage{m, m})
	if err != nil {
		t.Fatal(err)
	}
	if batch[0].ID == uuid.Nil || batch[0].ID == batch[1].ID {
		t.Errorf("IDs %s and %s in a batch, want two", batch[0].ID, batch[1].ID)
	}
	m.ID = uuid.New()
	if w := write(t, s, stream, m); w.ID != m.ID {
		t.Errorf("ID %s, want %s", w.ID, m.ID)
	}
}

// TestWriteNothing has an empty batch do nothing, also where it would fail.
func TestWriteNothing(t *testing.T) {
	t.Parallel()
	s, tx := deafStore(t)
	for _, c := range []calls{s, tx} {
		for _, ms := range [][]mdb.ProposedMessage{nil, {}} {
			w, err := c.WriteMessages(t.Context(), "account-1", ms, mdb.ExpectVersion(5))
			if w != nil || err != nil {
				t.Errorf("%v, error %v", w, err)
			}
		}
	}
}

func TestExpectVersion(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	for name, size := range map[string]int{"single": 1, "batch": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stream := mdbtest.Category("expect").Stream("1")
			do := func(opts ...mdb.WriteOption) error {
				if size == 1 {
					_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), opts...)
					return err
				}
				_, err := s.WriteMessages(t.Context(), stream, proposals(size), opts...)
				return err
			}
			n := int64(size)
			for _, step := range []struct {
				opt    mdb.WriteOption
				expect int64
				actual int64 // -9: it succeeds
			}{
				{mdb.ExpectVersion(0), 0, -1},
				{mdb.ExpectVersion(1 << 62), 1 << 62, -1},
				{mdb.ExpectNoStream(), -1, -9},
				{mdb.ExpectNoStream(), -1, n - 1},
				{mdb.ExpectVersion(n), n, n - 1},
				{mdb.ExpectVersion(n - 2), n - 2, n - 1},
				{mdb.ExpectVersion(n - 1), n - 1, -9},
				{mdb.ExpectVersion(n - 1), n - 1, 2*n - 1},
				{mdb.ExpectVersion(2*n - 1), 2*n - 1, -9},
			} {
				err := do(step.opt)
				if step.actual == -9 {
					if err != nil {
						t.Fatalf("expected version %d: %v", step.expect, err)
					}
					continue
				}
				wrong := wantError[*mdb.WrongVersionError](t, err)
				if wrong.Stream != stream || wrong.Expected != step.expect || wrong.Actual != step.actual {
					t.Errorf("error %+v, want expected %d and actual %d", wrong, step.expect, step.actual)
				}
				wantCode(t, err, "P0001")
			}
			want := make([]int64, 3*n)
			for i := range want {
				want[i] = int64(i)
			}
			if got := positions(t, s.Pool(), stream); !slices.Equal(got, want) {
				t.Errorf("positions %v, want %v", got, want)
			}
		})
	}
}

// TestExpectVersionInTx has the expectation see the transaction's own writes.
func TestExpectVersionInTx(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	tx := begin(t, s.Pool())
	mtx := s.WithTx(tx)
	stream := mdbtest.Category("expect").Stream("1")
	write(t, mtx, stream, mdb.NewMessage("Happened", nil), mdb.ExpectNoStream())
	if _, err := mtx.WriteMessages(t.Context(), stream, proposals(2), mdb.ExpectVersion(0)); err != nil {
		t.Fatal(err)
	}
	_, err := mtx.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), mdb.ExpectVersion(0))
	if wrong := wantError[*mdb.WrongVersionError](t, err); wrong.Actual != 2 || wrong.Expected != 0 {
		t.Errorf("error %+v, want expected 0 and actual 2", wrong)
	}
}

// TestBatchIsAtomic has the k-th message of a batch fail in the server: while it is
// inserted, and when the transaction commits, which is after the server has sent
// all positions.
func TestBatchIsAtomic(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t)
	exec(t, s.Pool(), `
		CREATE FUNCTION public.poison() RETURNS trigger LANGUAGE plpgsql AS
			$$BEGIN RAISE EXCEPTION 'poison' USING ERRCODE = '22000'; END$$;
		CREATE TRIGGER at_once BEFORE INSERT ON message_store.messages FOR EACH ROW
			WHEN (NEW.type = 'AtOnce') EXECUTE FUNCTION public.poison();
		CREATE CONSTRAINT TRIGGER at_the_end AFTER INSERT ON message_store.messages DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
			WHEN (NEW.type = 'AtTheEnd') EXECUTE FUNCTION public.poison();`)
	stream := mdbtest.Category("atomic").Stream("1")
	const n = 5
	for _, typ := range []string{"AtOnce", "AtTheEnd"} {
		for k := range n {
			ms := proposals(n)
			ms[k].Type = typ
			w, err := s.WriteMessages(t.Context(), stream, ms)
			wantCode(t, err, "22000")
			if w != nil {
				t.Errorf("%v beside an error", w)
			}
		}
		_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage(typ, nil))
		wantCode(t, err, "22000")
	}
	if got := positions(t, s.Pool(), stream); len(got) != 0 {
		t.Errorf("positions %v, want none", got)
	}
}

// TestLargeBatch has a batch keep its order over thousands of messages, in every
// exec mode, with texts that arrays have to quote.
func TestLargeBatch(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			s := newStore(t, newPool(t, testdb.Shared(t), execMode(mode)))
			category := mdbtest.Category("large")
			const n = 2000
			hostile := []string{"NULL", "null", `{`, `}`, `"`, `\`, `,`, `'`, ` `, "\n", `{"a","b"}`, `\"`, "🙂", `$1`, "--", "%s", "E'\\''"}
			ms := make([]mdb.ProposedMessage, n)
			for i := range ms {
				text := hostile[i%len(hostile)]
				ms[i] = mdb.NewMessage("type "+text, map[string]any{text: text, "n": i})
				if i%3 == 0 {
					ms[i].Metadata = []string{text}
				}
			}
			stream := category.Stream(`1 "',\{}` + "\n🙂")
			w, err := s.WriteMessages(t.Context(), stream, ms)
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.GetStreamMessages(t.Context(), stream, mdb.WithBatchSize(n+1))
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != n {
				t.Fatalf("%d messages, want %d", len(got), n)
			}
			for i, m := range got {
				data, metadata := any(nil), any(nil)
				if err := m.Decode(&data); err != nil {
					t.Fatal(err)
				}
				if err := m.DecodeMetadata(&metadata); err != nil {
					t.Fatal(err)
				}
				wantMetadata := "null"
				if ms[i].Metadata != nil {
					wantMetadata = asJSON(t, ms[i].Metadata)
				}
				if m.ID != ms[i].ID || m.Type != ms[i].Type || m.Stream != stream || m.Position != int64(i) ||
					m.Position != w[i].Position || m.GlobalPosition != w[i].GlobalPosition || w[i].ID != m.ID ||
					asJSON(t, data) != asJSON(t, ms[i].Data) || asJSON(t, metadata) != wantMetadata {
					t.Fatalf("message %d is %+v (data %s), written %+v as %+v", i, m, m.Data, ms[i], w[i])
				}
			}
		})
	}
}

// TestGlobalPositionUnknown has the sequence hidden, as behind functions that are
// a proxy's or that run as their owner: the write says 0 instead of failing.
func TestGlobalPositionUnknown(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	owner := newStore(t, newPool(t, url))
	exec(t, owner.Pool(), `
		ALTER FUNCTION message_store.write_message SECURITY DEFINER SET search_path = message_store, pg_temp;
		REVOKE ALL ON SEQUENCE message_store.messages_global_position_seq FROM message_store`)
	s := newStore(t, newPool(t, url, asRole("message_store")))
	stream := mdbtest.Category("unknown").Stream("1")
	check := func(w mdb.Written, position int64) {
		t.Helper()
		if w.Position != position || w.GlobalPosition != 0 {
			t.Errorf("%+v, want position %d and no global position", w, position)
		}
	}
	check(write(t, s, stream, mdb.NewMessage("Happened", nil)), 0)
	batch, err := s.WriteMessages(t.Context(), stream, proposals(2))
	if err != nil {
		t.Fatal(err)
	}
	check(batch[0], 1)
	check(batch[1], 2)

	// Nor is there one where the sequence has another name.
	exec(t, owner.Pool(), `ALTER SEQUENCE message_store.messages_global_position_seq RENAME TO elsewhere`)
	check(write(t, newStore(t, newPool(t, url)), stream, mdb.NewMessage("Happened", nil)), 3)
}

// TestGlobalPositionByUsage has a role that may draw from the sequence, and not
// read it: the server tells what was drawn last even so.
func TestGlobalPositionByUsage(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	exec(t, newPool(t, url), `REVOKE SELECT ON SEQUENCE message_store.messages_global_position_seq FROM message_store`)
	s := newStore(t, newPool(t, url, asRole("message_store")))
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	w := write(t, s, mdbtest.Category("usage").Stream("1"), mdb.NewMessage("Happened", nil))
	if w.GlobalPosition != 1 {
		t.Errorf("global position %d, want 1", w.GlobalPosition)
	}
}
