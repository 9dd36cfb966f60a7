package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/jsonl"
	"github.com/messagedb-go/messagedb/mdb"
)

// ImportOptions change what [Import] does.
type ImportOptions struct {
	// Times keeps the times of the messages. Without it, the time of a message is that of its import. The role needs the privilege
	// to insert into the table messages, which the role message_store has.
	Times bool

	// Gaps keeps positions that do not follow the one before them, as in a store whose old messages were deleted. It needs the same
	// privilege. Without it, Import fails at such a message.
	Gaps bool

	// Progress is called after each transaction, if it is not nil.
	Progress func(Imported)
}

// Imported is how far an import is.
type Imported struct {
	// Written is the number of messages that were written.
	Written int64

	// Found is the number of messages that were in the store already.
	Found int64
}

// Import writes the messages that it reads from r, in their order. It writes up to 1,000 of them in a transaction, and keeps
// no others in memory. Messages of other programs may come between them.
//
// Each message must follow the last one of its stream that is in the store, so that it has the same position as where it was
// exported. A message whose ID is in the store is skipped, if it is the same there. So an import that was interrupted is
// continued by importing the same again, and an archive is verified by importing it where it was exported.
//
// Import fails at the first message that it cannot import, with an error that gives its number in the input. Those before it are
// imported. If it is the input that is wrong, the error is an [*InputError], or a [*ConflictError] if it does not fit the store.
//
// It locks the categories of a transaction, as all writes do, and so keeps the promises that are made for reads: subscriptions and
// [mdb.Store.GetAllMessages] do not pass over a message that is imported. Hooks of the store are not called.
func Import(ctx context.Context, s *mdb.Store, r io.Reader, opts ImportOptions) (Imported, error) {
	im := &importer{store: s, opts: opts}
	input := jsonl.NewReader(r)
	var b batch
	for {
		m, err := im.next(input)
		if err == nil && b.full(m) {
			err = im.write(ctx, &b)
		}
		if errors.Is(err, io.EOF) {
			return im.done, im.write(ctx, &b)
		}
		if err != nil {
			// What is right so far is imported, as if it had filled the batch.
			if wrong := (*InputError)(nil); errors.As(err, &wrong) {
				if err := im.write(ctx, &b); err != nil {
					return im.done, err
				}
			}
			return im.done, err
		}
		b.add(m)
	}
}

// An InputError says what is wrong with the input of an import.
type InputError struct{ text string }

func (e *InputError) Error() string { return "archive: " + e.text }

// A ConflictError says why a message of an import does not fit the store. Those before it are imported.
type ConflictError struct {
	// Message is its number in the input, from 1 on.
	Message int
	// ID, Stream and Position are its own.
	ID       uuid.UUID
	Stream   mdb.StreamName
	Position int64
	// Version is the version of the stream in the store, or [mdb.NoStream].
	Version int64
	// Differs says what is different of the message of that ID in the store. It is empty if there is none.
	Differs string
}

func (e *ConflictError) Error() string {
	at := fmt.Sprintf("archive: message %d, at %s/%d: ", e.Message, e.Stream, e.Position)
	switch {
	case e.Differs != "":
		return at + "the message with the ID " + e.ID.String() + " in the store has another " + e.Differs
	case e.Position <= e.Version:
		return at + "the stream has another message at this position"
	case e.Version == mdb.NoStream:
		return at + "the stream has no messages in the store, so the messages before it are missing"
	}
	return at + fmt.Sprintf("the stream ends at position %d in the store, so the messages between are missing", e.Version)
}

// A message is one of the input.
type message struct {
	number         int
	id             uuid.UUID
	stream         mdb.StreamName
	typ            string
	position       int64
	time           string // as PostgreSQL reads it; empty: not kept
	data, metadata string // empty: SQL NULL
}

type importer struct {
	store *mdb.Store
	opts  ImportOptions
	done  Imported
	last  int64 // the global position of the message before, or 0
}

// next reads and checks a message.
func (im *importer) next(input *jsonl.Reader) (message, error) {
	l, err := input.Next()
	if wrong := (*jsonl.FormatError)(nil); errors.As(err, &wrong) {
		return message{}, &InputError{wrong.Error()}
	}
	if err != nil {
		return message{}, err
	}
	m, fault := im.check(&l)
	if fault != "" {
		return message{}, &InputError{fmt.Sprintf("message %d: %s", input.Number(), fault)}
	}
	m.number = input.Number()
	return m, nil
}

func (im *importer) check(l *jsonl.Line) (m message, fault string) {
	m = message{stream: mdb.StreamName(l.Stream), typ: l.Type, data: string(l.Data), metadata: string(l.Metadata)}
	var err error
	if m.id, err = uuid.Parse(l.ID); err != nil || m.id == uuid.Nil {
		return m, fmt.Sprintf("want a UUID as the id, got %q", l.ID)
	}
	if m.stream.Category() == "" || strings.ContainsRune(l.Stream, 0) {
		return m, fmt.Sprintf("want the name of a stream as the stream_name, got %q", l.Stream)
	}
	if strings.ContainsRune(l.Type, 0) {
		return m, "the type contains U+0000"
	}
	if l.Position == nil || *l.Position < 0 {
		return m, "it has no position, which mdb export prints"
	}
	m.position = *l.Position
	if l.GlobalPosition == nil || *l.GlobalPosition <= im.last {
		return m, "its global position does not follow that of the message before, so the order of the messages is lost: import each export by itself, the earlier one first"
	}
	im.last = *l.GlobalPosition
	if im.opts.Times {
		t, err := time.Parse(time.RFC3339Nano, l.Time)
		if err != nil {
			return m, fmt.Sprintf("want a time such as 2026-11-23T09:30:00Z, got %q", l.Time)
		}
		m.time = t.UTC().Format("2006-01-02 15:04:05.999999")
	}
	return m, ""
}
