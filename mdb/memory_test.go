package mdb_test

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestMessagesAreKept checks that the messages of a page do not change when later reads
// reuse memory.
func TestMessagesAreKept(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t), oneConnection))
	category := mdbtest.Category("kept")
	for i := range 40 {
		text := strings.Repeat(fmt.Sprint(i, " "), 1+i*10)
		write(t, s, category.Stream(fmt.Sprint(i%10)), mdb.ProposedMessage{Type: "Type" + fmt.Sprint(i), Data: []string{text}, Metadata: map[string]string{"m": text}})
	}
	type kept struct{ message, copied mdb.Message }
	var all []kept
	for round := range 20 {
		for i := range 10 {
			ms, err := s.GetStreamMessages(t.Context(), category.Stream(fmt.Sprint(i)))
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range ms {
				all = append(all, kept{m, m.Clone()})
			}
		}
		ms, err := s.GetCategoryMessages(t.Context(), category, mdb.WithBatchSize(1+round))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms {
			all = append(all, kept{m, m.Clone()})
		}
		m, err := s.GetLastStreamMessage(t.Context(), category.Stream(fmt.Sprint(round%10)))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, kept{m, m.Clone()})
		runtime.GC()
	}
	for i, k := range all {
		if k.message.Stream != k.copied.Stream || k.message.Type != k.copied.Type ||
			!bytes.Equal(k.message.Data, k.copied.Data) || !bytes.Equal(k.message.Metadata, k.copied.Metadata) {
			t.Fatalf("got message %d changed to %+v, want %+v", i, k.message, k.copied)
		}
	}
}

// TestAppendToMessage checks that appending to a message's JSON does not overwrite its
// neighbour.
func TestAppendToMessage(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("append").Stream("1")
	seed(t, s, stream, 3)
	ms, err := s.GetStreamMessages(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	for i := range ms {
		_ = append(ms[i].Data, "overwritten, if there is room"...)
	}
	for i, m := range ms {
		if want := fmt.Sprintf(`{"n": %d}`, i); string(m.Data) != want || m.Type != "Happened" || m.Stream != stream {
			t.Errorf("got message %d %+v with data %s, want it unchanged", i, m, m.Data)
		}
	}
}

// TestLargePayload checks that messages of two megabytes are stored and read unchanged.
func TestLargePayload(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	s := mdbtest.SharedStore(t)
	category := mdbtest.Category("payload")
	const size = 1 << 20
	text := func(i int) string { return strings.Repeat(string(rune('a'+i)), size) }
	ms := make([]mdb.ProposedMessage, 3)
	for i := range ms {
		ms[i] = mdb.ProposedMessage{Type: "Large", Data: []string{text(i)}, Metadata: []string{text(i + 10)}}
	}
	onBoth(t, s, func(t *testing.T, c calls, _ database) {
		stream := category.Stream(uuid.NewString())
		write(t, c, stream, ms[0])
		if _, err := c.WriteMessages(t.Context(), stream, ms[1:]); err != nil {
			t.Fatal(err)
		}
		got, err := c.GetStreamMessages(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(ms) {
			t.Fatalf("got %d messages, want %d", len(got), len(ms))
		}
		for i, m := range got {
			if string(m.Data) != `["`+text(i)+`"]` || string(m.Metadata) != `["`+text(i+10)+`"]` {
				t.Errorf("message %d: got %d and %d bytes, want those that were written", i, len(m.Data), len(m.Metadata))
			}
		}
	})
}

// TestInfiniteTime checks that infinite times are read as times before and after all
// others, in both wire formats.
func TestInfiniteTime(t *testing.T) {
	t.Parallel()
	stream := mdbtest.Category("time").Stream("1")
	owner := newPool(t, testdb.Shared(t))
	for i, text := range []string{"-infinity", "4714-11-24 00:00:00 BC", "1970-01-01 00:00:00.000001", "294276-12-31 23:59:59.999999", "infinity"} {
		exec(t, owner, `INSERT INTO message_store.messages (stream_name, position, type, time) VALUES ($1, $2, 'Happened', $3::text::timestamp)`, string(stream), i, text)
	}
	for _, mode := range execModes {
		s := newStore(t, newPool(t, testdb.Shared(t), execMode(mode)))
		ms, err := s.GetStreamMessages(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		if len(ms) != 5 {
			t.Fatalf("got %d messages, want 5", len(ms))
		}
		if !slices.IsSortedFunc(ms, func(a, b mdb.Message) int { return a.Time.Compare(b.Time) }) {
			t.Errorf("%v: got %v, want the times in order", mode, ms)
		}
		for i, want := range map[int]time.Time{
			1: time.Date(-4713, 11, 24, 0, 0, 0, 0, time.UTC),
			2: time.UnixMicro(1).UTC(),
			3: time.Date(294276, 12, 31, 23, 59, 59, 999999000, time.UTC),
		} {
			if ms[i].Time != want {
				t.Errorf("%v: got time %v, want %v", mode, ms[i].Time, want)
			}
		}
	}
}

// TestCutReads checks that a read fails wherever in the answer the connection breaks. Part
// of a page must not look like a page, because a subscription would treat it as the end.
func TestCutReads(t *testing.T) {
	t.Parallel()
	var w wire
	s := newStore(t, newPool(t, testdb.Shared(t), w.attach, oneConnection))
	stream := mdbtest.Category("cut").Stream("1")
	seed(t, s, stream, 5)
	read := func() (int, error) {
		ms, err := s.GetStreamMessages(t.Context(), stream)
		return len(ms), err
	}
	if n, err := read(); n != 5 || err != nil {
		t.Fatalf("got %d messages, error %v", n, err)
	}
	w.cut(cut{"get_stream_messages", whole})
	if n, err := read(); n != 5 || err != nil {
		t.Fatalf("got %d messages, error %v", n, err)
	}
	length := int(w.answered.Load())
	if length < 500 {
		t.Fatalf("got an answer of %d bytes, want one that is long enough to cut", length)
	}
	if n, err := read(); err == nil {
		t.Errorf("got %d messages through a broken connection, want none", n)
	}
	places := []int{unsent, lost, whole - 1, whole - 5, whole - 6, whole - 7}
	for k := 0; k < length; k += 23 {
		places = append(places, k)
	}
	for _, k := range places {
		if n, err := read(); n != 5 || err != nil { // connects and prepares
			t.Fatalf("got %d messages, error %v", n, err)
		}
		w.cut(cut{"get_stream_messages", k})
		if n, err := read(); n != 0 || err == nil {
			t.Errorf("got %d messages and error %v from %d of %d bytes", n, err, k, length)
		}
	}
	if n := w.uncut(); n != 0 {
		t.Errorf("%d cuts did not happen", n)
	}
}
