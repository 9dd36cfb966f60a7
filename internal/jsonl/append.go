package jsonl

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/messagedb-go/messagedb/mdb"
)

// Append appends the line of a message, with its end. Data and metadata are what the server has returned, byte for byte.
func Append(b []byte, m *mdb.Message) []byte {
	b = append(b, `{"id":"`...)
	b = append(b, m.ID.String()...)
	b = append(b, `","stream_name":`...)
	b = appendString(b, string(m.Stream))
	b = append(b, `,"type":`...)
	b = appendString(b, m.Type)
	b = append(b, `,"position":`...)
	b = strconv.AppendInt(b, m.Position, 10)
	b = append(b, `,"global_position":`...)
	b = strconv.AppendInt(b, m.GlobalPosition, 10)
	if m.Data != nil {
		b = append(b, `,"data":`...)
		b = appendJSON(b, m.Data)
	}
	if m.Metadata != nil {
		b = append(b, `,"metadata":`...)
		b = appendJSON(b, m.Metadata)
	}
	b = append(b, `,"time":"`...)
	b = m.Time.UTC().AppendFormat(b, time.RFC3339Nano)
	return append(b, "\"}\n"...)
}

// appendJSON keeps a line a line. PostgreSQL prints jsonb without line ends, but a view in the place of the table may have JSON of
// another type.
func appendJSON(b []byte, raw json.RawMessage) []byte {
	if bytes.IndexByte(raw, '\n') >= 0 {
		raw = bytes.ReplaceAll(raw, []byte("\n"), []byte(" ")) // JSON has line ends between its tokens only
	}
	return append(b, raw...)
}

func appendString(b []byte, s string) []byte {
	if strings.IndexFunc(s, escaped) < 0 {
		b = append(b, '"')
		b = append(b, s...)
		return append(b, '"')
	}
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string never fails
	return append(b, bytes.TrimSuffix(text.Bytes(), []byte("\n"))...)
}

func escaped(r rune) bool {
	return r < ' ' || r == '"' || r == '\\' || r == utf8.RuneError || r == '\u2028' || r == '\u2029'
}
