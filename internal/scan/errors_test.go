package scan_test

import (
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/scan"
)

// canary stands for the content of a message, which no error may contain.
const canary = "c4n4ry"

// TestBeginErrors checks that a wrong number of columns is rejected.
func TestBeginErrors(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 7, 9} {
		p := scan.NewPage()
		defer p.Release()
		err := p.Begin(n)
		if err == nil || !strings.Contains(err.Error(), "want 8: id, stream_name, type, position, global_position, data, metadata, time") {
			t.Errorf("Begin(%d) = %v", n, err)
		}
	}
}

// TestColumnErrors checks that a wrong place, name, type or format of a column is
// rejected, with an error that names the column and what is accepted.
func TestColumnErrors(t *testing.T) {
	t.Parallel()
	names := []string{"id", "stream_name", "type", "position", "global_position", "data", "metadata", "time"}
	tests := []struct {
		name   string
		i      int
		column column
		want   []string
	}{
		{"place before", -1, column{"id", varcharOID, 0}, []string{`"id"`, "place 0"}},
		{"place after", 8, column{"extra", varcharOID, 0}, []string{`"extra"`, "place 9"}},
		{"swapped", colPosition, column{"global_position", int8OID, 0}, []string{`"global_position"`, "place 4", `want column "position"`}},
		{"id", colID, column{"id", int8OID, 0}, []string{`"id"`, "int8 (oid 20)", "varchar (oid 1043) or text (oid 25) or uuid (oid 2950)"}},
		{"stream_name", colStream, column{"stream_name", uuidOID, 0}, []string{`"stream_name"`, "uuid (oid 2950)", "varchar (oid 1043) or text (oid 25)"}},
		{"type", colType, column{"type", jsonOID, 0}, []string{`"type"`, "json (oid 114)", "varchar (oid 1043) or text (oid 25)"}},
		{"position", colPosition, column{"position", int4OID, 0}, []string{`"position"`, "has type oid 23", "want int8 (oid 20)"}},
		{"global_position", colGlobalPosition, column{"global_position", textOID, 0}, []string{`"global_position"`, "text (oid 25)", "want int8 (oid 20)"}},
		{"data", colData, column{"data", timestampOID, 0}, []string{`"data"`, "timestamp (oid 1114)", "varchar (oid 1043) or text (oid 25) or json (oid 114) or jsonb (oid 3802)"}},
		{"metadata", colMetadata, column{"metadata", 17, 0}, []string{`"metadata"`, "oid 17", "jsonb (oid 3802)"}},
		{"time", colTime, column{"time", 1184, 0}, []string{`"time"`, "oid 1184", "want timestamp (oid 1114)"}},
	}
	for i, c := range messageColumns(0) {
		for _, format := range []int16{-1, 2} {
			c.format = format
			tests = append(tests, struct {
				name   string
				i      int
				column column
				want   []string
			}{"format of " + c.name, i, c, []string{`"` + names[i] + `"`, "format code"}})
		}
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := scan.NewPage()
			defer p.Release()
			if err := p.Begin(8); err != nil {
				t.Fatal(err)
			}
			err := p.Column(tt.i, tt.column.name, tt.column.oid, tt.column.format)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q, want %q in it", err, want)
				}
			}
		})
	}
}

