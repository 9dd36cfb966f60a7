package mdb_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// eventideMetadata has all keys that Eventide writes, with the values of its tests.
const eventideMetadata = `{"causationMessageStreamName":"someCausation","causationMessagePosition":11,"causationMessageGlobalPosition":111,` +
	`"correlationStreamName":"someCorrelation","replyStreamName":"someReply","properties":{"someProperty":"some value"},` +
	`"localProperties":{"someLocalProperty":"some local value"},"schemaVersion":"1.1"}`

func at(position int64) *int64 { return &position }

// TestMetadata checks that each key that Eventide writes has its field.
func TestMetadata(t *testing.T) {
	t.Parallel()
	want := mdb.Metadata{
		CausationMessageStreamName: "someCausation", CausationMessagePosition: at(11), CausationMessageGlobalPosition: 111,
		CorrelationStreamName: "someCorrelation", ReplyStreamName: "someReply",
		Properties:      map[string]any{"someProperty": "some value"},
		LocalProperties: map[string]any{"someLocalProperty": "some local value"},
		SchemaVersion:   "1.1",
	}
	var got mdb.Metadata
	if err := json.Unmarshal([]byte(eventideMetadata), &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, error %v, want %+v", got, err, want)
	}
	if raw, err := json.Marshal(want); err != nil || string(raw) != eventideMetadata {
		t.Errorf("got %s, error %v, want %s", raw, err, eventideMetadata)
	}
}

// TestMetadataLeavesOutEmptyValues checks what is written for fields without a value, and for
// position 0, which is one.
func TestMetadataLeavesOutEmptyValues(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		metadata mdb.Metadata
		want     string
	}{
		{mdb.Metadata{}, `null`},
		{mdb.Metadata{Properties: map[string]any{}, LocalProperties: map[string]any{}, Extra: map[string]any{}}, `null`},
		{mdb.Metadata{CausationMessagePosition: at(0)}, `{"causationMessagePosition":0}`},
		{mdb.Metadata{Extra: map[string]any{"a": nil}}, `{"a":null}`},
		{mdb.Metadata{SchemaVersion: "2", Extra: map[string]any{"b": 1, "a": "x"}}, `{"schemaVersion":"2","a":"x","b":1}`},
	} {
		if raw, err := json.Marshal(tt.metadata); err != nil || string(raw) != tt.want {
			t.Errorf("got %s, error %v, want %s", raw, err, tt.want)
		}
	}
	unchanged := mdb.Metadata{SchemaVersion: "2"}
	if err := json.Unmarshal([]byte("null"), &unchanged); err != nil || unchanged.SchemaVersion != "2" {
		t.Errorf("after null got %+v, error %v", unchanged, err)
	}
}

// TestMetadataKeysAreExact checks that a key with other capitals, which the server does not
// take for the one of a field either, is an extra key.
func TestMetadataKeysAreExact(t *testing.T) {
	t.Parallel()
	const raw = `{"CORRELATIONSTREAMNAME":"a-1","correlationstreamname":"b-1"}`
	var m mdb.Metadata
	if err := json.Unmarshal([]byte(raw), &m); err != nil || m.CorrelationStreamName != "" || len(m.Extra) != 2 {
		t.Errorf("got %+v, error %v", m, err)
	}
	if again, err := json.Marshal(m); err != nil || string(again) != raw {
		t.Errorf("got %s, error %v, want %s", again, err, raw)
	}
}

