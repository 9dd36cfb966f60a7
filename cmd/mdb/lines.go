package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
)

// A proposedLine is a message that was read as a line, or was made to be written.
type proposedLine struct {
	ID         string          `json:"id"`
	StreamName string          `json:"stream_name"`
	Type       string          `json:"type"`
	Data       json.RawMessage `json:"data"`
	Metadata   json.RawMessage `json:"metadata"`
	// What the server gives anew.
	Position       any `json:"position"`
	GlobalPosition any `json:"global_position"`
	Time           any `json:"time"`
}

// readLines reads messages as JSON objects, one behind the other, whether or not
// each is on a line of its own. Errors name the message by its number, and hold
// nothing of it but its ID and the names of its fields.
func readLines(input io.Reader, newIDs, needIDs bool) ([]mdb.ProposedMessage, error) {
	var (
		messages []mdb.ProposedMessage
		from     string // the stream that the first message came from
	)
	d := json.NewDecoder(input)
	d.DisallowUnknownFields()
	for n := 1; ; n++ {
		var l proposedLine
		err := d.Decode(&l)
		if errors.Is(err, io.EOF) {
			return messages, nil
		}
		if err != nil {
			return nil, explainLine(n, err)
		}
		if l.Type == "" {
			return nil, usage("message %d has no type, want one", n)
		}
		m := mdb.NewMessage(l.Type, nil)
		switch id, err := uuid.Parse(l.ID); {
		case newIDs, l.ID == "" && !needIDs:
		case l.ID == "":
			return nil, usage("message %d has no id, want one by which -idempotent knows it", n)
		case err != nil:
			return nil, usage("message %d has the id %q, want a UUID", n, l.ID)
		default:
			m.ID = id
		}
		if n == 1 {
			from = l.StreamName
		} else if l.StreamName != from {
			return nil, usage("message 1 is of stream %q and message %d of %q, want those of one stream", from, n, l.StreamName)
		}
		if l.Data != nil {
			m.Data = l.Data
		}
		if l.Metadata != nil {
			m.Metadata = l.Metadata
		}
		messages = append(messages, m)
	}
}

var fromZero = regexp.MustCompile(`^message (\d+)'s `)

// countFromOne numbers the messages of an error of the library as readLines does,
// and as tools for lines do.
func countFromOne(err error) error {
	if wrong := (*mdb.ArgumentError)(nil); errors.As(err, &wrong) {
		for i, fault := range wrong.Faults {
			if match := fromZero.FindStringSubmatch(fault.Argument); match != nil {
				n, _ := strconv.Atoi(match[1]) // it is a number
				wrong.Faults[i].Argument = fmt.Sprintf("message %d's %s", n+1, fault.Argument[len(match[0]):])
			}
		}
	}
	return err
}

// explainLine leaves out what json's errors quote of the input.
func explainLine(n int, err error) error {
	var (
		syntax    *json.SyntaxError
		wrongType *json.UnmarshalTypeError
	)
	switch {
	case errors.As(err, &wrongType):
		kind, _, _ := strings.Cut(wrongType.Value, " ")
		if wrongType.Field == "" {
			return usage("message %d is a JSON %s, want an object", n, kind)
		}
		return usage("message %d has a JSON %s as its %s, want a string", n, kind, wrongType.Field)
	case errors.As(err, &syntax), errors.Is(err, io.ErrUnexpectedEOF):
		return usage("message %d is not valid JSON", n)
	}
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return usage("message %d has a field %s, want id, stream_name, type, position, global_position, data, metadata, time", n, field)
	}
	return fmt.Errorf("read message %d: %w", n, err)
}
