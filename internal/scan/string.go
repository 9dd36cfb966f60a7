package scan

import "unsafe"

// String returns the bytes of b as a string without copying them. The string
// shares b's memory and keeps it alive: b must not be changed for as long as
// the string is in use.
func String(b []byte) string {
	// An empty string must not keep b's memory alive.
	if len(b) == 0 {
		return ""
	}
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// Bytes returns the bytes of s without copying them. They must not be changed. The
// result is never nil.
func Bytes(s string) []byte {
	if s == "" {
		return []byte{}
	}
	return unsafe.Slice(unsafe.StringData(s), len(s))
}
