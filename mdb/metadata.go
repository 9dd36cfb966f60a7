package mdb

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"strings"
)

// Metadata is the metadata of a message in the form of Eventide's clients for Message DB, which
// [ProposedMessage.Metadata] accepts and [Message.DecodeMetadata] decodes. [Metadata.Follow]
// records which message has caused another one.
//
// A field without a value is not written, and metadata without any value is SQL NULL, as in
// Eventide. A key that has no field is in Extra. So what was read and is written again stays
// the same, except that keys of fields whose values are empty are left out.
//
// The values of the maps are of the types of encoding/json, but numbers are a [json.Number], so
// that they do not change. To add keys of your own, use Extra or Properties. Do not embed
// Metadata in a struct: only its fields would be encoded.
type Metadata struct {
	// CausationMessageStreamName is the stream of the message that has caused this one.
	CausationMessageStreamName StreamName `json:"causationMessageStreamName,omitempty"`
	// CausationMessagePosition is its position in the stream, or nil if it is unknown.
	CausationMessagePosition *int64 `json:"causationMessagePosition,omitempty"`
	// CausationMessageGlobalPosition is its global position, or 0 if it is unknown.
	CausationMessageGlobalPosition int64 `json:"causationMessageGlobalPosition,omitempty"`
	// CorrelationStreamName is the stream in which a flow of messages has begun. With
	// [WithCorrelation] a read selects messages by the category of this stream.
	CorrelationStreamName StreamName `json:"correlationStreamName,omitempty"`
	// ReplyStreamName is the stream in which a reply is expected.
	ReplyStreamName StreamName `json:"replyStreamName,omitempty"`
	// Properties are passed on to messages that follow. Eventide expects names in camelCase,
	// and changes others.
	Properties map[string]any `json:"properties,omitempty"`
	// LocalProperties belong to this message only.
	LocalProperties map[string]any `json:"localProperties,omitempty"`
	// SchemaVersion is the version of the form of the data.
	SchemaVersion string `json:"schemaVersion,omitempty"`
	// Extra contains the other keys. Keys of the fields above are rejected.
	Extra map[string]any `json:"-"`
}

// Follow makes m the metadata of a message that cause has caused: it sets the causation to the
// place of cause, the correlation and reply stream to those of cause, also if cause has none, and
// the properties of cause in m, whose other properties stay. It leaves the rest of m unchanged:
// local properties and extra keys of cause are not passed on. To begin a flow, set
// CorrelationStreamName after Follow.
//
// The error is that of [Message.DecodeMetadata] if these parts of the metadata of cause have
// another form. Then m is unchanged.
func (m *Metadata) Follow(cause Message) error {
	var followed followedMetadata
	if err := cause.DecodeMetadata(&followed); err != nil {
		return err
	}
	position := cause.Position
	m.CausationMessageStreamName = StreamName(strings.Clone(string(cause.Stream)))
	m.CausationMessagePosition = &position
	m.CausationMessageGlobalPosition = cause.GlobalPosition
	m.CorrelationStreamName = followed.CorrelationStreamName
	m.ReplyStreamName = followed.ReplyStreamName
	if len(followed.Properties) > 0 {
		// Several messages may begin with the same map.
		properties := make(map[string]any, len(m.Properties)+len(followed.Properties))
		maps.Copy(properties, m.Properties)
		maps.Copy(properties, followed.Properties)
		m.Properties = properties
	}
	return nil
}

// MarshalJSON returns m as a JSON object, or null if m has no value.
func (m Metadata) MarshalJSON() ([]byte, error) {
	for _, f := range m.fields() {
		if _, ok := m.Extra[f.key]; ok {
			return nil, jsonError("metadata with the key " + f.key + " in Extra, which is the key of a field")
		}
	}
	raw, err := marshal(metadataFields(m))
	if err != nil {
		return nil, err
	}
	if len(m.Extra) > 0 {
		extra, err := marshal(m.Extra)
		if err != nil {
			return nil, err
		}
		if raw = raw[:len(raw)-1]; len(raw) > 1 {
			raw = append(raw, ',')
		}
		raw = append(raw, extra[1:]...)
	}
	if string(raw) == "{}" {
		return []byte("null"), nil
	}
	return raw, nil
}

// UnmarshalJSON replaces m by a JSON object, and leaves it unchanged for null. A value of another
// type than that of its field is an error, and null is no value.
func (m *Metadata) UnmarshalJSON(raw []byte) error {
	var read Metadata
	keys, err := read.unmarshal(raw, read.fields())
	if err != nil || keys == nil { // null
		return err
	}
	for key, value := range keys {
		if read.Extra == nil {
			read.Extra = make(map[string]any, len(keys))
		}
		var decoded any
		if err := decodeExactly(value, &decoded); err != nil {
			return err
		}
		read.Extra[key] = decoded
	}
	*m = read
	return nil
}

// metadataFields is Metadata without its methods.
type metadataFields Metadata

// A followedMetadata is what a message that follows needs of the metadata of its cause, so
// that it can follow whatever the rest is.
type followedMetadata Metadata

func (m *followedMetadata) UnmarshalJSON(raw []byte) error {
	read := (*Metadata)(m)
	_, err := read.unmarshal(raw, []metadataField{
		{"correlationStreamName", &m.CorrelationStreamName},
		{"replyStreamName", &m.ReplyStreamName},
		{"properties", &m.Properties},
	})
	return err
}

// A metadataField is a key and the field of a [Metadata] that has its value.
type metadataField struct {
	key string
	to  any
}

func (m *Metadata) fields() []metadataField {
	return []metadataField{
		{"causationMessageStreamName", &m.CausationMessageStreamName},
		{"causationMessagePosition", &m.CausationMessagePosition},
		{"causationMessageGlobalPosition", &m.CausationMessageGlobalPosition},
		{"correlationStreamName", &m.CorrelationStreamName},
		{"replyStreamName", &m.ReplyStreamName},
		{"properties", &m.Properties},
		{"localProperties", &m.LocalProperties},
		{"schemaVersion", &m.SchemaVersion},
	}
}

// unmarshal decodes the fields, and returns the keys that are left. It compares keys exactly, as
// the server does, whereas encoding/json ignores their case.
func (m *Metadata) unmarshal(raw []byte, fields []metadataField) (map[string]json.RawMessage, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil {
		return nil, err
	}
	for _, f := range fields {
		value, ok := keys[f.key]
		if !ok {
			continue
		}
		if err := decodeExactly(value, f.to); err != nil {
			if wrongType := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrongType) {
				wrongType.Field = f.key
			}
			return nil, err
		}
		delete(keys, f.key)
	}
	return keys, nil
}

// decodeExactly decodes JSON with numbers as they are written.
func decodeExactly(raw json.RawMessage, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return d.Decode(v)
}