// TestAddErrors checks that a malformed value is rejected, with an error that names
// the column and contains nothing of the value.
func TestAddErrors(t *testing.T) {
	t.Parallel()
	text, bin := messageColumns(textFmt), messageColumns(binaryFmt)
	id := testID.String()

	tests := []struct {
		name   string
		cols   []column
		column int
		oid    uint32
		value  string
	}{
		{"id empty", text, colID, varcharOID, ""},
		{"id short", text, colID, varcharOID, id[:35]},
		{"id long", text, colID, varcharOID, id + "0"},
		{"id without hyphens", text, colID, uuidOID, strings.ReplaceAll(id, "-", "")},
		{"id in braces", text, colID, varcharOID, "{" + id + "}"},
		{"id as urn", text, colID, textOID, "urn:uuid:" + id},
		{"id not hex", bin, colID, varcharOID, id[:35] + "g"},
		{"id with other hyphens", text, colID, varcharOID, strings.ReplaceAll(id, "-", "_")},
		{"id padded", text, colID, varcharOID, " " + id[:35]},
		{"id binary short", bin, colID, uuidOID, "0123456789abcde"},
		{"id binary long", bin, colID, uuidOID, "0123456789abcdefg"},
		{"id binary empty", bin, colID, uuidOID, ""},
		{"id text in binary uuid", bin, colID, uuidOID, id},
		{"position empty", text, colPosition, int8OID, ""},
		{"position word", text, colPosition, int8OID, canary},
		{"position fraction", text, colPosition, int8OID, "1.0"},
		{"position spaced", text, colPosition, int8OID, " 1"},
		{"position too large", text, colPosition, int8OID, "9223372036854775808"},
		{"position binary short", bin, colPosition, int8OID, "1234567"},
		{"position binary long", bin, colPosition, int8OID, "123456789"},
		{"global position word", text, colGlobalPosition, int8OID, canary},
		{"global position too small", text, colGlobalPosition, int8OID, "-9223372036854775809"},
		{"global position binary empty", bin, colGlobalPosition, int8OID, ""},
		{"data without version", bin, colData, jsonbOID, `{"a":"` + canary + `"}`},
		{"data of version 2", bin, colData, jsonbOID, "\x02" + canary},
		{"data without a byte", bin, colData, jsonbOID, ""},
		{"metadata without version", bin, colMetadata, jsonbOID, `{"a":"` + canary + `"}`},
		{"metadata of version 0", bin, colMetadata, jsonbOID, "\x00" + canary},
		{"metadata without a byte", bin, colMetadata, jsonbOID, ""},
		{"time empty", text, colTime, timestampOID, ""},
		{"time word", text, colTime, timestampOID, canary},
		{"time binary short", bin, colTime, timestampOID, "1234567"},
		{"time binary long", bin, colTime, timestampOID, "123456789"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cols := append([]column{}, tt.cols...)
			cols[tt.column].oid = tt.oid
			row := textRow()
			if cols[tt.column].format == binaryFmt {
				row = binaryRow()
			}
			row[tt.column] = []byte(tt.value)
			err := addOne(t, cols, row)
			if err == nil {
				t.Fatal("no error")
			}
			if want := `column "` + cols[tt.column].name + `": malformed`; !strings.Contains(err.Error(), want) {
				t.Errorf("error %q, want %q in it", err, want)
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("error %q contains the value", err)
			}
		})
	}
}

// TestAddNull checks that only data and metadata may be NULL.
func TestAddNull(t *testing.T) {
	t.Parallel()
	for i, c := range messageColumns(textFmt) {
		row := textRow()
		row[i] = nil
		err := addOne(t, messageColumns(textFmt), row)
		if i == colData || i == colMetadata {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if want := `column "` + c.name + `" is NULL`; err == nil || err.Error() != want {
			t.Errorf("%s: error %v, want %q", c.name, err, want)
		}
	}
}

// TestAddCount checks that a row with a wrong number of values is rejected.
func TestAddCount(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 7} {
		if err := addOne(t, messageColumns(textFmt), textRow()[:n]); err == nil {
			t.Errorf("%d values: no error", n)
		}
	}
	if err := addOne(t, messageColumns(textFmt), append(textRow(), nil)); err == nil {
		t.Error("9 values: no error")
	}
}

// TestAddUndescribed checks that a row is rejected until all columns are described.
func TestAddUndescribed(t *testing.T) {
	t.Parallel()
	for missing, c := range messageColumns(textFmt) {
		p := scan.NewPage()
		defer p.Release()
		// The description of an earlier result must not count for this one.
		if err := begin(p, messageColumns(textFmt)); err != nil {
			t.Fatal(err)
		}
		if err := p.Begin(8); err != nil {
			t.Fatal(err)
		}
		for i, c := range messageColumns(textFmt) {
			if i != missing {
				if err := p.Column(i, c.name, c.oid, c.format); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := p.Add(textRow()); err == nil {
			t.Errorf("%s not described: no error", c.name)
		}
	}
}

func addOne(t *testing.T, cols []column, row [][]byte) error {
	t.Helper()
	p := scan.NewPage()
	defer p.Release()
	if err := begin(p, cols); err != nil {
		t.Fatal(err)
	}
	err := p.Add(row)
	if err != nil && p.Len() != 0 {
		t.Errorf("Len = %d after an error", p.Len())
	}
	return err
}
