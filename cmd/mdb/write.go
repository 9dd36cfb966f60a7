package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/jsonl"
	"github.com/messagedb-go/messagedb/mdb"
)

var writeCommand = command{
	name:  "write",
	args:  []string{"STREAM TYPE [DATA]", "-empty STREAM TYPE", "-lines STREAM < MESSAGES"},
	short: "write messages to a stream",
	long: `Writes a message. Its data is JSON: the argument DATA or, without it, what is read from the standard
input. With -empty the message has no data, which is SQL NULL. It gets a new ID unless -id gives one.

With -lines the input consists of messages: JSON objects with the field type and,
optionally, id, data and metadata. A field that is left out is SQL NULL, or a new ID.
Either all messages are written or none. They are read into memory first.

-lines also reads the output of "read -json", from one stream at a time; it ignores
the fields stream_name, position, global_position and time. The copies keep their IDs,
and a database takes each ID once. So a copy into the same database needs -new-ids.
With -idempotent, copying again into another database succeeds.

After an unknown outcome (status 5), write the same input again with the same options,
-idempotent, and the -id that the error contains, so that nothing is written twice. With
-lines, -id is the ID of the first message, and the others get the IDs that follow it.
Messages with an id in the input keep that, unless -new-ids is given.`,
	examples: `mdb write account-123 Deposited '{"amount": 10}'
mdb write account-123 Deposited < data.json
mdb write -empty -expect 4 account-123 Closed
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
			messages, err := unlessEnded(ctx, func() ([]mdb.ProposedMessage, error) { return w.messages(a) })
			if err != nil {
				return err
			}
			if len(messages) == 0 {
				return nothing("the input contains no messages, nothing was written")
			}
			return a.withStore(ctx, func(s *mdb.Store) error {
				written, err := s.WriteMessages(ctx, w.stream, messages, w.options...)
				if err != nil {
					return w.explain(err)
				}
				return a.report(w.stream, written, w.json)
			}, mdb.WithMaxMessageSize(w.maxSize))
		}
	},
}

// writing is the options and arguments of write.
type writing struct {
	stream     mdb.StreamName
	typ        string
	id         string
	firstID    uuid.UUID // of -id, or new
	data       *string   // nil: from the input
	empty      bool
	metadata   string
	maxSize    int
	lines      bool
	newIDs     bool
	idempotent bool
	json       bool
	options    []mdb.WriteOption
}

func (w *writing) declare(fs *flag.FlagSet) {
	fs.Func("expect", "exit with 3 unless the stream is at this `VERSION`: a number, none, or any for a stream with messages", func(given string) error {
		switch given {
		case noStream:
			w.options = append(w.options, mdb.ExpectNoStream())
			return nil
		case anyVersion:
			w.options = append(w.options, mdb.ExpectStream())
			return nil
		}
		version, err := strconv.ParseInt(given, 10, 64)
		if err != nil || version < mdb.NoStream {
			return errors.New("want a number, none for a stream without messages, or any for one with messages")
		}
		w.options = append(w.options, mdb.ExpectVersion(version))
		return nil
	})
	fs.StringVar(&w.id, "id", "", "the ID of the message or, with -lines, of the first one, a `UUID`")
	fs.BoolVar(&w.empty, "empty", false, "write a message without data; the input is not read")
	fs.StringVar(&w.metadata, "metadata", "", "the message's metadata, as `JSON`")
	fs.BoolVar(&w.lines, "lines", false, "read messages from the input, as JSON objects")
	fs.BoolVar(&w.newIDs, "new-ids", false, "with -lines: give the messages new IDs")
	fs.BoolVar(&w.idempotent, "idempotent", false, "succeed if the same messages with the same IDs exist already")
	fs.IntVar(&w.maxSize, "max-size", mdb.DefaultMaxMessageSize, fmt.Sprintf("the size of the largest message, in `BYTES` of data and metadata; %d by default", mdb.DefaultMaxMessageSize))
	fs.BoolVar(&w.json, "json", false, "print the result as lines of JSON")
}

func (w *writing) check(args []string) (err error) {
	switch {
	case w.lines && (w.empty || w.metadata != ""):
		return usage("with -lines, data and metadata belong in the input: leave out -empty and -metadata")
	case w.empty && len(args) > 2:
		return usage("-empty and DATA exclude each other")
	case w.newIDs && !w.lines:
		return usage("-new-ids needs -lines; without -lines a message gets a new ID unless -id gives one")
	case w.idempotent && w.id == "" && w.newIDs:
		return usage("-idempotent with -new-ids needs the -id of the first write: a message with a new ID cannot be in the store yet")
	case w.idempotent && w.id == "" && !w.lines:
		return usage("-idempotent needs -id, to find the message if it already exists")
	case w.lines:
		args, err = exactly(args, "STREAM")
	case len(args) > 3:
		return usage("want STREAM TYPE [DATA], got %d arguments: quote the data, so that it is one", len(args))
	case len(args) == 3:
		w.typ, w.data = args[1], &args[2]
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
	if w.id == "" {
		w.firstID, err = uuid.NewV7()
	} else if w.firstID, err = uuid.Parse(w.id); err != nil {
		err = usage("-id: want a UUID, got %q", w.id)
	} else if w.firstID == uuid.Nil {
		err = usage("-id: zero stands for a new ID: leave the option out")
	}
	if err != nil {
		return err
	}
	w.stream, err = name(args[0])
	return err
}

// messages returns the messages to write, from the input and the options.
func (w *writing) messages(a *app) ([]mdb.ProposedMessage, error) {
	m := mdb.ProposedMessage{ID: w.firstID, Type: w.typ}
	if w.metadata != "" {
		m.Metadata = json.RawMessage(w.metadata)
	}
	if w.empty {
		return []mdb.ProposedMessage{m}, nil
	}
	input := a.stdin
	if w.data == nil {
		a.sayItWaits(input)
	}
	switch {
	case w.lines:
		return w.readLines(input)
	case w.data != nil:
		input = strings.NewReader(*w.data)
	}
	data, err := io.ReadAll(input)
	if err != nil {
		return nil, fmt.Errorf("read the data: %w", err)
	}
	if fault := jsonl.EncodingFault(data); fault != "" {
		return nil, usage("the data %s", fault)
	}
	if data = bytes.TrimSpace(data); len(data) == 0 {
		return nil, nothing("the data is empty, nothing was written; -empty writes a message without data")
	}
	m.Data = json.RawMessage(data)
	return []mdb.ProposedMessage{m}, nil
}

// nthID returns the ID that comes n after the first one. It counts in the last 62 bits,
// so that the version stays.
func nthID(first uuid.UUID, n int) uuid.UUID {
	const counted = 1<<62 - 1
	last := binary.BigEndian.Uint64(first[8:])
	binary.BigEndian.PutUint64(first[8:], last&^counted|(last+uint64(n))&counted)
	return first
}

// explain says what to do about an error of the write.
func (w *writing) explain(err error) error {
	var (
		duplicate *mdb.DuplicateIDError
		unknown   *mdb.UnknownOutcomeError
	)
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%w; write the same again with the same options and -idempotent -id %s", err, w.firstID)
	case errors.As(err, &duplicate) && w.lines && !w.idempotent:
		return fmt.Errorf("%w; -new-ids gives the messages new IDs", err)
	}
	return explainArguments(err)
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
