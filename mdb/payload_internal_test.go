package mdb

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"
)

// TestPayloadEncodes checks that payloads are sent as strings are, whatever the type of the
// parameter and its format. 0 is the type in the modes that do not ask the server for it.
func TestPayloadEncodes(t *testing.T) {
	t.Parallel()
	text := `{"a": "b,\"}"}`
	var null *string
	for _, tt := range []struct {
		oids   []uint32
		got    any
		wanted any
	}{
		{[]uint32{0, pgtype.TextOID, pgtype.JSONOID, pgtype.JSONBOID}, (*payload)(&text), &text},
		{[]uint32{0, pgtype.TextOID, pgtype.JSONOID, pgtype.JSONBOID}, payload(text), text},
		{[]uint32{0, pgtype.TextOID, pgtype.JSONOID, pgtype.JSONBOID}, (*payload)(null), null},
		{[]uint32{0, pgtype.TextArrayOID, pgtype.VarcharArrayOID, pgtype.JSONBArrayOID}, payloads{&text, null, &text}, []*string{&text, null, &text}},
		{[]uint32{0, pgtype.TextArrayOID, pgtype.VarcharArrayOID, pgtype.JSONBArrayOID}, payloads{}, []*string{}},
	} {
		for _, oid := range tt.oids {
			for _, format := range []int16{pgtype.TextFormatCode, pgtype.BinaryFormatCode} {
				m := pgtype.NewMap()
				want, wantErr := m.Encode(oid, format, tt.wanted, nil)
				got, err := m.Encode(oid, format, tt.got, nil)
				if (err == nil) != (wantErr == nil) || !bytes.Equal(got, want) || (got == nil) != (want == nil) {
					t.Errorf("%T as type %d, format %d: got %q, error %v, want %q, error %v", tt.got, oid, format, got, err, want, wantErr)
				}
			}
		}
	}
}

// TestPayloadIsNotPrinted checks that no way of printing or encoding an argument shows more
// than its size.
func TestPayloadIsNotPrinted(t *testing.T) {
	t.Parallel()
	const canary = "c4n4ry"
	text := canary
	for _, v := range []any{payload(text), (*payload)(&text), payloads{&text, nil}, []any{(*payload)(&text)}, []any{payload(text)}, []any{payloads{&text}}} {
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
			if got := fmt.Sprintf(format, v); strings.Contains(got, canary) || strings.Contains(strings.ToLower(got), fmt.Sprintf("%x", canary)) {
				t.Errorf("%s prints %s", format, got)
			}
		}
		encoded, err := json.Marshal(v)
		if err != nil || strings.Contains(string(encoded), canary) || !strings.Contains(string(encoded), "6 bytes") {
			t.Errorf("got JSON %s, error %v, want only the size", encoded, err)
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("text", "v", v, "map", map[string]any{"v": v})
		slog.New(slog.NewJSONHandler(&log, nil)).Info("JSON", "v", v, "map", map[string]any{"v": v})
		if strings.Contains(log.String(), canary) {
			t.Errorf("the log contains the payload: %s", &log)
		}
	}
}
