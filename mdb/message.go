package mdb

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
)

// NoStream is the version of a stream that has no messages.
const NoStream int64 = -1

// A Message is one that was read from the store.
//
// Its strings and JSON are views into memory that a page of messages shares.
// Keeping one message keeps its chunk; [Message.Clone] frees it. They may be kept
// for as long as is wanted, and are never written to again.
type Message struct {
	// ID identifies the message in the whole store.
	ID uuid.UUID
	// Stream is the stream that it was written to.
	Stream StreamName
	// Type is the message's type, such as "Deposited".
	Type string
	// Position is its position in its stream; the first is 0.
	Position int64
	// GlobalPosition is its position in the store; the first is 1. Within a
	// category they rise in the order of the writes. There may be gaps.
	GlobalPosition int64
	// Time is when the transaction that wrote it began, in UTC, to the
	// microsecond. It does not order messages; positions do.
	Time time.Time
	// Data is the message's payload, as PostgreSQL's jsonb prints it: the order
	// of keys, white space and the spelling of numbers are not those that were
	// written. It is nil where the payload is SQL NULL.
	Data json.RawMessage
	// Metadata is nil where it is SQL NULL, and otherwise as Data.
	Metadata json.RawMessage
}

// Decode puts the message's data into v, which is a pointer, by [json.Unmarshal].
// It leaves v alone if the data is SQL NULL. The error's text tells the place of
// the fault without the data itself; the error of json is wrapped.
func (m Message) Decode(v any) error {
	return m.decode("data", m.Data, v)
}

// DecodeMetadata does the same with the metadata.
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

// Clone returns a copy that shares no memory with the page that m was read with.
func (m Message) Clone() Message {
	m.Stream = StreamName(strings.Clone(string(m.Stream)))
	m.Type = strings.Clone(m.Type)
	m.Data = bytes.Clone(m.Data)
	m.Metadata = bytes.Clone(m.Metadata)
	return m
}

// A ProposedMessage is one to be written.
type ProposedMessage struct {
	// ID identifies the message. If it is zero the write mints one, so that a
	// program that calls it again for the same message writes a second one.
	ID uuid.UUID
	// Type must not be empty.
	Type string
	// Data is the payload: a []byte or a [json.RawMessage] is JSON already and is
	// sent as it is, anything else is marshalled by [json.Marshal]. nil is SQL
	// NULL. A string is refused, because it may be meant as JSON or as a JSON
	// string: convert it to json.RawMessage, or marshal it. Invalid UTF-8 is refused,
	// but for what a MarshalJSON of the value's own has replaced already.
	Data any
	// Metadata is as Data.
	Metadata any
}

// NewMessage returns a message to be written, with an ID of its own. Writing the
// same value again is then a repeat that the store recognises, which makes it the
// right thing to do after an [UnknownOutcomeError]. The IDs are of version 7, so
// that they are close together in the server's index.
func NewMessage(typ string, data any) ProposedMessage {
	return ProposedMessage{ID: newID(), Type: typ, Data: data}
}

// newID cannot fail: since Go 1.24 reading random bytes does not.
func newID() uuid.UUID {
	return uuid.Must(uuid.NewV7())
}

// Written says where a message was written to.
type Written struct {
	// ID is the message's ID, also where the write minted it.
	ID uuid.UUID
	// Position is its position in its stream.
	Position int64
	// GlobalPosition is its position in the store, or 0 if it is unknown because
	// the server hides the sequence behind it.
	GlobalPosition int64
	// Duplicate is true if the message was found in the store instead of being
	// acknowledged by it: an earlier call had written it (see [Idempotent]), or an
	// earlier attempt of this call whose answer was lost.
	Duplicate bool
}

// decodeError keeps json's errors, whose texts quote the payload, out of logs.
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
