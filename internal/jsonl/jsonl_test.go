package jsonl_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/jsonl"
	"github.com/messagedb-go/messagedb/mdb"
)

// FuzzAppend checks that a line is one line of JSON, from which a Reader gets the same message.
func FuzzAppend(f *testing.F) {
	for _, text := range []string{"account-1", "", "\"\\\x00\t\u2028\u2029\u00e4\U0001f600<&>", "line\nend", "caf\xe9", "\ufffd"} {
		f.Add(text, `{"a": [1, "b\u0000"]}`, int64(1), int64(123456))
	}
	f.Fuzz(func(t *testing.T, text, data string, position, micros int64) {
		if !utf8.ValidString(text) || !utf8.ValidString(data) || !json.Valid([]byte(data)) {
			t.Skip("the server returns none of it")
		}
		m := mdb.Message{
			ID: uuid.MustParse("01933b8e-0000-7000-8000-000000000000"), Stream: mdb.StreamName(text), Type: "Type" + text,
			Position: position, GlobalPosition: -position, Time: time.UnixMicro(micros % 1e14).UTC(),
			Data: json.RawMessage(data), Metadata: json.RawMessage(data),
		}
		line := jsonl.Append(nil, &m)
		if bytes.IndexByte(line, '\n') != len(line)-1 {
			t.Fatalf("not a line: %q", line)
		}
		r := jsonl.NewReader(bytes.NewReader(line))
		got, err := r.Next()
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		one := strings.TrimSpace(strings.ReplaceAll(data, "\n", " "))
		want := jsonl.Line{
			ID: m.ID.String(), Stream: text, Type: m.Type, Time: m.Time.Format(time.RFC3339Nano),
			Position: &position, GlobalPosition: &m.GlobalPosition, Data: json.RawMessage(one), Metadata: json.RawMessage(one),
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q became %+v, want %+v", line, got, want)
		}
		if _, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("then %v", err)
		}
	})
}
