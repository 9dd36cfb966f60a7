package mdb

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"
)

// NoStream is the version of a stream that has no messages.
const NoStream int64 = -1

// A Message is a message that was read from the store.
//
// Its strings and JSON are views of memory that the messages of a page share. They are
// never changed, so you may keep them. Keeping one message keeps its whole chunk of
// memory, up to 1 MiB; [Message.Clone] copies it out.
type Message struct {
	// ID is unique in the store.
	ID uuid.UUID
	// Stream is the stream that the message was written to.
	Stream StreamName
	// Type is the message's type, such as "Deposited".
	Type string
	// Position is its position in its stream, starting at 0.
	Position int64
	// GlobalPosition is its position in the store, starting at 1. Within a category
	// global positions increase in the order of the writes. There may be gaps.
	GlobalPosition int64
	// Time is the start of the transaction that wrote the message, in UTC, with
	// microseconds. Do not order messages by it: use positions.
	Time time.Time
	// Data is the payload as PostgreSQL prints jsonb: the order of keys, white space and
	// the notation of numbers may differ from what was written. It is nil if the payload
	// is SQL NULL.
	Data json.RawMessage
	// Metadata is the message's metadata, in the same form as Data.
	Metadata json.RawMessage
}

// String returns the message's stream, position, type and global position, without data and
// metadata.
func (m Message) String() string {
	return fmt.Sprintf("%s/%d %s, global position %d", m.Stream, m.Position, m.Type, m.GlobalPosition)
}

// Format formats the message as String does, with every verb, so that no log contains data
// and metadata unless they are passed by themselves.
func (m Message) Format(f fmt.State, verb rune) { formatText(f, verb, m.String()) }

// LogValue returns the message's fields without data and metadata, for package slog.
func (m Message) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("id", m.ID.String()),
		slog.String("stream", string(m.Stream)),
		slog.Int64("position", m.Position),
		slog.String("type", m.Type),
		slog.Int64("global_position", m.GlobalPosition))
}

// formatText formats a text with a verb's flags.
func formatText(f fmt.State, verb rune, text string) {
	if verb == 'v' && f.Flag('#') {
		_, _ = f.Write([]byte(text))
		return
	}
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), text)
}

// Decode decodes the message's data into the value that v points to, with
// [json.Unmarshal]. If the data is SQL NULL, it leaves the value unchanged. The text of an
// error says which message and which field failed, and contains nothing of the data; it
// wraps the error of encoding/json, which may.
func (m Message) Decode(v any) error {
	return m.decode("data", m.Data, v)
}

// DecodeMetadata is like Decode for the metadata.
func (m Message) DecodeMetadata(v any) error {
	return m.decode("metadata", m.Metadata, v)
}

func (m Message) decode(part string, raw json.RawMessage, v any) error {
	if raw == nil {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return &decodeError{part: part, message: m.Type, stream: m.Stream, position: m.Position, err: err}
	}
	return nil
}

// Clone returns a copy that shares no memory with the page of m.
func (m Message) Clone() Message {
	m.Stream = StreamName(strings.Clone(string(m.Stream)))
	m.Type = strings.Clone(m.Type)
	m.Data = bytes.Clone(m.Data)
	m.Metadata = bytes.Clone(m.Metadata)
	return m
}

// A ProposedMessage is a message to be written. Create one with [NewMessage].
type ProposedMessage struct {
	// ID identifies the message. If it is zero, each write generates a new one, so
	// calling a write again for the same value writes a second message.
	ID uuid.UUID
	// Type must not be empty.
	Type string
	// Data is the payload. A []byte or a [json.RawMessage] must be JSON and is sent
	// unchanged; nil is SQL NULL; any other value is encoded with [json.Marshal]. A
	// string is rejected, because it could mean JSON or a JSON string: convert it to
	// json.RawMessage, or marshal it. Invalid UTF-8 is rejected, unless a MarshalJSON
	// method has already replaced it.
	Data any
	// Metadata is encoded like Data. The type [Metadata] has the keys that other clients of
	// Message DB use.
	Metadata any
}

// String returns the message's type and ID, without data and metadata.
func (m ProposedMessage) String() string { return fmt.Sprintf("%s %s", m.Type, m.ID) }

// Format formats the message as String does, with every verb, so that no log contains data
// and metadata unless they are passed by themselves.
func (m ProposedMessage) Format(f fmt.State, verb rune) { formatText(f, verb, m.String()) }

// LogValue returns the message's type and ID, for package slog.
func (m ProposedMessage) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", m.ID.String()), slog.String("type", m.Type))
}

// NewMessage returns a message to be written, with a new ID. Because the value keeps its
// ID, the store recognizes it if you write it again, as you should after an
// [UnknownOutcomeError]. IDs are UUIDs of version 7, so that new ones are close together
// in the server's index.
func NewMessage(typ string, data any) ProposedMessage {
	return ProposedMessage{ID: newID(), Type: typ, Data: data}
}

// DerivedID returns the ID of a message that the message with the ID cause leads to. The same
// arguments always give the same ID, so a handler that is called again for the cause writes its
// message once, with [Idempotent]. The name distinguishes the messages of one cause. The ID is a
// UUID of version 5 with cause as its namespace, which programs in other languages can compute.
func DerivedID(cause uuid.UUID, name string) uuid.UUID {
	return uuid.NewSHA1(cause, []byte(name))
}

// newID cannot fail, because since Go 1.24 reading random bytes cannot.
func newID() uuid.UUID {
	return uuid.Must(uuid.NewV7())
}

// Written is the result of writing a message.
type Written struct {
	// ID is the message's ID, also if the write generated it.
	ID uuid.UUID
	// Position is its position in its stream.
	Position int64
	// GlobalPosition is its position in the store. It is 0 if it is unknown, because the
	// role has no access to the sequence, or because the write went through a proxy of PL/Proxy without the functions of
	// mdb proxy-sql. If a trigger on the table writes a message for
	// each message, it is the position of the trigger's message, except in batches with
	// [WithDirectSQL] and in duplicates, which return that of the row.
	GlobalPosition int64
	// Time is the start of the transaction that wrote the message, in UTC, which a read
	// returns as [Message.Time]. It is zero if the write went through a proxy of PL/Proxy without the functions of
	// mdb proxy-sql. If a trigger or another default of the column sets another
	// time, batches with [WithDirectSQL] and duplicates return that of the row.
	Time time.Time
	// Duplicate reports whether the message was already in the store: an earlier call
	// wrote it, see [Idempotent], or an earlier attempt of this call whose reply was
	// lost.
	Duplicate bool
}

// decodeError hides the text of errors of encoding/json, which quotes the payload.
type decodeError struct {
	part, message string
	stream        StreamName
	position      int64
	err           error
}

func (e *decodeError) Error() string {
	fault := fmt.Sprintf("%T", e.err)
	var wrongType *json.UnmarshalTypeError
	if errors.As(e.err, &wrongType) {
		kind, _, _ := strings.Cut(wrongType.Value, " ")
		fault = fmt.Sprintf("a JSON %s does not fit Go type %s", kind, wrongType.Type)
		if wrongType.Field != "" {
			fault += " of field " + wrongType.Field
		}
	}
	return fmt.Sprintf("mdb: decode %s of %s at %s/%d: %s", e.part, e.message, e.stream, e.position, fault)
}

func (e *decodeError) Unwrap() error { return e.err }
