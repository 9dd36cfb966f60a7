package conformance

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// write is about what a write stores; rejections is about the calls that fail.
func (s *suite) write(t *testing.T) {
	t.Helper()
	s.check(t, "counts positions from 0 in each stream", func(t *testing.T) {
		category := mdbtest.Category("positions")
		for want := range int64(3) {
			for _, stream := range []mdb.StreamName{category.Stream("1"), category.Stream("2"), category.Stream("1+2")} {
				if got := write(t, s.store.Pool(), proposal{stream: stream}); got != want {
					t.Errorf("position in %s is %d, want %d", stream, got, want)
				}
			}
		}
	})

	s.check(t, "stores its arguments as jsonb, with the time of the transaction in UTC", func(t *testing.T) {
		stream := mdbtest.Category("written").Stream("1")
		id := uuid.New()
		tx := s.begin(t, pgx.TxOptions{})
		// The time is UTC and of the transaction: neither local nor of the statement.
		do(t, tx, `SET LOCAL timezone = 'Asia/Tokyo'`)
		write(t, tx, proposal{
			id: id.String(), stream: stream, typ: "Opened",
			data: `{"b": 1.0, "a": "ä"}`, metadata: `{"m": [true, null]}`,
		})
		first := value[int64](t, tx, `SELECT currval('message_store.messages_global_position_seq')`)
		write(t, tx, proposal{stream: stream})
		now := value[time.Time](t, tx, `SELECT now() AT TIME ZONE 'utc'`)

		got := records(t, tx, `message_store.messages WHERE stream_name = $1::text ORDER BY position`, string(stream))
		if len(got) != 2 {
			t.Fatalf("got %d rows, want 2", len(got))
		}
		want := record{
			ID: id, Stream: string(stream), Type: "Opened",
			Position: 0, GlobalPosition: first,
			Data:     pgtype.Text{String: `{"a": "ä", "b": 1.0}`, Valid: true},
			Metadata: pgtype.Text{String: `{"m": [true, null]}`, Valid: true},
			Time:     now,
		}
		if got[0] != want {
			t.Errorf("got %+v, want %+v", got[0], want)
		}
		if !got[1].Time.Equal(now) {
			t.Errorf("the second message's time is %v, want the transaction's, %v", got[1].Time, now)
		}
		if got[1].GlobalPosition <= first {
			t.Errorf("the second message's global position is %d, want more than %d", got[1].GlobalPosition, first)
		}
	})

	s.check(t, "a rollback undoes a write", func(t *testing.T) {
		stream := mdbtest.Category("undone").Stream("1")
		tx := s.begin(t, pgx.TxOptions{})
		write(t, tx, proposal{stream: stream})
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := s.count(t, stream.Category()); n != 0 {
			t.Errorf("after the rollback the category has %d messages, want 0", n)
		}
	})

	s.check(t, "the messages of a transaction have its time", func(t *testing.T) {
		stream := mdbtest.Category("time").Stream("1")
		tx := s.begin(t, pgx.TxOptions{})
		write(t, tx, proposal{stream: stream})
		write(t, tx, proposal{stream: stream})
		if n := value[int](t, tx, `SELECT count(DISTINCT time) FROM message_store.messages WHERE stream_name = $1::text`, string(stream)); n != 1 {
			t.Errorf("two messages of a transaction have %d times, want 1", n)
		}
	})

	s.check(t, "stream name: a name without an id is a stream", func(t *testing.T) {
		category := mdbtest.Category("bare")
		stream := mdb.StreamName(category)
		if got := write(t, s.store.Pool(), proposal{stream: stream, expected: mdb.NoStream}); got != 0 {
			t.Errorf("the first position is %d, want 0", got)
		}
		// The id is another stream's.
		if got := write(t, s.store.Pool(), proposal{stream: category.Stream("1"), expected: mdb.NoStream}); got != 0 {
			t.Errorf("the first position of a stream of the category is %d, want 0", got)
		}
		w, err := s.store.WriteMessage(t.Context(), stream, mdb.NewMessage("Tested", nil), mdb.ExpectVersion(0))
		if err != nil || w.Position != 1 {
			t.Errorf("WriteMessage returns %+v, %v, want position 1", w, err)
		}
	})
}

func (s *suite) payloads(t *testing.T) {
	t.Helper()
	for _, test := range []struct {
		name           string
		data, metadata any
		sql            string
	}{
		{"data: NULL", nil, json.RawMessage(`{}`), `SELECT data IS NULL AND metadata = '{}'`},
		{"metadata: NULL", json.RawMessage(`{}`), nil, `SELECT data = '{}' AND metadata IS NULL`},
		{"data and metadata: the JSON null", json.RawMessage(`null`), json.RawMessage(`null`), `SELECT data = 'null' AND metadata = 'null'`},
		{"data: a number", json.RawMessage(`1e2`), nil, `SELECT data = '100'`},
	} {
		s.check(t, test.name, func(t *testing.T) {
			stream := mdbtest.Category("payload").Stream("1")
			write(t, s.store.Pool(), proposal{stream: stream, data: text(test.data), metadata: text(test.metadata)})
			if _, err := s.store.WriteMessage(t.Context(), stream, mdb.ProposedMessage{Type: "Tested", Data: test.data, Metadata: test.metadata}); err != nil {
				t.Fatal(err)
			}
			got := list[bool](t, s.store.Pool(), test.sql+` FROM message_store.messages WHERE stream_name = $1::text`, string(stream))
			if len(got) != 2 || !got[0] || !got[1] {
				t.Errorf("got %t, want true for the message written by SQL and for the one written by WriteMessage", got)
			}
		})
	}

	s.check(t, "metadata: left out is NULL", func(t *testing.T) {
		stream := string(mdbtest.Category("payload").Stream("1"))
		do(t, s.store.Pool(), `SELECT message_store.write_message(gen_random_uuid()::varchar, $1::varchar, 'Tested', '{}')`, stream)
		if !value[bool](t, s.store.Pool(), `SELECT metadata IS NULL FROM message_store.messages WHERE stream_name = $1::text`, stream) {
			t.Error("metadata is not NULL")
		}
	})
}

