package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
)

// A proposedLine is a message of the input of write -lines.
type proposedLine struct {
	id, stream, typ, time string
	data, metadata        json.RawMessage
}

// readLines reads messages as JSON objects, one after the other, whether or not each is on
// its own line. Errors give the number of the message and contain nothing else of it but
// its ID and the names of its fields.
func (w *writing) readLines(input io.Reader) ([]mdb.ProposedMessage, error) {
	var (
		messages []mdb.ProposedMessage
		from     string // the stream that the first message came from
	)
	d := json.NewDecoder(input)
	for n := 1; ; n++ {
		var raw json.RawMessage
		err := d.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return messages, nil
		}
		if err != nil {
			return nil, explainLine(n, err, d.Buffered())
		}
		l, err := parseLine(n, raw)
		if err != nil {
			return nil, err
		}
		m := mdb.ProposedMessage{ID: nthID(w.firstID, n-1), Type: l.typ}
		switch id, err := uuid.Parse(l.id); {
		case w.newIDs, l.id == "" && (!w.idempotent || w.id != ""):
		case l.id == "":
			return nil, usage("message %d has no id, which -idempotent needs; -id gives all messages one", n)
		case err != nil:
			return nil, usage("message %d: want a UUID as the id, got %q", n, l.id)
		case id == uuid.Nil:
			return nil, usage("message %d: the id is zero, which stands for a new one: leave it out", n)
		default:
			m.ID = id
		}
		if n == 1 {
			from = l.stream
		} else if l.stream != from {
			return nil, usage("message 1 is from stream %q and message %d from %q, want messages from one stream", from, n, l.stream)
		}
		if l.data != nil {
			m.Data = l.data
		}
		if l.metadata != nil {
			m.Metadata = l.metadata
		}
		messages = append(messages, m)
	}
}

// parseLine decodes a message itself, because package json matches the names of fields
// without case, takes the last of two equal ones, and replaces what is not UTF-8.
func parseLine(n int, raw json.RawMessage) (l proposedLine, err error) {
	switch kind := kindOf(raw); {
	case kind != "an object":
		return l, usage("message %d: want a JSON object, got %s", n, kind)
	case !utf8.Valid(raw):
		return l, usage("message %d is not valid UTF-8", n)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	_, _ = d.Token() // the decoder of readLines has checked the syntax
	given := make(map[string]bool)
	for d.More() {
		token, _ := d.Token()
		field, _ := token.(string)
		if given[field] {
			return l, usage("message %d has the field %q twice", n, field)
		}
		given[field] = true
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return l, usage("message %d is not valid JSON", n)
		}
		switch field {
		case "id":
			l.id, err = textOf(n, field, value)
		case "stream_name":
			l.stream, err = textOf(n, field, value)
		case "type":
			l.typ, err = textOf(n, field, value)
		case "time":
			l.time, err = textOf(n, field, value)
		case "data":
			l.data = value
		case "metadata":
			l.metadata = value
		case "position", "global_position":
			// Accepted, because read -json prints them, and ignored: the server assigns new ones.
		default:
			return l, usage("message %d has the unknown field %q, want id, stream_name, type, position, global_position, data, metadata, time", n, field)
		}
		if err != nil {
			return l, err
		}
	}
	if l.typ == "" {
		return l, usage("message %d has no type", n)
	}
	if !rowTime.MatchString(l.time) {
		return l, nil
	}
	if l.data, err = fromRow(n, "data", l.data); err == nil {
		l.metadata, err = fromRow(n, "metadata", l.metadata)
	}
	return l, err
}

// rowTime is a time without a zone, as row_to_json prints the column time.
var rowTime = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?$`)

// fromRow returns data or metadata from a row that row_to_json printed. There, SQL NULL is
// null. Message DB's functions return text, which would be written as a JSON string.
func fromRow(n int, field string, value json.RawMessage) (json.RawMessage, error) {
	switch kindOf(value) {
	case "null":
		return nil, nil
	case "a string":
		var text string
		if json.Unmarshal(value, &text) == nil && json.Valid([]byte(text)) {
			return nil, usage("message %d: the %s is JSON in a JSON string, as row_to_json prints what Message DB's functions return: print the messages with mdb read -json, or cast data and metadata to jsonb", n, field)
		}
	}
	return value, nil
}

// escapes finds the escaped halves of surrogate pairs that are not part of a pair, as its
// only group. It skips pairs and escaped backslashes.
var escapes = regexp.MustCompile(`\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)`)

// textOf returns a field that is a string, or "" if it is null.
func textOf(n int, field string, value json.RawMessage) (text string, err error) {
	switch kind := kindOf(value); kind {
	case "null":
		return "", nil
	case "a string":
	default:
		return "", usage("message %d: want a string as the %s, got %s", n, field, kind)
	}
	for _, match := range escapes.FindAllSubmatch(value, -1) {
		if match[1] != nil {
			return "", usage("message %d: the %s contains half of a surrogate pair", n, field)
		}
	}
	err = json.Unmarshal(value, &text)
	return text, err
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

var fromZero = regexp.MustCompile(`^message (\d+)'s `)

// explainArguments puts an error of the library into the words of the command: it numbers
// the messages from 1, as readLines and line-based tools do, and names the options.
func explainArguments(err error) error {
	if wrong := (*mdb.ArgumentError)(nil); errors.As(err, &wrong) {
		for i := range wrong.Faults {
			fault := &wrong.Faults[i]
			fault.Allowed = withMaxMessageSize.ReplaceAllString(fault.Allowed, "-max-size")
			if match := fromZero.FindStringSubmatch(fault.Argument); match != nil {
				n, _ := strconv.Atoi(match[1]) // the expression matches digits only
				fault.Argument = fmt.Sprintf("message %d's %s", n+1, fault.Argument[len(match[0]):])
			}
		}
	}
	return err
}

var withMaxMessageSize = regexp.MustCompile(`\bWithMaxMessageSize\b`)

// explainLine replaces the errors of package json, which quote the input. rest is the
// input from the message on that cannot be read.
func explainLine(n int, err error, rest io.Reader) error {
	if syntax := (*json.SyntaxError)(nil); !errors.As(err, &syntax) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read message %d: %w", n, err)
	}
	start, _ := io.ReadAll(io.LimitReader(rest, 64))
	if fault := encodingFault(start); fault != "" {
		return usage("message %d %s", n, fault)
	}
	return usage("message %d is not valid JSON", n)
}

// encodingFault says how JSON is encoded, or returns "" if its beginning looks like UTF-8
// without a byte order mark. PowerShell writes the others by default.
func encodingFault(json []byte) string {
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
