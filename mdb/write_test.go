package mdb_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// A stored is a row of the table.
type stored struct {
	ID                       uuid.UUID
	Stream, Type             string
	Position, GlobalPosition int64
	Data, Metadata           *string
	Time                     time.Time
}

// rows returns the rows of a category in the order of their global positions.
func rows(t testing.TB, db database, category mdb.Category) []stored {
	t.Helper()
	r, _ := db.Query(t.Context(), `SELECT id, stream_name, type, position, global_position, data::text, metadata::text, time
		FROM message_store.messages WHERE message_store.category(stream_name) = $1 ORDER BY global_position`, string(category))
	s, err := pgx.CollectRows(r, pgx.RowToStructByPos[stored])
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func asJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestWriteNothing checks that an empty batch sends nothing and succeeds.
func TestWriteNothing(t *testing.T) {
	t.Parallel()
	s, tx := unusedStore(t)
	for _, c := range []calls{s, tx} {
		for _, ms := range [][]mdb.ProposedMessage{nil, {}} {
			w, err := c.WriteMessages(t.Context(), "account-1", ms, mdb.ExpectVersion(5))
			if w != nil || err != nil {
				t.Errorf("got %v, error %v, want neither", w, err)
			}
		}
	}
}

// TestExpectVersionInTx checks that the expected version counts the transaction's own
// writes.
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
		t.Errorf("got error %+v, want expected 0 and actual 2", wrong)
	}
}

// TestBatchIsAtomic checks that a batch writes nothing if one of its messages fails: on
// insertion, or on commit, which is after the server has sent all positions.
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
				t.Errorf("got %v with an error", w)
			}
		}
		_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage(typ, nil))
		wantCode(t, err, "22000")
	}
	if got := positions(t, s.Pool(), stream); len(got) != 0 {
		t.Errorf("got positions %v, want none", got)
	}
}

// TestLargeBatch checks that thousands of messages keep their order and their texts, in
// each exec mode, with characters that arrays quote.
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
				t.Fatalf("got %d messages, want %d", len(got), n)
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
					t.Fatalf("message %d: got %+v (data %s), written %+v as %+v", i, m, m.Data, ms[i], w[i])
				}
			}
		})
	}
}

// TestGlobalPositionUnknown checks that a write returns the global position 0 instead of
// failing where the role cannot see the sequence, as with functions of a proxy or that
// run as their owner.
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
			t.Errorf("got %+v, want position %d and no global position", w, position)
		}
	}
	check(write(t, s, stream, mdb.NewMessage("Happened", nil)), 0)
	batch, err := s.WriteMessages(t.Context(), stream, proposals(2))
	if err != nil {
		t.Fatal(err)
	}
	check(batch[0], 1)
	check(batch[1], 2)

	// Nor is there one if the sequence has another name.
	exec(t, owner.Pool(), `ALTER SEQUENCE message_store.messages_global_position_seq RENAME TO elsewhere`)
	check(write(t, newStore(t, newPool(t, url)), stream, mdb.NewMessage("Happened", nil)), 3)
}

// TestGlobalPositionByUsage checks that USAGE of the sequence, without SELECT, is enough
// for a write to return the global position.
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
		t.Errorf("got global position %d, want 1", w.GlobalPosition)
	}
}
