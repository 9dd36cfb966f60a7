// Package encode does for packages of tests what a write does with a message's data.
package encode

import (
	"encoding/json"
	"errors"
)

// JSON returns data or metadata of a proposed message as JSON. It is nil for SQL NULL.
func JSON(v any) (json.RawMessage, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return nil, errors.New("got a string: convert it to json.RawMessage if it is JSON, or marshal it")
	case json.RawMessage:
		return v, nil
	case []byte:
		return v, nil
	}
	raw, err := json.Marshal(v)
	if string(raw) == "null" { // a nil pointer, map or slice
		raw = nil
	}
	return raw, err
}
