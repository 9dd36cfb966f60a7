package mdb

import (
	"database/sql/driver"
	"fmt"
	"log/slog"
	"strconv"

	"github.com/jackc/pgx/v5/pgtype"
)

// A payload is the data or metadata of a message as an argument of a statement; a nil
// pointer is NULL. It is encoded like the string, but however a tracer prints or encodes it,
// it shows only its size.
//
// It implements driver.Valuer, because pgx's codec of JSON would otherwise store what
// MarshalJSON returns.
type payload string

// TextValue is what pgx encodes in the text format.
func (p payload) TextValue() (pgtype.Text, error) {
	return pgtype.Text{String: string(p), Valid: true}, nil
}

// Value is what pgx encodes in the binary format.
func (p payload) Value() (driver.Value, error) { return string(p), nil }

func (p payload) String() string               { return strconv.Itoa(len(p)) + " bytes" }
func (p payload) Format(f fmt.State, _ rune)   { _, _ = f.Write([]byte(p.String())) }
func (p payload) LogValue() slog.Value         { return slog.StringValue(p.String()) }
func (p payload) MarshalJSON() ([]byte, error) { return strconv.AppendQuote(nil, p.String()), nil }
func (p payload) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// payloads are the data or metadata of several messages, as one argument.
type payloads []*string

// Value is what pgx encodes in both formats.
func (p payloads) Value() (driver.Value, error) { return []*string(p), nil }

func (p payloads) String() string {
	size := 0
	for _, text := range p {
		if text != nil {
			size += len(*text)
		}
	}
	return fmt.Sprintf("%d values, %d bytes", len(p), size)
}
func (p payloads) Format(f fmt.State, _ rune)   { _, _ = f.Write([]byte(p.String())) }
func (p payloads) LogValue() slog.Value         { return slog.StringValue(p.String()) }
func (p payloads) MarshalJSON() ([]byte, error) { return strconv.AppendQuote(nil, p.String()), nil }
func (p payloads) MarshalText() ([]byte, error) { return []byte(p.String()), nil }
