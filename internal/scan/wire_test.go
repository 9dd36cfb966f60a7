package scan_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/scan"
)

const (
	int4OID      = 23
	int8OID      = 20
	textOID      = 25
	jsonOID      = 114
	varcharOID   = 1043
	timestampOID = 1114
	uuidOID      = 2950
	jsonbOID     = 3802

	textFmt   = 0
	binaryFmt = 1
)

const (
	colID = iota
	colStream
	colType
	colPosition
	colGlobalPosition
	colData
	colMetadata
	colTime
	numColumns
)

type column struct {
	name   string
	oid    uint32
	format int16
}

// messageColumns describes what a read of Message DB returns, with all columns in the
// given format.
func messageColumns(format int16) []column {
	return []column{
		{"id", varcharOID, format},
		{"stream_name", varcharOID, format},
		{"type", varcharOID, format},
		{"position", int8OID, format},
		{"global_position", int8OID, format},
		{"data", varcharOID, format},
		{"metadata", varcharOID, format},
		{"time", timestampOID, format},
	}
}

func begin(p *scan.Page, cols []column) error {
	if err := p.Begin(len(cols)); err != nil {
		return err
	}
	for i := range cols {
		if err := p.Column(i, cols[i].name, cols[i].oid, cols[i].format); err != nil {
			return err
		}
	}
	return nil
}

func int8Bytes(n int64) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(n))
}

var (
	testID   = uuid.MustParse("0b5d4a2e-6a3c-4d0e-9a52-0d1f3c8e7b61")
	testTime = time.Date(2026, 11, 23, 14, 49, 44, 123456000, time.UTC)
)

var pgEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// textRow and binaryRow are the same message in the two formats.
func textRow() [][]byte {
	return [][]byte{
		[]byte(testID.String()), []byte("account-123"), []byte("Deposited"), []byte("7"), []byte("-42"),
		[]byte(`{"amount":11}`), []byte(`{"correlation":"x"}`), []byte("2026-11-23 14:49:44.123456"),
	}
}

func binaryRow() [][]byte {
	row := textRow()
	row[colPosition] = int8Bytes(7)
	row[colGlobalPosition] = int8Bytes(-42)
	row[colTime] = int8Bytes(testTime.Sub(pgEpoch).Microseconds())
	return row
}

func wantRow() scan.Row {
	return scan.Row{
		ID: testID, Stream: "account-123", Type: "Deposited", Position: 7, GlobalPosition: -42,
		Data: []byte(`{"amount":11}`), Metadata: []byte(`{"correlation":"x"}`), Time: testTime,
	}
}

// diff returns the first difference, or "". Unlike bytes.Equal it distinguishes nil
// from empty.
func diff(got, want scan.Row) string {
	switch {
	case got.ID != want.ID:
		return fmt.Sprintf("ID = %v, want %v", got.ID, want.ID)
	case got.Stream != want.Stream:
		return fmt.Sprintf("Stream = %q, want %q", got.Stream, want.Stream)
	case got.Type != want.Type:
		return fmt.Sprintf("Type = %q, want %q", got.Type, want.Type)
	case got.Position != want.Position:
		return fmt.Sprintf("Position = %d, want %d", got.Position, want.Position)
	case got.GlobalPosition != want.GlobalPosition:
		return fmt.Sprintf("GlobalPosition = %d, want %d", got.GlobalPosition, want.GlobalPosition)
	case !same(got.Data, want.Data):
		return fmt.Sprintf("Data = %.60q (nil %t), want %.60q (nil %t)", got.Data, got.Data == nil, want.Data, want.Data == nil)
	case !same(got.Metadata, want.Metadata):
		return fmt.Sprintf("Metadata = %.60q (nil %t), want %.60q (nil %t)", got.Metadata, got.Metadata == nil, want.Metadata, want.Metadata == nil)
	case got.Time != want.Time:
		return fmt.Sprintf("Time = %v, want %v", got.Time, want.Time)
	}
	return ""
}

func same(a, b []byte) bool {
	return (a == nil) == (b == nil) && bytes.Equal(a, b)
}

// readPage returns the rows of one page after releasing it and overwriting its input,
// as the client's next read does.
func readPage(t testing.TB, cols []column, rows ...[][]byte) []scan.Row {
	t.Helper()
	p := scan.NewPage()
	defer p.Release()
	if err := begin(p, cols); err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		borrowed := make([][]byte, len(row))
		for i, v := range row {
			if v != nil {
				borrowed[i] = append([]byte{}, v...)
			}
		}
		if err := p.Add(borrowed); err != nil {
			t.Fatal(err)
		}
		for _, v := range borrowed {
			clear(v)
		}
	}
	out := make([]scan.Row, p.Len())
	for i := range out {
		out[i] = p.Row(i)
	}
	return out
}
