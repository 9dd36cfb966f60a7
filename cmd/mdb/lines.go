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

// A proposedLine is a message of the input of write -lines.
type proposedLine struct {
	ID         string          `json:"id"`
	StreamName string          `json:"stream_name"`
	Type       string          `json:"type"`
	Data       json.RawMessage `json:"data"`
	Metadata   json.RawMessage `json:"metadata"`
	// Accepted, because read -json prints them, and ignored: the server assigns new ones.
	Position       any `json:"position"`
	GlobalPosition any `json:"global_position"`
	Time           any `json:"time"`
}

// readLines reads messages as JSON objects, one after the other, whether or not each is
// on its own line. Errors give the number of the message and contain nothing else of it
// but its ID and the names of its fields.
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
			return nil, usage("message %d has no type", n)
		}
		m := mdb.NewMessage(l.Type, nil)
		switch id, err := uuid.Parse(l.ID); {
		case newIDs, l.ID == "" && !needIDs:
		case l.ID == "":
			return nil, usage("message %d has no id, which -idempotent needs", n)
		case err != nil:
			return nil, usage("message %d: want a UUID as the id, got %q", n, l.ID)
		default:
			m.ID = id
		}
		if n == 1 {
			from = l.StreamName
		} else if l.StreamName != from {
			return nil, usage("message 1 is from stream %q and message %d from %q, want messages from one stream", from, n, l.StreamName)
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

// countFromOne numbers the messages in an error of the library from 1, as readLines
// and line-based tools do.
func countFromOne(err error) error {
	if wrong := (*mdb.ArgumentError)(nil); errors.As(err, &wrong) {
		for i, fault := range wrong.Faults {
			if match := fromZero.FindStringSubmatch(fault.Argument); match != nil {
				n, _ := strconv.Atoi(match[1]) // the expression matches digits only
				wrong.Faults[i].Argument = fmt.Sprintf("message %d's %s", n+1, fault.Argument[len(match[0]):])
			}
		}
	}
	return err
}

// explainLine replaces the errors of package json, which quote the input.
func explainLine(n int, err error) error {
	var (
		syntax    *json.SyntaxError
		wrongType *json.UnmarshalTypeError
	)
	switch {
	case errors.As(err, &wrongType):
		kind, _, _ := strings.Cut(wrongType.Value, " ")
		if wrongType.Field == "" {
			return usage("message %d: want a JSON object, got a %s", n, kind)
		}
		return usage("message %d: want a string as the %s, got a %s", n, wrongType.Field, kind)
	case errors.As(err, &syntax), errors.Is(err, io.ErrUnexpectedEOF):
		return usage("message %d is not valid JSON", n)
	}
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return usage("message %d has the unknown field %s, want id, stream_name, type, position, global_position, data, metadata, time", n, field)
	}
	return fmt.Errorf("read message %d: %w", n, err)
}
