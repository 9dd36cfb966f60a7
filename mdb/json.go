package mdb

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf8"
)

// encode returns v as the JSON to send, or nil for SQL NULL. It rejects what the server
// would reject, with an error whose text quotes no part of the value.
func encode(v any) (json.RawMessage, error) {
	var raw json.RawMessage
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return nil, errors.New("a string (convert it to json.RawMessage if it is JSON, or marshal it)")
	case json.RawMessage:
		raw = v
	case []byte:
		raw = v
	default:
		return marshal(v)
	}
	if raw == nil {
		return nil, nil
	}
	if !json.Valid(raw) {
		return nil, errors.New("invalid JSON")
	}
	return raw, guard(raw)
}

func marshal(v any) (json.RawMessage, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, &marshalError{err}
	}
	// A nil pointer, map or slice is SQL NULL.
	if string(raw) == "null" {
		return nil, nil
	}
	// json.Marshal replaces invalid UTF-8, which would change the message. It writes the
	// replacement character as an escape, but not one that is part of the value.
	if bytes.Contains(raw, []byte(`\ufffd`)) && encodesInvalidUTF8(v, raw) {
		return nil, errInvalidUTF8
	}
	return raw, guard(raw)
}

// A jsonError says why JSON cannot be stored, and quotes nothing of it.
type jsonError string

func (e jsonError) Error() string { return string(e) }

const errInvalidUTF8 jsonError = "invalid UTF-8"

// guard rejects JSON that is valid but cannot be jsonb: the escape \u0000, halves of
// surrogate pairs, and invalid UTF-8.
func guard(raw []byte) error {
	if !utf8.Valid(raw) {
		return errInvalidUTF8
	}
	for i := 0; ; {
		next := bytes.IndexByte(raw[i:], '\\')
		if next < 0 {
			return nil
		}
		i += next
		unit, ok := escapedUnit(raw[i:])
		switch {
		case !ok:
			i += len(`\n`)
			continue
		case unit == 0:
			return jsonError(`the escape \u0000, which PostgreSQL cannot store`)
		case unit >= 0xDC00 && unit <= 0xDFFF:
			return jsonError("half of a surrogate pair")
		}
		i += len(`\u0000`)
		if unit < 0xD800 || unit > 0xDBFF {
			continue
		}
		low, ok := escapedUnit(raw[i:])
		if !ok || low < 0xDC00 || low > 0xDFFF {
			return jsonError("half of a surrogate pair")
		}
		i += len(`\u0000`)
	}
}

// escapedUnit returns the value of an escape such as \u12ab at the beginning of raw.
func escapedUnit(raw []byte) (uint64, bool) {
	if len(raw) < len(`\u0000`) || raw[0] != '\\' || raw[1] != 'u' {
		return 0, false
	}
	unit, err := strconv.ParseUint(string(raw[2:6]), 16, 16)
	return unit, err == nil
}

// A marshalError hides the text of an error of encoding/json, which quotes the value.
type marshalError struct{ err error }

func (e *marshalError) Error() string {
	var unsupported *json.UnsupportedTypeError
	if errors.As(e.err, &unsupported) {
		return "Go type " + unsupported.Type.String() + ", which has no JSON"
	}
	var own jsonError // of the MarshalJSON of Metadata
	if errors.As(e.err, &own) {
		return own.Error()
	}
	var value *json.UnsupportedValueError
	if errors.As(e.err, &value) {
		return "a Go value that has no JSON, such as NaN or a cycle"
	}
	return "a value whose MarshalJSON failed"
}

func (e *marshalError) Unwrap() error { return e.err }
