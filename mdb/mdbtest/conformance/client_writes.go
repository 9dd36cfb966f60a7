package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// put and get are what Eventide's own tests of its client say of writing and
// reading.
func (s *suite) put(t *testing.T) {
	t.Helper()

	t.Run("E1 a write returns the position", func(t *testing.T) {
		t.Parallel()
		stream := mdbtest.Category("put").Stream("1")
		for want := range int64(2) {
			w, err := s.store.WriteMessage(t.Context(), stream, mdb.ProposedMessage{Type: "Tested"})
			if err != nil {
				t.Fatal(err)
			}
			if w.Position != want || w.ID == uuid.Nil || w.Duplicate {
				t.Errorf("got %+v, want position %d and a new ID", w, want)
			}
			if m, err := s.store.GetLastStreamMessage(t.Context(), stream); err != nil || m.ID != w.ID {
				t.Errorf("the message read back has ID %v (%v), want %v", m.ID, err, w.ID)
			}
		}
	})

	for _, test := range []struct {
		name           string
		data, metadata any
		null           bool
	}{
		{"E2 nil is NULL", nil, nil, true},
		{"E2 a nil map is NULL", map[string]any(nil), map[string]any(nil), true},
		{"E2 a nil pointer is NULL", (*struct{})(nil), (*struct{})(nil), true},
		{"E2 nil JSON is NULL", json.RawMessage(nil), json.RawMessage(nil), true},
		// In Go an empty map is not the lack of one.
		{"E2 an empty map is an object", map[string]any{}, map[string]any{}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			stream := mdbtest.Category("put").Stream("1")
			_, err := s.store.WriteMessage(t.Context(), stream, mdb.ProposedMessage{Type: "Tested", Data: test.data, Metadata: test.metadata})
			if err != nil {
				t.Fatal(err)
			}
			m, err := s.store.GetLastStreamMessage(t.Context(), stream)
			if err != nil {
				t.Fatal(err)
			}
			if (m.Data == nil) != test.null || (m.Metadata == nil) != test.null {
				t.Errorf("got data %s and metadata %s, want nil: %t", m.Data, m.Metadata, test.null)
			}
			if !value[bool](t, s.store.Pool(), `SELECT (data IS NULL) = $2::bool AND (metadata IS NULL) = $2::bool
				FROM message_store.messages WHERE stream_name = $1::text`, string(stream), test.null) {
				t.Errorf("in the table data and metadata are NULL: %t, want %t", !test.null, test.null)
			}
		})
	}

	t.Run("E3 expected version", func(t *testing.T) {
		t.Parallel()
		category := mdbtest.Category("put")
		stream := category.Stream("1")
		for i, test := range []struct {
			opt   mdb.WriteOption
			wrong bool
		}{
			{mdb.ExpectVersion(0), true},
			{mdb.ExpectNoStream(), false},
			{mdb.ExpectNoStream(), true},
			{mdb.ExpectVersion(mdb.NoStream), true},
			{mdb.ExpectVersion(0), false},
			{mdb.ExpectVersion(0), true},
			{mdb.ExpectVersion(2), true},
			{mdb.ExpectVersion(1), false},
		} {
			before := s.count(t, category)
			_, err := s.store.WriteMessage(t.Context(), stream, mdb.NewMessage("Tested", nil), test.opt)
			var wrong *mdb.WrongVersionError
			if errors.As(err, &wrong) != test.wrong || !test.wrong && err != nil {
				t.Errorf("write %d returns %v, want a *WrongVersionError: %t", i, err, test.wrong)
			}
			want := before
			if !test.wrong {
				want++
			}
			if got := s.count(t, category); got != want {
				t.Errorf("after write %d the stream has %d messages, want %d", i, got, want)
			}
		}
	})

	t.Run("E4 a category is a stream's name", func(t *testing.T) {
		t.Parallel()
		category := mdbtest.Category("put")
		w, err := s.store.WriteMessage(t.Context(), mdb.StreamName(category), mdb.NewMessage("Tested", nil))
		if err != nil {
			t.Fatal(err)
		}
		messages, err := s.store.GetCategoryMessages(t.Context(), category)
		if err != nil || len(messages) != 1 || messages[0].ID != w.ID {
			t.Errorf("GetCategoryMessages returns %d messages, %v, want the one written", len(messages), err)
		}
	})

	t.Run("E5 a message comes back as it was written", func(t *testing.T) {
		t.Parallel()
		type payload struct {
			Name   string  `json:"name"`
			Amount float64 `json:"amount"`
		}
		category := mdbtest.Category("put")
		stream := category.Stream(mdb.CompoundID("1", "ключ"))
		m := mdb.NewMessage("Открыт: \"it\"", payload{"Zoë\n\\", 12.5})
		m.Metadata = map[string]string{"correlationStreamName": "origin-1"}
		clock := value[time.Time](t, s.store.Pool(), `SELECT now() AT TIME ZONE 'utc'`)
		w, err := s.store.WriteMessage(t.Context(), stream, m)
		if err != nil {
			t.Fatal(err)
		}
		if w.ID != m.ID || w.GlobalPosition < 1 {
			t.Errorf("got %+v, want ID %v and a global position", w, m.ID)
		}

		byStream, err := s.store.GetStreamMessages(t.Context(), stream)
		if err != nil || len(byStream) != 1 {
			t.Fatalf("GetStreamMessages returns %d messages, %v, want 1", len(byStream), err)
		}
		got := byStream[0]
		if got.ID != m.ID || got.Stream != stream || got.Type != m.Type || got.Position != w.Position || got.GlobalPosition != w.GlobalPosition {
			t.Errorf("got %+v, want what was written: %+v, %+v", got, m, w)
		}
		if got.Time.Location() != time.UTC || got.Time.Before(clock) || got.Time.Sub(clock) > time.Hour {
			t.Errorf("the time is %v, want one in UTC, not before %v", got.Time, clock)
		}
		var data payload
		var metadata map[string]string
		if err := errors.Join(got.Decode(&data), got.DecodeMetadata(&metadata)); err != nil {
			t.Fatal(err)
		}
		if data != m.Data || metadata["correlationStreamName"] != "origin-1" || len(metadata) != 1 {
			t.Errorf("got data %+v and metadata %v, want %+v and %v", data, metadata, m.Data, m.Metadata)
		}
	})

	s.putMany(t)
}

