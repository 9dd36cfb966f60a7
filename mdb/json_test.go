package mdb_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// FuzzJSONGuard checks that the client rejects the JSON that the server rejects, and no
// other.
func FuzzJSONGuard(f *testing.F) {
	for _, seed := range []string{
		``, ` `, `null`, `true`, `{}`, `[]`, `""`, `0`, `-0`, `1e5`, `1E+400`, `1e-400`, `1e131071`, `1e131072`, `1e-16384`, `01`, `1.`, `.5`, `+1`, `NaN`,
		`"\u0000"`, `"\\u0000"`, `"\\\u0000"`, `{"\u0000":1}`, `"\u0001"`, `"\ud83d\ude42"`, `"\ud83d"`, `"\ude42"`, `"\ud83d\ud83d\ude42"`, `"\uD83D\uDE42"`,
		`"\ud83d\\ude42"`, `"\ufffd"`, `"\uffff"`, `"\x41"`, `"\'"`, `"\/\b\f\n\r\t\""`, `"\u00e9"`, `"\u12"`, `"\u12g4"`,
		"\"\x00\"", "\"\x01\"", "\"\x7f\"", "\"\n\"", "\"\xff\"", "\"\xc3\xa9\"", "\"\xed\xa0\xbd\"", "\"\xf4\x90\x80\x80\"", "\"\xef\xbf\xbf\"", "\ufeff{}", "{}\x00",
		"\v{}", "\u00a0{}", "\u2028", "{\"a\":1,\"a\":{\"b\":[null,1.50,\"x\"]}}", `{"a":1,}`, `[1,]`, `{'a':1}`, `{"a":1} {}`, `{} // no`, `/**/{}`, `{a:1}`, `tru`, `nulll`,
		`{"correlationStreamName":"a-b"}`, `{"correlationStreamName":[1]}`, `{"correlationStreamName":null}`, strings.Repeat("[", 200) + strings.Repeat("]", 200),
	} {
		f.Add([]byte(seed))
	}
	s := mdbtest.SharedStore(f, attempts(1))
	stream := mdbtest.Category("guard").Stream("1")
	f.Fuzz(func(t *testing.T, raw []byte) {
		if raw == nil {
			raw = []byte{} // nil is SQL NULL
		}
		var asked string
		askErr := s.Pool().QueryRow(t.Context(), `SELECT $1::text::jsonb::text`, string(raw)).Scan(&asked)

		w, err := s.WriteMessage(t.Context(), stream, mdb.ProposedMessage{Type: "Happened", Data: json.RawMessage(raw), Metadata: raw})
		if err != nil {
			if argument := (*mdb.ArgumentError)(nil); errors.As(err, &argument) {
				if askErr == nil {
					t.Errorf("%q is rejected (%v), but the server accepts it", raw, err)
				}
				return
			}
			// These are limits of the server: a number too large, a value too deep, a text
			// too long.
			if pgErr := wantError[*pgconn.PgError](t, err); !slices.Contains([]string{"22003", "54001", "54000"}, pgErr.Code) {
				t.Errorf("%q was sent, and the server rejected it: %v", raw, err)
			}
			return
		}
		ms, err := s.GetStreamMessages(t.Context(), stream, mdb.FromPosition(w.Position), mdb.WithBatchSize(1))
		if err != nil || len(ms) != 1 {
			t.Fatalf("got %d messages, error %v", len(ms), err)
		}
		if string(ms[0].Data) != asked || string(ms[0].Metadata) != asked {
			t.Errorf("got %q was stored as %s and %s, want %s", raw, ms[0].Data, ms[0].Metadata, asked)
		}
		if !json.Valid(ms[0].Data) {
			t.Errorf("got %q was read as %s, want valid JSON", raw, ms[0].Data)
		}
	})
}

// TestNull checks that SQL NULL, which is no value, and JSON's null, which is one, stay
// apart.
func TestNull(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("null").Stream("1")
	var (
		noStruct *inner
		noMap    map[string]int
		noList   []int
		noBytes  []byte
		noRaw    json.RawMessage
		noRawPtr *json.RawMessage
	)
	for _, tt := range []struct {
		name string
		data any
		want string // "" for SQL NULL
	}{
		{"nil", nil, ""},
		{"nil pointer", noStruct, ""},
		{"nil map", noMap, ""},
		{"nil slice", noList, ""},
		{"nil bytes", noBytes, ""},
		{"nil raw", noRaw, ""},
		{"nil pointer to raw", noRawPtr, ""},
		{"null as raw", json.RawMessage("null"), "null"},
		{"null as bytes", []byte(" null\n"), "null"},
		{"nil in a list", []any{nil}, "[null]"},
		{"nil in a struct", pointer{}, `{"To": null}`},
		{"empty map", map[string]int{}, "{}"},
		{"empty list", []int{}, "[]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			// Both kinds of writes: those of several messages send the texts in arrays.
			single := write(t, s, stream, mdb.ProposedMessage{Type: "Happened", Data: tt.data, Metadata: tt.data})
			several, err := s.WriteMessages(t.Context(), stream, []mdb.ProposedMessage{
				{Type: "Happened", Data: tt.data, Metadata: tt.data},
				{Type: "Happened", Data: 1, Metadata: 2},
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, position := range []int64{single.Position, several[0].Position} {
				ms, err := s.GetStreamMessages(t.Context(), stream, mdb.FromPosition(position), mdb.WithBatchSize(1))
				if err != nil {
					t.Fatal(err)
				}
				m := ms[0]
				if string(m.Data) != tt.want || string(m.Metadata) != tt.want {
					t.Errorf("got data %q and metadata %q, want %q", m.Data, m.Metadata, tt.want)
				}
				if isNil := tt.want == ""; (m.Data == nil) != isNil || (m.Metadata == nil) != isNil {
					t.Errorf("whether data and metadata are nil: got %t and %t, want %t", m.Data == nil, m.Metadata == nil, isNil)
				}
				const sql = `SELECT (data IS NULL) = $2 AND (metadata IS NULL) = $2 FROM message_store.messages WHERE id = $1`
				if !value[bool](t, s.Pool(), sql, m.ID, tt.want == "") {
					t.Errorf("whether the table has SQL NULL: want %t", tt.want == "")
				}
			}
		})
	}
}
