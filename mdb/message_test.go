package mdb_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"weak"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

type deposited struct {
	Account string            `json:"account"`
	Cents   int64             `json:"cents"`
	Tags    map[string]string `json:"tags,omitempty"`
	Note    *string           `json:"note"`
}

// TestNewMessage checks that each message gets an ID of its own, of UUID version 7.
func TestNewMessage(t *testing.T) {
	t.Parallel()
	data := deposited{Account: "1"}
	a, b := mdb.NewMessage("Deposited", data), mdb.NewMessage("Deposited", data)
	if a.ID == b.ID {
		t.Errorf("got ID %s twice, want two IDs", a.ID)
	}
	if a.ID.Version() != 7 || a.ID.Variant() != uuid.RFC4122 {
		t.Errorf("ID %s: got UUID version %d, want 7", a.ID, a.ID.Version())
	}
	if a.Type != "Deposited" || !reflect.DeepEqual(a.Data, data) || a.Metadata != nil {
		t.Errorf("got message %+v", a)
	}
}

// TestDecode checks that data and metadata are decoded as they were encoded.
func TestDecode(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("decode").Stream("1")
	note := "\"quoted\"\t\\ 🙂"
	data := deposited{Account: "a", Cents: 1<<62 + 1, Tags: map[string]string{"<k>": ""}, Note: &note}
	metadata := map[string]any{"correlationStreamName": "other-1", "nested": []any{1.5, nil, true}}
	m := mdb.NewMessage("Deposited", data)
	m.Metadata = metadata
	write(t, s, stream, m)
	got, err := s.GetLastStreamMessage(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	var gotData deposited
	if err := got.Decode(&gotData); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(gotData, data) {
		t.Errorf("got data %+v, want %+v", gotData, data)
	}
	var gotMetadata map[string]any
	if err := got.DecodeMetadata(&gotMetadata); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(gotMetadata, metadata) {
		t.Errorf("got metadata %v, want %v", gotMetadata, metadata)
	}
}

// TestDecodeNull checks that SQL NULL leaves the value unchanged, unlike JSON's null.
func TestDecodeNull(t *testing.T) {
	t.Parallel()
	v := deposited{Account: "before"}
	if err := (mdb.Message{}).Decode(&v); err != nil || v.Account != "before" {
		t.Errorf("SQL NULL: got %+v, error %v, want no change", v, err)
	}
	if err := (mdb.Message{}).DecodeMetadata(&v); err != nil || v.Account != "before" {
		t.Errorf("SQL NULL: got %+v, error %v, want no change", v, err)
	}
	pointer := &v
	if err := (mdb.Message{Data: json.RawMessage("null")}).Decode(&pointer); err != nil || pointer != nil {
		t.Errorf("JSON's null: got %v, error %v, want nil", pointer, err)
	}
}

type picky struct{}

func (*picky) UnmarshalJSON(b []byte) error { return fmt.Errorf("cannot take %s", b) }

// TestDecodeErrors checks that errors name the place in the JSON, and quote nothing of it.
func TestDecodeErrors(t *testing.T) {
	t.Parallel()
	m := mdb.Message{Stream: "account-1", Type: "Deposited", Position: 7}
	for _, tt := range []struct {
		name string
		raw  string
		into any
		want string
	}{
		{"string", `{"cents":"` + canary + `"}`, new(deposited), "a JSON string does not fit Go type int64 of field cents"},
		{"number", `{"account":1,"note":"` + canary + `"}`, new(deposited), "a JSON number does not fit Go type string of field account"},
		{"large number", `{"cents":123456789012345678901234567890}`, new(deposited), "a JSON number does not fit Go type int64 of field cents"},
		{"whole", `"` + canary + `"`, new([]int), "a JSON string does not fit Go type []int"},
		{"deeper", `{"tags":{"` + canary + `":1}}`, new(deposited), "a JSON number does not fit Go type string"},
		{"syntax", `{"` + canary, new(deposited), "*json.SyntaxError"},
		{"its own", `"` + canary + `"`, new(picky), "*fmt.wrapError"},
		{"no pointer", `{}`, deposited{}, "*json.InvalidUnmarshalError"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := m
			m.Data, m.Metadata = json.RawMessage(tt.raw), json.RawMessage(tt.raw)
			for part, err := range map[string]error{"data": m.Decode(tt.into), "metadata": m.DecodeMetadata(tt.into)} {
				if err == nil {
					t.Fatal("got no error")
				}
				checkNoCanary(t, err)
				if strings.Contains(err.Error(), "1234567") {
					t.Errorf("the error quotes the payload: %v", err)
				}
				prefix := "mdb: decode " + part + " of Deposited at account-1/7: "
				if got := err.Error(); !strings.HasPrefix(got, prefix+tt.want) && tt.name != "its own" {
					t.Errorf("got error %q, want %q", got, prefix+tt.want)
				}
				if errors.Unwrap(err) == nil {
					t.Error("the error does not wrap its cause")
				}
			}
		})
	}
}