// randomJSON returns a value of JSON whose text json.Marshal does not change.
func randomJSON(random *rand.Rand, depth int) any {
	kinds := 6
	if depth == 0 {
		kinds = 4
	}
	switch random.IntN(kinds) {
	case 0:
		return []any{nil, true, false}[random.IntN(3)]
	case 1:
		return json.Number([]string{"0", "-1", "12345678901234567890", "0.1000", "1e400", "1E-7"}[random.IntN(6)])
	case 2:
		return []string{"", "ß", "\u2028<&>", "\ufffd", `"\`, "a"}[random.IntN(6)]
	case 3:
		return strconv.Itoa(random.IntN(100))
	case 4:
		values := make([]any, random.IntN(3))
		for i := range values {
			values[i] = randomJSON(random, depth-1)
		}
		return values
	}
	return randomObject(random, depth-1, 0)
}

func randomObject(random *rand.Rand, depth, least int) map[string]any {
	object := make(map[string]any)
	for range least + random.IntN(3) {
		object[[]string{"a", "b", "", "Properties", "traceparent", "ключ", "schema_version"}[random.IntN(7)]] = randomJSON(random, depth)
	}
	return object
}

// randomMetadata returns the keys of metadata, known ones and others.
func randomMetadata(random *rand.Rand) map[string]any {
	keys := randomObject(random, 3, 0)
	for key, value := range map[string]func() any{
		"causationMessageStreamName":     func() any { return "cause-1" },
		"causationMessagePosition":       func() any { return random.Int64N(3) },
		"causationMessageGlobalPosition": func() any { return 1 + random.Int64N(math.MaxInt64-1) },
		"correlationStreamName":          func() any { return "origin-" + strconv.Itoa(random.IntN(3)) },
		"replyStreamName":                func() any { return "reply" },
		"properties":                     func() any { return randomObject(random, 2, 1) },
		"localProperties":                func() any { return randomObject(random, 2, 1) },
		"schemaVersion":                  func() any { return "1" },
	} {
		if random.IntN(2) == 0 {
			keys[key] = value()
		}
	}
	return keys
}

// parse returns JSON as values, with numbers as they are written.
func parse(t *testing.T, raw []byte) (value any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&value); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return value
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestMetadataSurvivesARoundTrip checks that random metadata, with keys that have no fields, is
// the same after it was decoded and encoded.
func TestMetadataSurvivesARoundTrip(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		raw := marshal(t, randomMetadata(random))
		var m mdb.Metadata
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		again := marshal(t, m)
		if string(raw) == "{}" {
			raw = []byte("null")
		}
		if !reflect.DeepEqual(parse(t, raw), parse(t, again)) {
			t.Fatalf("got %s, want %s", again, raw)
		}
	}
}

// FuzzMetadata checks that JSON which is decoded as metadata is the same after it was
// encoded, except for keys of fields without a value.
func FuzzMetadata(f *testing.F) {
	for _, seed := range []string{
		eventideMetadata, `{}`, `null`, `[]`, `{"a":{"b":[1.0,1e400,null]}}`, `{"properties":null,"schemaVersion":"","causationMessageGlobalPosition":0}`,
		`{"causationMessagePosition":0}`, `{"causationMessagePosition":1.5}`, `{"schemaVersion":1}`, `{"SchemaVersion":1}`, `{"a":1,"a":2}`, `{"":""}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var m mdb.Metadata
		if json.Unmarshal(raw, &m) != nil {
			return
		}
		want, _ := parse(t, raw).(map[string]any) // nil for null
		for _, key := range []string{
			"causationMessageStreamName", "causationMessagePosition", "causationMessageGlobalPosition", "correlationStreamName",
			"replyStreamName", "properties", "localProperties", "schemaVersion",
		} {
			switch value := want[key].(type) {
			case nil:
				delete(want, key)
			case string:
				if value == "" {
					delete(want, key)
				}
			case map[string]any:
				if len(value) == 0 {
					delete(want, key)
				}
			case json.Number:
				if n, _ := value.Int64(); n != 0 {
					want[key] = json.Number(strconv.FormatInt(n, 10))
				} else if want[key] = json.Number("0"); key != "causationMessagePosition" {
					delete(want, key)
				}
			}
		}
		again := marshal(t, m)
		got, _ := parse(t, again).(map[string]any)
		if len(got) != len(want) || len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("%s is encoded as %s", raw, again)
		}
		var second mdb.Metadata
		if err := json.Unmarshal(again, &second); err != nil || !bytes.Equal(marshal(t, second), again) {
			t.Errorf("%s is decoded as %+v, error %v", again, second, err)
		}
	})
}

// TestMetadataErrors checks that values of other types are errors that name the key and quote
// nothing.
func TestMetadataErrors(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		`["` + canary + `"]`:                                `a JSON array does not fit Go type map[string]json.RawMessage`,
		`{"correlationStreamName":1234567}`:                 `a JSON number does not fit Go type mdb.StreamName of field correlationStreamName`,
		`{"causationMessagePosition":"` + canary + `"}`:     `a JSON string does not fit Go type int64 of field causationMessagePosition`,
		`{"causationMessageGlobalPosition":1.1234567}`:      `a JSON number does not fit Go type int64 of field causationMessageGlobalPosition`,
		`{"properties":["` + canary + `"]}`:                 `a JSON array does not fit Go type map[string]interface {} of field properties`,
		`{"localProperties":"` + canary + `"}`:              `a JSON string does not fit Go type map[string]interface {} of field localProperties`,
		`{"schemaVersion":1234567,"x":"` + canary + `"}`:    `a JSON number does not fit Go type string of field schemaVersion`,
		`{"replyStreamName":{"a":"` + canary + `"},"x":[]}`: `a JSON object does not fit Go type mdb.StreamName of field replyStreamName`,
	} {
		m := mdb.Message{Stream: "account-1", Type: "Deposited", Position: 7, Metadata: json.RawMessage(raw)}
		before := mdb.Metadata{SchemaVersion: "3", Properties: map[string]any{"a": 1}}
		got := before
		err := m.DecodeMetadata(&got)
		if want = "mdb: decode metadata of Deposited at account-1/7: " + want; err == nil || err.Error() != want {
			t.Errorf("%s: got error %v, want %s", raw, err, want)
		}
		if !reflect.DeepEqual(got, before) {
			t.Errorf("%s: the error has changed the metadata to %+v", raw, got)
		}
	}
}

