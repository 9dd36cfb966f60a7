package mdb_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// canary is part of every payload that is rejected, and of no error.
const canary = "c4n4ry"

// checkNoCanary checks every way in which a log may print an error.
func checkNoCanary(t testing.TB, err error) {
	t.Helper()
	for _, format := range []string{"%v", "%+v", "%q"} {
		if text := fmt.Sprintf(format, err); strings.Contains(text, canary) {
			t.Errorf("the error quotes the payload: %.500s", text)
			return
		}
	}
	if text, jsonErr := json.Marshal(err); jsonErr == nil && strings.Contains(string(text), canary) {
		t.Errorf("the error as JSON quotes the payload: %.500s", text)
	}
}

// Types whose JSON encoding/json produces in different ways.
type (
	named   string
	inner   struct{ Text string }
	nested  struct{ Deep map[string][]any }
	embeds  struct{ inner }
	pointer struct{ To *inner }
	hidden  struct {
		Text   string
		secret string
		Skip   string `json:"-"`
		Dash   string `json:"-,"` //nolint:staticcheck // its name is a dash
	}
	textual   struct{ text string }
	addressed struct {
		To   *netip.Addr // whose methods have no pointer receivers
		Text string
	}
	failing     struct{ text string }
	marshalling struct{ json string }
)

func (v textual) MarshalText() ([]byte, error)     { return []byte(v.text), nil }
func (v failing) MarshalJSON() ([]byte, error)     { return nil, errors.New("cannot marshal " + v.text) }
func (v marshalling) MarshalJSON() ([]byte, error) { return []byte(v.json), nil }

const (
	isInvalid = "invalid JSON"
	isUTF8    = "invalid UTF-8"
	isZero    = `the escape \u0000, which PostgreSQL cannot store`
	isHalf    = "half of a surrogate pair"
	isString  = "a string (convert it to json.RawMessage if it is JSON, or marshal it)"
	isNoValue = "a Go value that has no JSON, such as NaN or a cycle"
	isFailing = "a value whose MarshalJSON failed"
)

// TestPayloadRefused checks that a payload is rejected before it is sent if the server
// could not store it, or would store something else.
func TestPayloadRefused(t *testing.T) {
	t.Parallel()
	raw := func(text string) json.RawMessage { return json.RawMessage(text) }
	cyclic := map[string]any{canary: 1}
	cyclic["itself"] = cyclic
	for _, tt := range []struct {
		name  string
		data  any
		given string
	}{
		{"string", canary, isString},
		{"empty", raw(""), isInvalid},
		{"empty bytes", []byte{}, isInvalid},
		{"space", raw(" \n"), isInvalid},
		{"word", raw(canary), isInvalid},
		{"truncated", raw(`{"` + canary), isInvalid},
		{"two values", raw(`{} "` + canary + `"`), isInvalid},
		{"single quotes", []byte(`{'a': '` + canary + `'}`), isInvalid},
		{"NaN in text", raw(`{"` + canary + `":NaN}`), isInvalid},
		{"control character", raw("\"" + canary + "\n\""), isInvalid},
		{"raw zero", raw("\"" + canary + "\x00\""), isInvalid},
		{"byte order mark", raw("\ufeff{}"), isInvalid},

		{"raw UTF-8 in a string", raw("\"" + canary + "\xff\""), isUTF8},
		{"raw UTF-8 in a key", []byte("{\"" + canary + "\xc3\":1}"), isUTF8},
		{"an encoded surrogate", raw("\"" + canary + "\xed\xa0\x80\""), isUTF8},
		{"overlong", raw("\"" + canary + "\xc0\x80\""), isUTF8},

		{"escaped zero", raw(`"` + canary + `\u0000"`), isZero},
		{"escaped zero in a key", raw(`{"` + canary + `\u0000":1}`), isZero},
		{"escaped zero after a backslash", raw(`"` + canary + `\\\u0000"`), isZero},
		{"marshalled zero", map[string]string{canary: "\x00"}, isZero},
		{"marshalled zero in a key", map[string]string{canary + "\x00": ""}, isZero},

		{"high surrogate at the end", raw(`"` + canary + `\ud83d"`), isHalf},
		{"high surrogate before text", raw(`"\ud83d` + canary + `"`), isHalf},
		{"high surrogate before an escape", raw(`"\ud83d\n` + canary + `"`), isHalf},
		{"high surrogate before a high one", raw(`"\ud83d\ud83d` + canary + `"`), isHalf},
		{"high surrogate before a letter", raw(`"\ud83d\u0041` + canary + `"`), isHalf},
		{"low surrogate", raw(`"\uDE42` + canary + `"`), isHalf},
		{"surrogates the wrong way round", raw(`"\ude42\ud83d` + canary + `"`), isHalf},
		{"half in a key", raw(`{"` + canary + `\udfff":1}`), isHalf},

		{"UTF-8 in a string type", named(canary + "\xff"), isUTF8},
		{"UTF-8 in a struct", inner{canary + "\xff"}, isUTF8},
		{"UTF-8 in a pointer's target", &pointer{&inner{canary + "\xff"}}, isUTF8},
		{"UTF-8 in an embedded struct", embeds{inner{canary + "\xff"}}, isUTF8},
		{"UTF-8 in a key", map[string]int{canary + "\xff": 1}, isUTF8},
		{"UTF-8 in a key of a string type", map[named]int{canary + "\xff": 1}, isUTF8},
		{"UTF-8 in a list in a map", nested{map[string][]any{canary: {1, nil, inner{"\xff"}}}}, isUTF8},
		{"UTF-8 in an array", [2]string{canary, "\xff"}, isUTF8},
		{"UTF-8 beside a genuine U+FFFD", []string{"\ufffd", canary + "\xff"}, isUTF8},
		{"UTF-8 in a field named dash", hidden{Dash: canary + "\xff"}, isUTF8},
		{"UTF-8 in a text marshaller", textual{canary + "\xff"}, isUTF8},
		{"UTF-8 in a text marshaller's key", map[textual]int{{canary + "\xff"}: 1}, isUTF8},
		{"UTF-8 in raw JSON in a map", map[string]any{canary: raw("\"\xff\"")}, isUTF8},

		{"not a number", math.NaN(), isNoValue},
		{"infinity", map[string]any{canary: math.Inf(1)}, isNoValue},
		{"a cycle", cyclic, isNoValue},
		{"channel", make(chan int), "Go type chan int, which has no JSON"},
		{"function", map[string]any{canary: func() {}}, "Go type func(), which has no JSON"},
		{"complex", 1i, "Go type complex128, which has no JSON"},
		{"failing marshaller", failing{canary}, isFailing},
		{"marshaller of invalid JSON", marshalling{`{"` + canary}, isFailing},
		{"marshaller of a zero", marshalling{`"` + canary + `\u0000"`}, isZero},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, tx := unusedStore(t)
			for _, c := range []calls{s, tx} {
				_, err := c.WriteMessage(t.Context(), "account-1", mdb.ProposedMessage{Type: "Happened", Data: tt.data})
				checkFaults(t, err, mdb.Fault{"data", tt.given, "valid JSON that PostgreSQL can store"})
				checkNoCanary(t, err)
				_, err = c.WriteMessages(t.Context(), "account-1", []mdb.ProposedMessage{
					{Type: "Happened", Data: tt.data},
					{Type: "Happened", Metadata: tt.data},
				})
				checkFaults(t, err,
					mdb.Fault{"message 0's data", tt.given, "valid JSON that PostgreSQL can store"},
					mdb.Fault{"message 1's metadata", tt.given, "valid JSON that PostgreSQL can store"})
				checkNoCanary(t, err)
			}
		})
	}
}