// TestClone checks that a clone equals its message and does not keep the page's memory.
func TestClone(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	category := mdbtest.Category("clone")
	m := mdb.NewMessage("Deposited", deposited{Account: "account"})
	m.Metadata = deposited{Account: "metadata"}
	write(t, s, category.Stream("1"), m)
	// chunk reads the message, and watches the memory that it is a view of.
	chunk := func() (mdb.Message, weak.Pointer[byte]) {
		ms, err := s.GetCategoryMessages(t.Context(), category)
		if err != nil {
			t.Fatal(err)
		}
		return ms[0], weak.Make(&ms[0].Data[0])
	}

	original, watched := chunk()
	clone := original.Clone()
	if !reflect.DeepEqual(clone, original) {
		t.Errorf("clone: got %+v, want %+v", clone, original)
	}
	typ := original.Type
	original = mdb.Message{}
	runtime.GC()
	if watched.Value() == nil {
		t.Fatal("the chunk was freed while a view of it is in use, so this test proves nothing")
	}
	runtime.KeepAlive(typ)

	runtime.GC()
	if watched.Value() != nil {
		t.Error("the clone keeps the chunk in memory")
	}
	runtime.KeepAlive(clone)

	empty := mdb.Message{Data: nil, Metadata: json.RawMessage{}}.Clone()
	if empty.Data != nil || empty.Metadata == nil {
		t.Errorf("clones of nil and empty: got %v and %v", empty.Data, empty.Metadata)
	}
}

// TestMessagesAreLoggedWithoutPayload checks that no way to print a message shows its data
// or metadata, also within other values.
func TestMessagesAreLoggedWithoutPayload(t *testing.T) {
	t.Parallel()
	raw := json.RawMessage(`"c4n4ry"`)
	id := uuid.MustParse("f3b0e1c2-0000-4000-8000-000000000001")
	m := mdb.Message{ID: id, Stream: "account-1", Type: "Deposited", Position: 3, GlobalPosition: 17, Data: raw, Metadata: raw}
	p := mdb.ProposedMessage{ID: id, Type: "Deposited", Data: deposited{Account: "c4n4ry"}, Metadata: map[string]string{"by": "c4n4ry"}}
	numbers := "99 52 110 52 114 121" // its bytes
	hidden := []string{"c4n4ry", numbers, fmt.Sprintf("%x", "c4n4ry"), fmt.Sprintf("%X", "c4n4ry"), strings.ReplaceAll(fmt.Sprintf("%#x", []byte("c4n4ry")), "0x", "")}
	for _, v := range []any{m, &m, []mdb.Message{m}, map[string]any{"m": m}, struct{ M mdb.Message }{m}, p, &p, []mdb.ProposedMessage{p}, mdb.Write{Stream: "account-1", Message: p}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%t", "%40v", "%-40s|"} {
			got := fmt.Sprintf(verb, v)
			for _, text := range hidden {
				if verb != "%x" && verb != "%X" && strings.Contains(got, text) {
					t.Errorf("%s of %T: got %s", verb, v, got)
				}
			}
			if (verb == "%x" || verb == "%X") && strings.Contains(strings.ToLower(got), hidden[2]) {
				t.Errorf("%s of %T: got %s", verb, v, got)
			}
		}
		var log strings.Builder
		for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
			switch v.(type) {
			case mdb.Message, *mdb.Message, mdb.ProposedMessage, *mdb.ProposedMessage:
				slog.New(handler).Info("got", "message", v)
			}
		}
		if strings.Contains(log.String(), "c4n4ry") {
			t.Errorf("%T: got log %s", v, &log)
		}
	}
	const text = "account-1/3 Deposited, global position 17"
	if got := fmt.Sprintf("%v %+v %#v %s", m, m, m, &m); got != strings.Join([]string{text, text, text, text}, " ") {
		t.Errorf("got %s", got)
	}
	if got := fmt.Sprintf("%50s|", m); got != strings.Repeat(" ", 50-len(text))+text+"|" {
		t.Errorf("got %s", got)
	}
	if got, want := p.String(), "Deposited "+id.String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("got", "message", m)
	const fields = "message.id=f3b0e1c2-0000-4000-8000-000000000001 message.stream=account-1 message.position=3 message.type=Deposited message.global_position=17"
	if !strings.Contains(log.String(), fields) {
		t.Errorf("got log %s, want %s in it", &log, fields)
	}
	// The JSON of a message is complete, on purpose.
	if got, err := json.Marshal(m); err != nil || !strings.Contains(string(got), "c4n4ry") {
		t.Errorf("got %s, error %v", got, err)
	}
}
