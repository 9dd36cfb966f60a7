// Package jsonl is the format of messages as lines of JSON, which mdb read -json and mdb export print, and which mdb write -lines
// and mdb import read. The fields have the names of Message DB's columns. Those that are SQL NULL are left out.
package jsonl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"unicode/utf8"
)

// A Line is a message, as far as its line has the fields.
type Line struct {
	ID, Stream, Type, Time   string
	Position, GlobalPosition *int64
	Data, Metadata           json.RawMessage
}

// A Reader reads messages as JSON objects, one after the other, whether or not each is on its own line. Errors give the
// number of the message, from 1 on, and contain nothing else of it but its ID and the names of its fields.
type Reader struct {
	d *json.Decoder
	n int
}

// NewReader returns a Reader of the input.
func NewReader(input io.Reader) *Reader {
	return &Reader{d: json.NewDecoder(input)}
}

// Number returns the number of the message that Next has returned last.
func (r *Reader) Number() int { return r.n }

// Next returns the next message, or io.EOF. A [*FormatError] says what is wrong with the input; other errors are those
// of reading it.
func (r *Reader) Next() (Line, error) {
	r.n++
	var raw json.RawMessage
	if err := r.d.Decode(&raw); errors.Is(err, io.EOF) {
		return Line{}, io.EOF
	} else if err != nil {
		return Line{}, r.explain(err)
	}
	return r.parse(raw)
}

// A FormatError says what is wrong with the input.
type FormatError struct{ text string }

func (e *FormatError) Error() string { return e.text }

// Fault returns a FormatError about the message that Next has returned last. The format begins with what follows its number.
func (r *Reader) Fault(format string, args ...any) error {
	return &FormatError{fmt.Sprintf("message %d", r.n) + fmt.Sprintf(format, args...)}
}

// parse decodes a message itself, because package json matches the names of fields without case, takes the last of two
// equal ones, and replaces what is not UTF-8.
func (r *Reader) parse(raw json.RawMessage) (l Line, err error) {
	switch kind := kindOf(raw); {
	case kind != "an object":
		return l, r.Fault(": want a JSON object, got %s", kind)
	case !utf8.Valid(raw):
		return l, r.Fault(" is not valid UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	_, _ = d.Token() // the decoder of the Reader has checked the syntax
	given := make(map[string]bool, 8)
	for d.More() {
		token, _ := d.Token()
		field, _ := token.(string)
		if given[field] {
			return l, r.Fault(" has the field %q twice", field)
		}
		given[field] = true
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return l, r.Fault(" is not valid JSON")
		}
		switch field {
		case "id":
			l.ID, err = r.text(field, value)
		case "stream_name":
			l.Stream, err = r.text(field, value)
		case "type":
			l.Type, err = r.text(field, value)
		case "time":
			l.Time, err = r.text(field, value)
		case "data":
			l.Data = value
		case "metadata":
			l.Metadata = value
		case "position":
			l.Position = number(value)
		case "global_position":
			l.GlobalPosition = number(value)
		default:
			return l, r.Fault(" has the unknown field %q, want id, stream_name, type, position, global_position, data, metadata, time", field)
		}
		if err != nil {
			return l, err
		}
	}
	if l.Type == "" {
		return l, r.Fault(" has no type")
	}
	if !rowTime.MatchString(l.Time) {
		return l, nil
	}
	if l.Data, err = r.fromRow("data", l.Data); err == nil {
		l.Metadata, err = r.fromRow("metadata", l.Metadata)
	}
	return l, err
}

// rowTime is a time without a zone, as row_to_json prints the column time.
var rowTime = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?$`)

// fromRow returns data or metadata from a row that row_to_json printed. There, SQL NULL is null. Message DB's functions
// return text, which would be written as a JSON string.
func (r *Reader) fromRow(field string, value json.RawMessage) (json.RawMessage, error) {
	switch kindOf(value) {
	case "null":
		return nil, nil
	case "a string":
		var text string
		if json.Unmarshal(value, &text) == nil && json.Valid([]byte(text)) {
			return nil, r.Fault(": the %s is JSON in a JSON string, as row_to_json prints what Message DB's functions return: print the messages with mdb read -json, or cast data and metadata to jsonb", field)
		}
	}
	return value, nil
}

// escapes finds the escaped halves of surrogate pairs that are not part of a pair, as its only group. It skips pairs and
// escaped backslashes.
var escapes = regexp.MustCompile(`\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)`)

// text returns a field that is a string, or "" if it is null.
func (r *Reader) text(field string, value json.RawMessage) (text string, err error) {
	switch kind := kindOf(value); kind {
	case "null":
		return "", nil
	case "a string":
	default:
		return "", r.Fault(": want a string as the %s, got %s", field, kind)
	}
	if !bytes.ContainsRune(value, '\\') {
		return string(value[1 : len(value)-1]), nil
	}
	for _, match := range escapes.FindAllSubmatch(value, -1) {
		if match[1] != nil {
			return "", r.Fault(": the %s contains half of a surrogate pair", field)
		}
	}
	err = json.Unmarshal(value, &text)
	return text, err
}

// number returns a whole number, or nil if it is anything else, because what assigns new positions ignores it.
func number(value json.RawMessage) *int64 {
	var n int64
	if json.Unmarshal(value, &n) != nil || kindOf(value) == "null" {
		return nil
	}
	return &n
}

// kindOf returns what a JSON value is, with an article.
func kindOf(value json.RawMessage) string {
	if len(value) == 0 {
		return "nothing"
	}
	switch value[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

// explain replaces the errors of package json, which quote the input.
func (r *Reader) explain(err error) error {
	if syntax := (*json.SyntaxError)(nil); !errors.As(err, &syntax) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read message %d: %w", r.n, err)
	}
	start, _ := io.ReadAll(io.LimitReader(r.d.Buffered(), 64)) // from the message on that cannot be read
	if fault := EncodingFault(start); fault != "" {
		return r.Fault(" %s", fault)
	}
	return r.Fault(" is not valid JSON")
}

// EncodingFault says how JSON is encoded, or returns "" if its beginning looks like UTF-8 without a byte order mark. PowerShell
// writes the others by default.
func EncodingFault(json []byte) string {
	const want = ", want UTF-8 without a byte order mark, which PowerShell calls utf8NoBOM"
	json = bytes.TrimSpace(json)
	switch {
	case bytes.HasPrefix(json, []byte("\xef\xbb\xbf")):
		return "begins with a byte order mark" + want
	case bytes.HasPrefix(json, []byte("\xff\xfe")), bytes.HasPrefix(json, []byte("\xfe\xff")),
		len(json) > 1 && (json[0] == 0 || json[1] == 0):
		return "is UTF-16" + want
	}
	return ""
}