func (s *suite) putMany(t *testing.T) {
	t.Helper()

	t.Run("E13 a batch", func(t *testing.T) {
		t.Parallel()
		category := mdbtest.Category("batch")
		stream := category.Stream("1")
		batch := func(n int) []mdb.ProposedMessage {
			ms := make([]mdb.ProposedMessage, n)
			for i := range ms {
				ms[i] = mdb.NewMessage("Tested", map[string]int{"n": i})
			}
			return ms
		}
		for _, test := range []struct {
			opts  []mdb.WriteOption
			first int64
		}{
			{[]mdb.WriteOption{mdb.ExpectNoStream()}, 0},
			{[]mdb.WriteOption{mdb.ExpectVersion(2)}, 3},
			{nil, 6},
		} {
			ms := batch(3)
			written, err := s.store.WriteMessages(t.Context(), stream, ms, test.opts...)
			if err != nil || len(written) != 3 {
				t.Fatalf("WriteMessages returns %d, %v, want 3", len(written), err)
			}
			for i, w := range written {
				if w.ID != ms[i].ID || w.Position != test.first+int64(i) {
					t.Errorf("message %d: got %+v, want ID %v at position %d", i, w, ms[i].ID, test.first+int64(i))
				}
			}
			messages, err := s.store.GetStreamMessages(t.Context(), stream, mdb.FromPosition(test.first))
			if err != nil || len(messages) != 3 {
				t.Fatalf("GetStreamMessages returns %d messages, %v, want 3", len(messages), err)
			}
			for i := range messages {
				m := &messages[i]
				if m.ID != ms[i].ID || m.GlobalPosition != written[i].GlobalPosition || !m.Time.Equal(messages[0].Time) {
					t.Errorf("message %d: got %+v, want %+v, all written at one time", i, *m, written[i])
				}
			}
		}

		var wrong *mdb.WrongVersionError
		_, err := s.store.WriteMessages(t.Context(), stream, batch(3), mdb.ExpectVersion(7))
		if !errors.As(err, &wrong) || wrong.Expected != 7 || wrong.Actual != 8 {
			t.Errorf("WriteMessages returns %v, want a *WrongVersionError of expected 7, actual 8", err)
		}
		duplicated := batch(3)
		duplicated[2].ID = value[uuid.UUID](t, s.store.Pool(), `SELECT id FROM message_store.messages WHERE stream_name = $1::text AND position = 0`, string(stream))
		var duplicate *mdb.DuplicateIDError
		if _, err := s.store.WriteMessages(t.Context(), stream, duplicated); !errors.As(err, &duplicate) {
			t.Errorf("WriteMessages returns %v, want a *DuplicateIDError", err)
		}
		if n := s.count(t, category); n != 9 {
			t.Errorf("the stream has %d messages, want 9, as a batch that fails writes nothing", n)
		}
	})

	for _, test := range []struct {
		name    string
		compete bool
	}{
		{"E15 writers of batches to one stream", false},
		{"E15 writers of batches that expect a version", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			const actors, batches = 4, 5
			stream := mdbtest.Category("interactive").Stream("1")
			var wait sync.WaitGroup
			for range actors {
				wait.Go(func() {
					for range batches {
						if err := s.putPair(t.Context(), stream, test.compete); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wait.Wait()

			messages, err := s.store.GetStreamMessages(t.Context(), stream)
			if err != nil || len(messages) != 2*actors*batches {
				t.Fatalf("got %d messages, %v, want %d", len(messages), err, 2*actors*batches)
			}
			for i := range messages {
				m := &messages[i]
				if m.Position != int64(i) {
					t.Errorf("message %d is at position %d", i, m.Position)
				}
				if i%2 == 1 && string(m.Metadata) != string(messages[i-1].Metadata) {
					t.Errorf("the messages at %d and %d are of different batches", i-1, i)
				}
				if i > 0 && m.GlobalPosition <= messages[i-1].GlobalPosition {
					t.Errorf("the global position at %d is %d, after %d", i, m.GlobalPosition, messages[i-1].GlobalPosition)
				}
			}
		})
	}
}

// putPair writes two messages that tell by their metadata that they belong
// together.
func (s *suite) putPair(ctx context.Context, stream mdb.StreamName, compete bool) error {
	pair := []mdb.ProposedMessage{mdb.NewMessage("Tested", nil), mdb.NewMessage("Tested", nil)}
	for i := range pair {
		pair[i].Metadata = map[string]string{"batch": pair[0].ID.String()}
	}
	for {
		var opts []mdb.WriteOption
		if compete {
			version, err := s.store.StreamVersion(ctx, stream)
			if err != nil {
				return err
			}
			opts = append(opts, mdb.ExpectVersion(version))
		}
		_, err := s.store.WriteMessages(ctx, stream, pair, opts...)
		var wrong *mdb.WrongVersionError
		if !compete || !errors.As(err, &wrong) {
			return err
		}
	}
}