// TestNilTextMarshaler checks that a nil pointer is encoded as encoding/json does it, even
// if its type's methods need a value.
func TestNilTextMarshaler(t *testing.T) {
	t.Parallel()
	defer func() {
		if r := recover(); r != nil {
			t.Errorf("got panic: %v", r)
		}
	}()
	s, _ := unusedStore(t)
	_, err := s.WriteMessage(t.Context(), "account-1", mdb.NewMessage("Happened", addressed{nil, canary + "\xff"}))
	checkFaults(t, err, mdb.Fault{"data", isUTF8, "valid JSON that PostgreSQL can store"})
	checkNoCanary(t, err)
}

// TestPayloadAccepted checks that a payload which only resembles a rejected one is stored.
func TestPayloadAccepted(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("payload").Stream("1")
	raw := func(text string) json.RawMessage { return json.RawMessage(text) }
	for _, tt := range []struct {
		name string
		data any
		want string
	}{
		{"genuine U+FFFD", "\ufffd", `"` + "\ufffd" + `"`},
		{"genuine U+FFFD in a key", map[string]int{"\ufffd": 1}, `{"` + "\ufffd" + `": 1}`},
		{"escaped U+FFFD", raw(`"\ufffd"`), `"` + "\ufffd" + `"`},
		{"escaped U+FFFD from a marshaller", []any{marshalling{`"\ufffd"`}, "\ufffd"}, `["` + "\ufffd" + `", "` + "\ufffd" + `"]`},
		{"the escape's letters", `\ufffd\u0000\ud83d`, `"\\ufffd\\u0000\\ud83d"`},
		{"the escape's letters, raw", raw(`"\\u0000 \\\\ud83d"`), `"\\u0000 \\\\ud83d"`},
		{"pair", raw(`"\ud83d\ude42"`), `"🙂"`},
		{"pair in upper case", raw(`"\uD83D\uDE42"`), `"🙂"`},
		{"pairs in a row", raw(`"\ud83d\ude42\ud83d\ude42"`), `"🙂🙂"`},
		{"noncharacters", "\uffff\ufdd0\U0010ffff", `"` + "\uffff\ufdd0\U0010ffff" + `"`},
		{"UTF-8 that is not written", hidden{Text: "\ufffd", secret: "\xff", Skip: "\xff"}, `{"-": "", "Text": "` + "\ufffd" + `"}`},
		{
			"UTF-8 that is not written, beside an escape",
			[]any{marshalling{`"\ufffd"`}, hidden{secret: "\xff", Skip: "\xff"}},
			`["` + "\ufffd" + `", {"-": "", "Text": ""}]`,
		},
		{"HTML", "<&>\u2028", `"<&>` + "\u2028" + `"`},
		{"scalar", 1.5, `1.5`},
		{"false", false, `false`},
		{"list", []int{}, `[]`},
		{"space around", raw(" \r\n\t{} "), `{}`},
		{"quotes of SQL", `'";--$1\`, `"'\";--$1\\"`},
		{"raw in a struct", map[string]any{"a": raw(`{"b":[1]}`)}, `{"a": {"b": [1]}}`},
		{"depth", raw(strings.Repeat("[", 1000) + strings.Repeat("]", 1000)), strings.Repeat("[", 1000) + strings.Repeat("]", 1000)},
	} {
		if text, ok := tt.data.(string); ok { // which must be marshalled first
			tt.data = &text
		}
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := write(t, s, stream, mdb.ProposedMessage{Type: "Happened", Data: tt.data, Metadata: tt.data})
			ms, err := s.GetStreamMessages(t.Context(), stream, mdb.FromPosition(w.Position), mdb.WithBatchSize(1))
			if err != nil {
				t.Fatal(err)
			}
			if got := string(ms[0].Data); got != tt.want {
				t.Errorf("got data %s, want %s", got, tt.want)
			}
			if got := string(ms[0].Metadata); got != tt.want {
				t.Errorf("got metadata %s, want %s", got, tt.want)
			}
		})
	}
}

// TestMaxMessageSize checks that the limit applies to each message, to its data and metadata
// together, as it is written or as it is read.
func TestMaxMessageSize(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t, mdb.WithMaxMessageSize(21))
	stream := mdbtest.Category("size").Stream("1")
	raw := func(text string) json.RawMessage { return json.RawMessage(text) }
	data := raw(`{"a":"c4n4ry"}`) // 14 bytes, and 15 when it is read
	write(t, s, stream, mdb.ProposedMessage{Type: "Happened", Data: data, Metadata: raw(`"cdef"`)})
	// The limit is each message's.
	if _, err := s.WriteMessages(t.Context(), stream, []mdb.ProposedMessage{mdb.NewMessage("Happened", data), mdb.NewMessage("Happened", data)}); err != nil {
		t.Error(err)
	}
	// What was read within the limit can be written again.
	m, err := s.GetLastStreamMessage(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	write(t, s, stream, mdb.ProposedMessage{Type: "Happened", Data: m.Data, Metadata: raw(`"cdef"`)})

	canaries := raw(`["` + strings.Repeat(canary, 4000) + `"]`)
	for _, tt := range []struct {
		name           string
		limit          int // 0: the default
		data, metadata json.RawMessage
		given          string
	}{
		{"when it is read", 21, data, raw(`"cdefg"`), "22 bytes when it is read"},
		{"white space", 21, raw(`  {  "a"  :  "c4n4ry" } `), nil, "24 bytes"},
		{"an exponent", 21, raw(`"c4n4ry"`), raw(`1e30`), "39 bytes when it is read"},
		{"the default", 0, raw(`"` + strings.Repeat("x", mdb.DefaultMaxMessageSize-1) + `"`), nil, "16777217 bytes"},
		{"many exponents", 0, raw(`[1e131071` + strings.Repeat(",1e131071", 999) + `]`), canaries, "131098004 bytes when it is read"},
		{"in data and metadata", 0, raw(`[1e131071` + strings.Repeat(",1e131071", 99) + `]`), raw(`[1e131071` + strings.Repeat(",1e131071", 99) + `]`), "26214800 bytes when it is read"},
		{"small ones", 0, raw(`[1e-16383` + strings.Repeat(",1e-16383", 1999) + `]`), nil, "32774000 bytes when it is read"},
	} {
		var opts []mdb.StoreOption
		most := mdb.DefaultMaxMessageSize
		if tt.limit != 0 {
			opts, most = append(opts, mdb.WithMaxMessageSize(tt.limit)), tt.limit
		}
		unused, tx := unusedStore(t, opts...)
		for _, c := range []calls{unused, tx} {
			_, err := c.WriteMessage(t.Context(), stream, mdb.ProposedMessage{Type: "Happened", Data: tt.data, Metadata: tt.metadata})
			checkFaults(t, err, mdb.Fault{"size", tt.given, fmt.Sprintf("at most %d, see WithMaxMessageSize", most)})
			checkNoCanary(t, err)
		}
	}
}

// TestLargestMessage checks that a message that is as large as allowed when it is read can
// be read.
func TestLargestMessage(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("largest").Stream("1")
	numbers := json.RawMessage(`[1e131071` + strings.Repeat(",1e131071", 126) + `]`)
	write(t, s, stream, mdb.NewMessage("Happened", numbers))
	ms, err := s.GetCategoryMessages(t.Context(), stream.Category())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(ms[0].Data); n > mdb.DefaultMaxMessageSize || n < mdb.DefaultMaxMessageSize*99/100 {
		t.Errorf("got %d bytes, want almost the limit", n)
	}
}