func (s *suite) ids(t *testing.T) {
	t.Helper()
	s.check(t, "id: WriteMessage reports a duplicate", func(t *testing.T) {
		category := mdbtest.Category("duplicate")
		m := mdb.NewMessage("Tested", nil)
		if _, err := s.store.WriteMessage(t.Context(), category.Stream("1"), m); err != nil {
			t.Fatal(err)
		}
		for _, stream := range []mdb.StreamName{category.Stream("1"), category.Stream("2")} {
			_, err := s.store.WriteMessage(t.Context(), stream, m)
			var duplicate *mdb.DuplicateIDError
			if !errors.As(err, &duplicate) || len(duplicate.IDs) != 1 || duplicate.IDs[0] != m.ID {
				t.Errorf("WriteMessage returns %v, want a *DuplicateIDError of %v", err, m.ID)
			}
		}
		if n := s.count(t, category); n != 1 {
			t.Errorf("the category has %d messages, want 1", n)
		}
	})

	s.check(t, "id: is unique in all categories", func(t *testing.T) {
		id := uuid.NewString()
		write(t, s.store.Pool(), proposal{id: id, stream: mdbtest.Category("unique").Stream("1")})
		accepted := 0
		for range 20 { // which are not all where the first one is
			err := try(t, s.store.Pool(), `SELECT message_store.write_message($1::varchar, $2::varchar, 'Tested', '{}')`, id, string(mdbtest.Category("unique").Stream("1")))
			if err == nil {
				accepted++
			} else if sqlState(err) != "23505" {
				t.Errorf("got %v, want 23505", err)
			}
		}
		if accepted > 0 {
			t.Error("other categories have accepted the id, want 23505")
		}
	})
}

func (s *suite) versions(t *testing.T) {
	t.Helper()
	s.check(t, "expected version: equal to the version of the stream", func(t *testing.T) {
		stream := mdbtest.Category("expected").Stream("1")
		write(t, s.store.Pool(), proposal{stream: stream})
		if got := write(t, s.store.Pool(), proposal{stream: stream, expected: 0}); got != 1 {
			t.Errorf("position is %d, want 1", got)
		}
		w, err := s.store.WriteMessage(t.Context(), stream, mdb.NewMessage("Tested", nil), mdb.ExpectVersion(1))
		if err != nil || w.Position != 2 {
			t.Errorf("WriteMessage returns %+v, %v, want position 2", w, err)
		}
	})

	s.check(t, "expected version: a snapshot older than the lock", func(t *testing.T) {
		stream := mdbtest.Category("expected").Stream("1")
		write(t, s.store.Pool(), proposal{stream: stream})
		other := s.connect(t, nil)

		for _, test := range []struct {
			how   string
			write func(pgx.Tx) error
		}{
			{"SQL", func(tx pgx.Tx) error {
				return try(t, tx, `SELECT message_store.write_message(gen_random_uuid()::varchar, $1::varchar, 'Tested', '{}')`, string(stream))
			}},
			{"WriteMessage", func(tx pgx.Tx) error {
				_, err := s.store.WithTx(tx).WriteMessage(t.Context(), stream, mdb.NewMessage("Tested", nil))
				var wrong *mdb.WrongVersionError
				if !errors.As(err, &wrong) {
					t.Errorf("WriteMessage returns %v, want a *WrongVersionError", err)
				}
				return err
			}},
		} {
			tx := s.begin(t, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
			do(t, tx, `SELECT message_store.stream_version($1::varchar)`, string(stream)) // takes the snapshot
			write(t, other, proposal{stream: stream})
			// The version it sees is outdated, so the position is taken.
			var rejected *pgconn.PgError
			if err := test.write(tx); !errors.As(err, &rejected) || rejected.Code != "23505" || rejected.ConstraintName != "messages_stream" {
				t.Errorf("%s: got %v, want 23505 of messages_stream", test.how, err)
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})

	s.check(t, "expected version: -1 for a stream without messages", func(t *testing.T) {
		category := mdbtest.Category("expected")
		if got := write(t, s.store.Pool(), proposal{stream: category.Stream("1"), expected: mdb.NoStream}); got != 0 {
			t.Errorf("position is %d, want 0", got)
		}
		w, err := s.store.WriteMessage(t.Context(), category.Stream("2"), mdb.NewMessage("Tested", nil), mdb.ExpectNoStream())
		if err != nil || w.Position != 0 {
			t.Errorf("WriteMessage returns %+v, %v, want position 0", w, err)
		}
	})
}

// count returns how many messages the streams of a category have, by the table.
func (s *suite) count(t testing.TB, category mdb.Category) int {
	t.Helper()
	return value[int](t, s.store.Pool(),
		`SELECT count(*) FROM message_store.messages WHERE message_store.category(stream_name) = $1::varchar`, string(category))
}

// text returns JSON as text, which pgx sends alike in every mode, or nil.
func text(raw any) any {
	if raw, ok := raw.(json.RawMessage); ok {
		return string(raw)
	}
	return nil
}