// TestMetadataIsRejected checks that metadata which cannot be stored is rejected before it is
// sent, with an error that says why.
func TestMetadataIsRejected(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	for want, metadata := range map[string]any{
		"metadata with the key schemaVersion in Extra, which is the key of a field": mdb.Metadata{Extra: map[string]any{"schemaVersion": "2"}},
		"invalid UTF-8": &mdb.Metadata{Properties: map[string]any{"a": []string{"\xff"}}},
		"a Go value that has no JSON, such as NaN or a cycle": mdb.Metadata{LocalProperties: map[string]any{"a": math.NaN()}},
		"Go type chan int, which has no JSON":                 mdb.Metadata{Extra: map[string]any{"a": make(chan int)}},
		`the escape \u0000, which PostgreSQL cannot store`:    mdb.Metadata{Properties: map[string]any{"a": "\x00"}},
		"categories of the stream and of the correlationStreamName that have 3014 bytes together": mdb.Metadata{
			CorrelationStreamName: mdb.StreamName(strings.Repeat("c", 3000)),
		},
	} {
		m := mdb.NewMessage("Happened", nil)
		m.Metadata = metadata
		_, err := s.WriteMessage(t.Context(), "rejectedThings-1", m)
		argument := wantError[*mdb.ArgumentError](t, err)
		if got := argument.Faults[0]; got.Argument != "metadata" || got.Given != want {
			t.Errorf("got %+v, want %s", got, want)
		}
	}
}

// cause returns a message with the metadata.
func cause(metadata string) mdb.Message {
	return mdb.Message{Stream: "someSource-1", Type: "Asked", Position: 0, GlobalPosition: 222, Metadata: json.RawMessage(metadata)}
}

// TestFollow checks what a message takes over from the metadata of its cause.
func TestFollow(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		metadata     string
		before, want mdb.Metadata
	}{
		"all keys": {
			metadata: eventideMetadata[:len(eventideMetadata)-1] + `,"traceparent":"00-1"}`,
			want: mdb.Metadata{
				CorrelationStreamName: "someCorrelation", ReplyStreamName: "someReply",
				Properties: map[string]any{"someProperty": "some value"},
			},
		},
		"what is there stays or is replaced": {
			metadata: eventideMetadata,
			before: mdb.Metadata{
				CausationMessageStreamName: "other", CausationMessagePosition: at(9), CausationMessageGlobalPosition: 9,
				CorrelationStreamName: "other", ReplyStreamName: "other", SchemaVersion: "2",
				Properties:      map[string]any{"someProperty": "replaced", "someOtherProperty": "stays"},
				LocalProperties: map[string]any{"mine": 1}, Extra: map[string]any{"traceparent": "00-2"},
			},
			want: mdb.Metadata{
				CorrelationStreamName: "someCorrelation", ReplyStreamName: "someReply", SchemaVersion: "2",
				Properties:      map[string]any{"someProperty": "some value", "someOtherProperty": "stays"},
				LocalProperties: map[string]any{"mine": 1}, Extra: map[string]any{"traceparent": "00-2"},
			},
		},
		"no metadata": {before: mdb.Metadata{CorrelationStreamName: "other", ReplyStreamName: "other", Properties: map[string]any{"a": 1}}, want: mdb.Metadata{Properties: map[string]any{"a": 1}}},
		"null":        {metadata: `null`},
		"no keys":     {metadata: `{}`},
		"other parts of another form": {
			metadata: `{"schemaVersion":2,"localProperties":[],"causationMessagePosition":"x","correlationStreamName":"origin-1"}`,
			want:     mdb.Metadata{CorrelationStreamName: "origin-1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, want := tt.before, tt.want
			want.CausationMessageStreamName, want.CausationMessagePosition, want.CausationMessageGlobalPosition = "someSource-1", at(0), 222
			m := cause(tt.metadata)
			if tt.metadata == "" {
				m.Metadata = nil
			}
			if err := got.Follow(m); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, error %v, want %+v", got, err, want)
			}
		})
	}
}

