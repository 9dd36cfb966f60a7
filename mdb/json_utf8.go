package mdb

import (
	"bytes"
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
	"unicode/utf8"
)

// encodesInvalidUTF8 reports whether json.Marshal, which made raw of v, has replaced
// invalid UTF-8 in a string of v. It replaces it by an escape, but a MarshalJSON method may
// also return this escape.
//
// It is slow, but only called for values whose JSON contains the escape.
func encodesInvalidUTF8(v any, raw []byte) bool {
	s := invalidSearch{raw: raw, seen: make(map[visited]bool)}
	s.add(reflect.ValueOf(v))
	// This is not a recursion, because values that json.Marshal does not encode may form a
	// chain of any length.
	for len(s.pending) > 0 && !s.found {
		last := len(s.pending) - 1
		next := s.pending[last]
		s.pending = s.pending[:last]
		if next.embedded {
			s.fields(next.Value)
		} else {
			s.visit(next.Value)
		}
	}
	return s.found
}

// An invalidSearch looks for strings that json.Marshal encodes itself. It visits those that
// it encodes, and others in fields that it omits, so a string counts only if its encoding
// is in the JSON.
type invalidSearch struct {
	raw     []byte
	pending []pendingValue
	seen    map[visited]bool
	found   bool
}

type pendingValue struct {
	reflect.Value
	embedded bool // a struct whose fields are encoded in the place of the struct, whatever its methods are
}

// visited identifies a pointer, map or slice, which may contain itself.
type visited struct {
	typ     reflect.Type
	pointer uintptr
	length  int
}

var (
	marshaler     = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

func (s *invalidSearch) add(v reflect.Value) {
	if v.IsValid() {
		s.pending = append(s.pending, pendingValue{Value: v})
	}
}

// text notes a text that may have been encoded.
func (s *invalidSearch) text(text string) {
	if utf8.ValidString(text) {
		return
	}
	encoded, err := json.Marshal(text)
	if err != nil {
		return
	}
	quoted, err := json.Marshal(string(encoded)) // of a field with the option "string"
	s.found = s.found || bytes.Contains(s.raw, encoded) || err == nil && bytes.Contains(s.raw, quoted)
}

// visit chooses the encoding as encoding/json does. In particular it uses methods with
// pointer receivers if a value is addressable.
func (s *invalidSearch) visit(v reflect.Value) {
	kind, typ := v.Kind(), v.Type()
	if (kind == reflect.Pointer || kind == reflect.Interface) && v.IsNil() {
		return
	}
	addressed := kind != reflect.Pointer && v.CanAddr()
	switch {
	case typ.Implements(marshaler) || addressed && reflect.PointerTo(typ).Implements(marshaler):
		return
	case addressed && reflect.PointerTo(typ).Implements(textMarshaler):
		s.marshalText(v.Addr())
		return
	case typ.Implements(textMarshaler):
		s.marshalText(v)
		return
	}
	switch kind {
	case reflect.String:
		s.text(v.String())
	case reflect.Interface:
		s.add(v.Elem())
	case reflect.Pointer:
		if s.first(v, 0) {
			s.add(v.Elem())
		}
	case reflect.Slice, reflect.Array:
		if kind == reflect.Slice && !s.first(v, v.Len()) || isNumber(typ.Elem()) {
			return
		}
		for i := range v.Len() {
			s.add(v.Index(i))
		}
	case reflect.Map:
		if !s.first(v, 0) {
			return
		}
		for i := v.MapRange(); i.Next(); {
			s.key(i.Key())
			s.add(i.Value())
		}
	case reflect.Struct:
		s.fields(v)
	}
}

// first reports whether it is called for v the first time.
func (s *invalidSearch) first(v reflect.Value, length int) bool {
	id := visited{v.Type(), v.Pointer(), length}
	before := s.seen[id]
	s.seen[id] = true
	return !before
}

// isNumber reports whether values of the type are encoded without text.
func isNumber(typ reflect.Type) bool {
	return (typ.Kind() == reflect.Bool || reflect.Int <= typ.Kind() && typ.Kind() <= reflect.Float64) &&
		!reflect.PointerTo(typ).Implements(textMarshaler)
}

// key visits a key of a map. Only keys that are no strings are encoded by MarshalText.
func (s *invalidSearch) key(v reflect.Value) {
	switch {
	case v.Kind() == reflect.String:
		s.text(v.String())
	case v.Kind() == reflect.Pointer && v.IsNil():
	case v.Type().Implements(textMarshaler):
		s.marshalText(v)
	}
}

// fields visits the fields of a struct.
func (s *invalidSearch) fields(v reflect.Value) {
	for i := range v.NumField() {
		field, value := v.Type().Field(i), v.Field(i)
		tag := field.Tag.Get("json")
		name, _, _ := strings.Cut(tag, ",")
		target := field.Type
		if target.Kind() == reflect.Pointer {
			target = target.Elem()
		}
		embedded := field.Anonymous && target.Kind() == reflect.Struct
		switch {
		case tag == "-" || !field.IsExported() && !embedded:
		case !embedded || name != "":
			s.add(value)
		case value.Kind() != reflect.Pointer:
			s.pending = append(s.pending, pendingValue{value, true})
		case !value.IsNil() && s.first(value, 0):
			s.pending = append(s.pending, pendingValue{value.Elem(), true})
		}
	}
}

// marshalText notes the text of a text marshaler. Its method has returned a text before. If
// it now does not, what it returned is unknown, and might have been replaced.
func (s *invalidSearch) marshalText(v reflect.Value) {
	if !v.CanInterface() {
		return
	}
	defer func() {
		if recover() != nil {
			s.found = true
		}
	}()
	text, err := v.Interface().(encoding.TextMarshaler).MarshalText()
	if err != nil {
		s.found = true
		return
	}
	s.text(string(text))
}
