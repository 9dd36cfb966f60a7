package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

func (s *suite) roundTrip(t *testing.T) {
	t.Helper()
	type payload struct {
		Name   string  `json:"name"`
		Amount float64 `json:"amount"`
	}
	s.check(t, "a message is read as it was written", func(t *testing.T) {
		s.onStoreAndTx(t, func(how string, c client) {
			stream := mdbtest.Category("put").Stream(mdb.CompoundID("1", "ключ"))
			m := mdb.NewMessage("Открыт: \"it\"", payload{"Zoë\n\\'🙂", 12.5})
			m.Metadata = map[string]string{"correlationStreamName": "origin-1"}
			w, err := c.WriteMessage(t.Context(), stream, m)
			if err != nil {
				t.Fatal(err)
			}
			if w.ID != m.ID || w.Position != 0 || w.GlobalPosition < 1 || w.Duplicate {
				t.Errorf("%s: got %+v, want ID %v, position 0 and a global position", how, w, m.ID)
			}

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
				t.Fatalf("%s: got %d and %d messages, want 1", how, len(ofStream), len(ofCategory))
			}
			for _, got := range []mdb.Message{last, ofStream[0], ofCategory[0]} {
				if got.ID != m.ID || got.Stream != stream || got.Type != m.Type || got.Position != w.Position || got.GlobalPosition != w.GlobalPosition {
					t.Errorf("%s: got %+v, want what was written: %+v, %+v", how, got, m, w)
				}
				if since := time.Since(got.Time); got.Time.Location() != time.UTC || since.Abs() > time.Hour {
					t.Errorf("%s: the time is %v, want the present in UTC", how, got.Time)
				}
				var data payload
				var metadata map[string]string
				if err := errors.Join(got.Decode(&data), got.DecodeMetadata(&metadata)); err != nil {
					t.Fatal(err)
				}
				if data != m.Data || metadata["correlationStreamName"] != "origin-1" || len(metadata) != 1 {
					t.Errorf("%s: got data %+v and metadata %v, want %+v and %v", how, data, metadata, m.Data, m.Metadata)
				}
			}
		})
	})
}

// clientVersions is about expected versions of one message and of batches.
func (s *suite) clientVersions(t *testing.T) {
	t.Helper()
	for _, test := range []struct {
		name string
		size int
	}{
		{"WriteMessage compares the expected version", 1},
		{"WriteMessages compares the expected version", 3},
	} {
		s.check(t, test.name, func(t *testing.T) {
			category := mdbtest.Category("expected")
			stream := category.Stream("1")
			n := int64(test.size)
			for _, step := range []struct {
				opt      mdb.WriteOption
				expected int64
				actual   int64
				written  bool
			}{
				{mdb.ExpectVersion(0), 0, mdb.NoStream, false},
				{mdb.ExpectVersion(1 << 62), 1 << 62, mdb.NoStream, false},
				{mdb.ExpectNoStream(), mdb.NoStream, mdb.NoStream, true},
				{mdb.ExpectNoStream(), mdb.NoStream, n - 1, false},
				{mdb.ExpectVersion(mdb.NoStream), mdb.NoStream, n - 1, false},
				{mdb.ExpectVersion(n), n, n - 1, false},
				{mdb.ExpectVersion(n - 2), n - 2, n - 1, false},
				{mdb.ExpectVersion(n - 1), n - 1, n - 1, true},
				{mdb.ExpectVersion(n - 1), n - 1, 2*n - 1, false},
				{mdb.ExpectVersion(2*n - 1), 2*n - 1, 2*n - 1, true},
			} {
				before := s.count(t, category)
				err := s.writeSome(t.Context(), stream, test.size, step.opt)
				var wrong *mdb.WrongVersionError
				switch {
				case step.written:
					if err != nil {
						t.Fatalf("expected version %d: %v", step.expected, err)
					}
					before += test.size
				case !errors.As(err, &wrong):
					t.Errorf("expected version %d: got %v, want a *WrongVersionError", step.expected, err)
				case wrong.Stream != stream || wrong.Expected != step.expected || wrong.Actual != step.actual || sqlState(err) != "P0001":
					t.Errorf("got %+v, want stream %s, expected %d, actual %d, and the server's P0001", wrong, stream, step.expected, step.actual)
				}
				if got := s.count(t, category); got != before {
					t.Errorf("the stream has %d messages, want %d", got, before)
				}
			}
			positions := list[int64](t, s.store.Pool(), `SELECT position FROM message_store.messages WHERE stream_name = $1::text ORDER BY global_position`, string(stream))
			for i, position := range positions {
				if position != int64(i) {
					t.Errorf("got positions %v, want them without gaps", positions)
				}
			}
		})
	}
}

// writeSome writes n messages, one by WriteMessage.
func (s *suite) writeSome(ctx context.Context, stream mdb.StreamName, n int, opt mdb.WriteOption) error {
	if n == 1 {
		_, err := s.store.WriteMessage(ctx, stream, mdb.NewMessage("Tested", nil), opt)
		return err
	}
	_, err := s.store.WriteMessages(ctx, stream, newBatch(n), opt)
	return err
}