// TestFollowMergesProperties checks on random properties that those of the cause win, that the
// others stay, that no map is shared, and that local properties are not passed on.
func TestFollowMergesProperties(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		own, of, local := randomObject(random, 1, 0), randomObject(random, 1, 0), randomObject(random, 1, 0)
		common := string(marshal(t, own))
		m := mdb.Metadata{Properties: own}
		if err := m.Follow(cause(string(marshal(t, map[string]any{"properties": of, "localProperties": local})))); err != nil {
			t.Fatal(err)
		}
		for name, value := range own {
			if _, replaced := of[name]; !replaced && !reflect.DeepEqual(m.Properties[name], value) {
				t.Fatalf("property %q is %v, want %v", name, m.Properties[name], value)
			}
		}
		for name, value := range of {
			if !bytes.Equal(marshal(t, m.Properties[name]), marshal(t, value)) {
				t.Fatalf("property %q is %v, want %v", name, m.Properties[name], value)
			}
		}
		for name := range m.Properties {
			_, mine := own[name]
			if _, theirs := of[name]; !mine && !theirs {
				t.Fatalf("property %q comes from nowhere", name)
			}
		}
		if string(marshal(t, own)) != common {
			t.Fatal("the properties that m began with have changed")
		}
		if m.LocalProperties != nil {
			t.Fatalf("got local properties %v", m.LocalProperties)
		}
	}
}

// TestFollowErrors checks that metadata is unchanged if that of the cause cannot be followed.
func TestFollowErrors(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{`[]`, `"x"`, `{"correlationStreamName":["a"]}`, `{"replyStreamName":1}`, `{"properties":"x"}`} {
		before := mdb.Metadata{CorrelationStreamName: "origin-1", CausationMessageStreamName: "other-1"}
		m := before
		if err := m.Follow(cause(raw)); err == nil || !strings.HasPrefix(err.Error(), "mdb: decode metadata of Asked at someSource-1/0: ") {
			t.Errorf("%s: got error %v", raw, err)
		}
		if !reflect.DeepEqual(m, before) {
			t.Errorf("%s: got %+v, want %+v", raw, m, before)
		}
	}
}

// TestCorrelatedMetadata checks that a read by correlation finds messages whose correlation was
// written, and those that follow them, and that metadata without a value is SQL NULL.
func TestCorrelatedMetadata(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	origin, steps := mdbtest.Category("origin"), mdbtest.Category("steps")
	first := mdb.NewMessage("First", nil)
	first.Metadata = mdb.Metadata{CorrelationStreamName: origin.Stream("1-a"), Extra: map[string]any{"traceparent": "00-1"}}
	write(t, s, steps.Stream("1"), first)
	plain := mdb.NewMessage("Plain", nil)
	plain.Metadata = &mdb.Metadata{}
	write(t, s, steps.Stream("1"), plain)

	found, err := s.GetCategoryMessages(t.Context(), steps, mdb.WithCorrelation(origin))
	if err != nil || len(found) != 1 || found[0].ID != first.ID {
		t.Fatalf("got %v, error %v, want the first message", found, err)
	}
	var followed mdb.Metadata
	if err := followed.Follow(found[0]); err != nil {
		t.Fatal(err)
	}
	second := mdb.NewMessage("Second", nil)
	second.Metadata = followed
	write(t, s, steps.Stream("2"), second)
	found, err = s.GetCategoryMessages(t.Context(), steps, mdb.WithCorrelation(origin))
	if err != nil || len(found) != 2 || found[1].ID != second.ID {
		t.Fatalf("got %v, error %v, want both messages", found, err)
	}
	var got mdb.Metadata
	if err := found[1].DecodeMetadata(&got); err != nil || got.CausationMessageGlobalPosition != found[0].GlobalPosition || !reflect.DeepEqual(got, followed) {
		t.Errorf("got %+v, error %v, want %+v", got, err, followed)
	}
	if last, err := s.GetStreamMessages(t.Context(), steps.Stream("1"), mdb.AfterPosition(0)); err != nil || len(last) != 1 || last[0].Metadata != nil {
		t.Errorf("got %v, error %v, want metadata that is SQL NULL", last, err)
	}
}

// TestDerivedID checks that IDs depend on both arguments, and are those that other programs
// compute.
func TestDerivedID(t *testing.T) {
	t.Parallel()
	// The example of RFC 9562, A.4.
	if got := mdb.DerivedID(uuid.NameSpaceDNS, "www.example.com"); got.String() != "2ed6657d-e927-568b-95e1-2665a8aea6a2" {
		t.Errorf("got %s", got)
	}
	seen := make(map[uuid.UUID]string)
	for _, id := range []uuid.UUID{{}, {1}, uuid.New()} {
		for _, name := range []string{"", "a", "b"} {
			derived, from := mdb.DerivedID(id, name), fmt.Sprint(id, name)
			if other, ok := seen[derived]; ok {
				t.Errorf("%s and %s give the same ID", other, from)
			}
			seen[derived] = from
		}
	}
}
