package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
)

var writeCommand = command{
	name:  "write",
	args:  []string{"STREAM TYPE < DATA", "-lines STREAM < MESSAGES"},
	short: "write messages to a stream",
	long: `Writes a message. Its data is the JSON read from the standard input, or SQL NULL if the
input is empty. It gets a new ID unless -id gives one.

With -lines the input consists of messages: JSON objects with the field type and,
optionally, id, data and metadata. A field that is left out is SQL NULL, or a new ID.
Either all messages are written or none. They are read into memory first.

-lines also reads the output of "read -json", from one stream at a time; it ignores
the fields stream_name, position, global_position and time. The copies keep their IDs,
and a database takes each ID once. So a copy into the same database needs -new-ids.
With -idempotent, copying again into another database succeeds, and so does writing
again after an unknown outcome.`,
	examples: `mdb write account-123 Deposited <<< '{"amount": 10}'
mdb write account-123 Deposited < data.json
mdb write -expect 4 account-123 Closed < /dev/null
mdb write -expect none -metadata '{"correlationStreamName": "order-7"}' account-124 Opened < data.json
mdb write -lines account-123 < messages.jsonl
mdb read -json account-123 | mdb write -lines -new-ids archivedAccount-123`,
	setup: func(fs *flag.FlagSet) action {
		var w writing
		w.declare(fs)
		return func(ctx context.Context, a *app, args []string) error {
			if err := w.check(args); err != nil {
				return err
			}
			messages, err := unlessEnded(ctx, func() ([]mdb.ProposedMessage, error) { return w.messages(a.stdin) })
			if err != nil {
				return err
			}
			if len(messages) == 0 {
				return nothing("the input contains no messages, nothing was written")
			}
			return a.withStore(ctx, func(s *mdb.Store) error {
				written, err := s.WriteMessages(ctx, w.stream, messages, w.options...)
				if duplicate := (*mdb.DuplicateIDError)(nil); errors.As(err, &duplicate) && w.lines {
					return fmt.Errorf("%w; -new-ids gives the messages new IDs", err)
				}
				if err != nil {
					return countFromOne(err)
				}
				return a.report(w.stream, written, w.json)
			})
		}
	},
}

// writing is the options and arguments of write.
type writing struct {
	stream     mdb.StreamName
	typ        string
	id         string
	metadata   string
	lines      bool
	newIDs     bool
	idempotent bool
	json       bool
	options    []mdb.WriteOption
}

func (w *writing) declare(fs *flag.FlagSet) {
	fs.Func("expect", "exit with 3 unless the stream is at this `VERSION`, a number or none", func(given string) error {
		if given == noStream {
			w.options = append(w.options, mdb.ExpectNoStream())
			return nil
		}
		version, err := strconv.ParseInt(given, 10, 64)
		if err != nil || version < mdb.NoStream {
			return errors.New("want a number, or none for a stream without messages")
		}
		w.options = append(w.options, mdb.ExpectVersion(version))
		return nil
	})
	fs.StringVar(&w.id, "id", "", "the message's ID, a `UUID`")
	fs.StringVar(&w.metadata, "metadata", "", "the message's metadata, as `JSON`")
	fs.BoolVar(&w.lines, "lines", false, "read messages from the input, as JSON objects")
	fs.BoolVar(&w.newIDs, "new-ids", false, "with -lines: give the messages new IDs")
	fs.BoolVar(&w.idempotent, "idempotent", false, "succeed if the same messages with the same IDs exist already")
	fs.BoolVar(&w.json, "json", false, "print the result as lines of JSON")
}

func (w *writing) check(args []string) (err error) {
	switch {
	case w.lines && (w.id != "" || w.metadata != ""):
		return usage("with -lines, the id and the metadata belong in the input, not into -id and -metadata")
	case w.newIDs && !w.lines:
		return usage("-new-ids needs -lines; without -lines a message gets a new ID unless -id gives one")
	case w.newIDs && w.idempotent:
		return usage("-new-ids and -idempotent exclude each other: a message with a new ID cannot be in the store yet")
	case w.idempotent && !w.lines && w.id == "":
		return usage("-idempotent needs -id, to find the message if it already exists")
	case w.lines:
		args, err = exactly(args, "STREAM")
	default:
		if args, err = exactly(args, "STREAM", "TYPE"); err == nil {
			w.typ = args[1]
		}
	}
	if err != nil {
		return err
	}
	if w.idempotent {
		w.options = append(w.options, mdb.Idempotent())
	}
	w.stream, err = name(args[0])
	return err
}

// messages returns the messages to write, from the input and the options.
func (w *writing) messages(input io.Reader) ([]mdb.ProposedMessage, error) {
	if w.lines {
		return readLines(input, w.newIDs, w.idempotent)
	}
	m := mdb.NewMessage(w.typ, nil)
	if w.id != "" {
		id, err := uuid.Parse(w.id)
		if err != nil {
			return nil, usage("-id: want a UUID, got %q", w.id)
		}
		m.ID = id
	}
	data, err := io.ReadAll(input)
	if err != nil {
		return nil, fmt.Errorf("read the data: %w", err)
	}
	if data = bytes.TrimSpace(data); len(data) > 0 {
		m.Data = json.RawMessage(data)
	}
	if w.metadata != "" {
		m.Metadata = json.RawMessage(w.metadata)
	}
	return []mdb.ProposedMessage{m}, nil
}

// unlessEnded returns when ctx ends without waiting for f, because a read from a
// terminal cannot be interrupted.
func unlessEnded[T any](ctx context.Context, f func() (T, error)) (T, error) {
	var (
		v    T
		err  error
		done = make(chan struct{})
	)
	go func() {
		v, err = f()
		close(done)
	}()
	select {
	case <-done:
		return v, err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// report prints the positions of the written messages.
func (a *app) report(stream mdb.StreamName, written []mdb.Written, asJSON bool) error {
	if asJSON {
		for _, w := range written {
			err := printJSON(a.stdout, struct {
				ID             uuid.UUID      `json:"id"`
				StreamName     mdb.StreamName `json:"stream_name"`
				Position       int64          `json:"position"`
				GlobalPosition int64          `json:"global_position,omitempty"` // 0: unknown
				Duplicate      bool           `json:"duplicate"`
			}{w.ID, stream, w.Position, w.GlobalPosition, w.Duplicate})
			if err != nil {
				return err
			}
		}
		return nil
	}
	first, last := written[0], written[len(written)-1]
	text := fmt.Sprintf("%s/%d", printable(string(stream)), first.Position)
	if len(written) > 1 {
		text += fmt.Sprintf(" to %d", last.Position)
	}
	if first.Duplicate {
		text += ", written before"
	}
	return a.say("%s\n", text)
}