func (s *suite) clientIDs(t *testing.T) {
	t.Helper()
	s.check(t, "a message without an ID gets a new one with each write", func(t *testing.T) {
		stream := mdbtest.Category("put").Stream("1")
		m := mdb.ProposedMessage{Type: "Tested"}
		var written []mdb.Written
		for range 2 {
			w, err := s.store.WriteMessage(t.Context(), stream, m)
			if err != nil {
				t.Fatal(err)
			}
			written = append(written, w)
		}
		batch, err := s.store.WriteMessages(t.Context(), stream, []mdb.ProposedMessage{m, m})
		if err != nil {
			t.Fatal(err)
		}
		var ids []uuid.UUID
		for i, w := range append(written, batch...) {
			if w.Position != int64(i) || w.ID == uuid.Nil || w.Duplicate || slices.Contains(ids, w.ID) {
				t.Errorf("got %+v, want position %d and a new ID", w, i)
			}
			ids = append(ids, w.ID)
		}
		stored := list[uuid.UUID](t, s.store.Pool(), `SELECT id FROM message_store.messages WHERE stream_name = $1::text ORDER BY position`, string(stream))
		if !slices.Equal(stored, ids) {
			t.Errorf("the stream has the IDs %v, want %v", stored, ids)
		}
	})
}

// newBatch returns messages with their indexes as data; only the second has metadata.
func newBatch(n int) []mdb.ProposedMessage {
	messages := make([]mdb.ProposedMessage, n)
	for i := range messages {
		messages[i] = mdb.NewMessage("Tested", map[string]int{"n": i})
	}
	messages[1].Metadata = json.RawMessage(`{"second": true}`)
	return messages
}

func (s *suite) batches(t *testing.T) {
	t.Helper()
	s.check(t, "WriteMessages writes a batch in order, at one time", func(t *testing.T) {
		s.onStoreAndTx(t, func(how string, c client) {
			stream := mdbtest.Category("batch").Stream("1")
			var before int64
			for _, first := range []int64{0, 3} {
				batch := newBatch(3)
				written, err := c.WriteMessages(t.Context(), stream, batch)
				if err != nil || len(written) != 3 {
					t.Fatalf("%s: WriteMessages returns %d, %v, want 3", how, len(written), err)
				}
				messages, err := c.GetStreamMessages(t.Context(), stream, mdb.FromPosition(first))
				if err != nil || len(messages) != 3 {
					t.Fatalf("%s: GetStreamMessages returns %d messages, %v, want 3", how, len(messages), err)
				}
				for i := range messages {
					m, w := &messages[i], written[i]
					want := mdb.Written{ID: batch[i].ID, Position: first + int64(i), GlobalPosition: m.GlobalPosition, Time: m.Time}
					if w != want || w.GlobalPosition <= before {
						t.Errorf("%s: message %d: got %+v, want %+v and a global position above %d", how, i, w, want, before)
					}
					before = w.GlobalPosition
					var data struct{ N int }
					if err := m.Decode(&data); err != nil {
						t.Fatal(err)
					}
					if m.ID != w.ID || m.Position != w.Position || data.N != i || (m.Metadata != nil) != (i == 1) || !m.Time.Equal(messages[0].Time) {
						t.Errorf("%s: message %d: got %+v, want %+v as it was written", how, i, *m, w)
					}
				}
			}
		})
	})

	s.check(t, "WriteMessages writes nothing if a message of the batch fails", func(t *testing.T) {
		category := mdbtest.Category("batch")
		batch := newBatch(3)
		batch[2].ID = uuid.New()
		write(t, s.store.Pool(), proposal{id: batch[2].ID.String(), stream: category.Stream("2")})
		_, err := s.store.WriteMessages(t.Context(), category.Stream("1"), batch)
		var duplicate *mdb.DuplicateIDError
		if !errors.As(err, &duplicate) {
			t.Errorf("WriteMessages returns %v, want a *DuplicateIDError", err)
		}
		if n := s.count(t, category); n != 1 {
			t.Errorf("the category has %d messages, want 1 as before", n)
		}
	})
}

// writers is about batches that several writers write to one stream at the same time.
func (s *suite) writers(t *testing.T) {
	t.Helper()
	for _, test := range []struct {
		name    string
		compete bool
	}{
		{"concurrent batches do not mix", false},
		{"concurrent batches that expect a version do not mix", true},
	} {
		s.check(t, test.name, func(t *testing.T) {
			const writers, batches = 4, 5
			stream := mdbtest.Category("interactive").Stream("1")
			var wait sync.WaitGroup
			for range writers {
				wait.Go(func() {
					for range batches {
						if err := s.writePair(t.Context(), stream, test.compete); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wait.Wait()

			messages, err := s.store.GetStreamMessages(t.Context(), stream)
			if err != nil || len(messages) != 2*writers*batches {
				t.Fatalf("got %d messages, %v, want %d", len(messages), err, 2*writers*batches)
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

// writePair writes two messages with the same metadata. If it competes, it reads the
// version and expects it, and repeats that when another writer was faster.
func (s *suite) writePair(ctx context.Context, stream mdb.StreamName, compete bool) error {
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
