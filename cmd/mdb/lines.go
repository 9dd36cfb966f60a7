package main

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/jsonl"
	"github.com/messagedb-go/messagedb/mdb"
)

// readLines reads messages as JSON objects, see [jsonl.Reader].
func (w *writing) readLines(input io.Reader) ([]mdb.ProposedMessage, error) {
	var (
		messages []mdb.ProposedMessage
		from     string // the stream that the first message came from
	)
	for r := jsonl.NewReader(input); ; {
		l, err := r.Next()
		if errors.Is(err, io.EOF) {
			return messages, nil
		}
		if err != nil {
			return nil, inputError(err)
		}
		n := r.Number()
		m := mdb.ProposedMessage{ID: nthID(w.firstID, n-1), Type: l.Type}
		switch id, err := uuid.Parse(l.ID); {
		case w.newIDs, l.ID == "" && (!w.idempotent || w.id != ""):
		case l.ID == "":
			return nil, usage("message %d has no id, which -idempotent needs; -id gives all messages one", n)
		case err != nil:
			return nil, usage("message %d: want a UUID as the id, got %q", n, l.ID)
		case id == uuid.Nil:
			return nil, usage("message %d: the id is zero, which stands for a new one: leave it out", n)
		default:
			m.ID = id
		}
		if n == 1 {
			from = l.Stream
		} else if l.Stream != from {
			return nil, usage("message 1 is from stream %q and message %d from %q, want messages from one stream", from, n, l.Stream)
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

// inputError returns what is wrong with the input as a usageError.
func inputError(err error) error {
	if wrong := (*jsonl.FormatError)(nil); errors.As(err, &wrong) {
		return usage("%s", wrong)
	}
	return err
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
