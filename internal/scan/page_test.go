package scan_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/scan"
)

// TestRow checks that every column is read correctly in each of its types and formats.
func TestRow(t *testing.T) {
	t.Parallel()

	jsonb := func(s string) []byte { return append([]byte{1}, s...) }
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)

	tests := []struct {
		name   string
		format int16
		column int // in which the row differs from that of wire_test.go
		oid    uint32
		value  []byte
		want   func(*scan.Row)
	}{
		{"text", textFmt, colID, varcharOID, []byte(testID.String()), func(*scan.Row) {}},
		{"binary", binaryFmt, colID, varcharOID, []byte(testID.String()), func(*scan.Row) {}},
		{"id in upper case", textFmt, colID, varcharOID, []byte(strings.ToUpper(testID.String())), func(*scan.Row) {}},
		{"id text", binaryFmt, colID, textOID, []byte(testID.String()), func(*scan.Row) {}},
		{"id uuid, text", textFmt, colID, uuidOID, []byte(testID.String()), func(*scan.Row) {}},
		{"id uuid, binary", binaryFmt, colID, uuidOID, testID[:], func(*scan.Row) {}},
		{"stream empty", textFmt, colStream, varcharOID, []byte{}, func(r *scan.Row) { r.Stream = "" }},
		{"stream text", binaryFmt, colStream, textOID, []byte("å-ß"), func(r *scan.Row) { r.Stream = "å-ß" }},
		{"type empty", binaryFmt, colType, textOID, []byte{}, func(r *scan.Row) { r.Type = "" }},
		{"position minimum, text", textFmt, colPosition, int8OID, []byte("-9223372036854775808"), func(r *scan.Row) { r.Position = -1 << 63 }},
		{"position maximum, binary", binaryFmt, colPosition, int8OID, int8Bytes(1<<63 - 1), func(r *scan.Row) { r.Position = 1<<63 - 1 }},
		{"global position maximum, text", textFmt, colGlobalPosition, int8OID, []byte("9223372036854775807"), func(r *scan.Row) { r.GlobalPosition = 1<<63 - 1 }},
		{"global position minimum, binary", binaryFmt, colGlobalPosition, int8OID, int8Bytes(-1 << 63), func(r *scan.Row) { r.GlobalPosition = -1 << 63 }},
		{"data NULL", textFmt, colData, varcharOID, nil, func(r *scan.Row) { r.Data = nil }},
		{"data NULL, binary jsonb", binaryFmt, colData, jsonbOID, nil, func(r *scan.Row) { r.Data = nil }},
		{"data empty", textFmt, colData, varcharOID, []byte{}, func(r *scan.Row) { r.Data = []byte{} }},
		{"data empty, binary jsonb", binaryFmt, colData, jsonbOID, jsonb(""), func(r *scan.Row) { r.Data = []byte{} }},
		{"data null", textFmt, colData, jsonOID, []byte("null"), func(r *scan.Row) { r.Data = []byte("null") }},
		{"data null, binary jsonb", binaryFmt, colData, jsonbOID, jsonb("null"), func(r *scan.Row) { r.Data = []byte("null") }},
		{"data json, binary", binaryFmt, colData, jsonOID, []byte("[1]"), func(r *scan.Row) { r.Data = []byte("[1]") }},
		{"data jsonb, text", textFmt, colData, jsonbOID, []byte("[1]"), func(r *scan.Row) { r.Data = []byte("[1]") }},
		{"data 1 MiB", textFmt, colData, textOID, big, func(r *scan.Row) { r.Data = big }},
		{"data 1 MiB, binary jsonb", binaryFmt, colData, jsonbOID, jsonb(string(big)), func(r *scan.Row) { r.Data = big }},
		{"metadata NULL", binaryFmt, colMetadata, varcharOID, nil, func(r *scan.Row) { r.Metadata = nil }},
		{"metadata jsonb, binary", binaryFmt, colMetadata, jsonbOID, jsonb("{}"), func(r *scan.Row) { r.Metadata = []byte("{}") }},
		{"metadata 1 MiB", binaryFmt, colMetadata, jsonOID, big, func(r *scan.Row) { r.Metadata = big }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cols := messageColumns(tt.format)
			cols[tt.column].oid = tt.oid
			row := textRow()
			if tt.format == binaryFmt {
				row = binaryRow()
			}
			row[tt.column] = tt.value
			want := wantRow()
			tt.want(&want)
			got := readPage(t, cols, row)
			if len(got) != 1 {
				t.Fatalf("%d rows, want 1", len(got))
			}
			if d := diff(got[0], want); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestMixedFormats checks a row of text and binary columns, which a driver gets that
// requests the best format for each type.
func TestMixedFormats(t *testing.T) {
	t.Parallel()
	cols := messageColumns(textFmt)
	row := textRow()
	for _, i := range []int{colPosition, colTime} {
		cols[i].format = binaryFmt
		row[i] = binaryRow()[i]
	}
	if d := diff(readPage(t, cols, row)[0], wantRow()); d != "" {
		t.Error(d)
	}
}

// TestSizes checks rows of sizes around the limits of the scratch and of chunks.
func TestSizes(t *testing.T) {
	t.Parallel()
	sizes := []int{0, 1, 200, 1<<14 - 1, 1 << 14, 1<<14 + 1, 40_000, 1<<16 - 1, 1 << 16, 1<<16 + 1, 1 << 18, 1<<18 + 1, 1 << 20}
	for _, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			var rows [][][]byte
			for i := range 12 {
				row := binaryRow()
				// Two rows a stream, so that some views are shared and some are not.
				row[colStream] = fmt.Appendf(nil, "stream-%d", i/2)
				row[colType] = fmt.Appendf(nil, "Type%d", i/3)
				row[colPosition] = int8Bytes(int64(i))
				row[colData] = bytes.Repeat([]byte{byte('a' + i)}, size)
				row[colMetadata] = bytes.Repeat([]byte{byte('A' + i)}, 100*i)
				rows = append(rows, row)
			}
			for i, got := range readPage(t, messageColumns(binaryFmt), rows...) {
				want := wantRow()
				want.Stream, want.Type, want.Position = string(rows[i][colStream]), string(rows[i][colType]), int64(i)
				want.Data, want.Metadata = rows[i][colData], rows[i][colMetadata]
				if d := diff(got, want); d != "" {
					t.Errorf("row %d: %s", i, d)
				}
			}
		})
	}
}

// TestViewsDoNotOverlap checks that appending to a field or changing it leaves all
// others as they are.
func TestViewsDoNotOverlap(t *testing.T) {
	t.Parallel()
	row := textRow()
	other := textRow()
	other[colStream], other[colType] = []byte("account-456"), []byte("Withdrawn")
	rows := readPage(t, messageColumns(textFmt), row, other)
	for i := range rows {
		for _, v := range [][]byte{rows[i].Data, rows[i].Metadata} {
			if len(v) != cap(v) {
				t.Errorf("capacity %d of a view of %d bytes", cap(v), len(v))
			}
			_ = append(v, "overwrites the next view if the capacity allows it"...)
		}
	}
	second := wantRow()
	second.Stream, second.Type = "account-456", "Withdrawn"
	for i, want := range []scan.Row{wantRow(), second} {
		if d := diff(rows[i], want); d != "" {
			t.Errorf("after append, row %d: %s", i, d)
		}
	}

	clear(rows[0].Data)
	want := wantRow()
	want.Data = make([]byte, len(want.Data))
	if d := diff(rows[0], want); d != "" {
		t.Errorf("after a change to Data: %s", d)
	}
	if d := diff(rows[1], second); d != "" {
		t.Errorf("after a change to another row's Data: %s", d)
	}
}

// TestAddAfterRow checks that rows may be read and added in turn.
func TestAddAfterRow(t *testing.T) {
	t.Parallel()
	p := scan.NewPage()
	defer p.Release()
	if err := begin(p, messageColumns(textFmt)); err != nil {
		t.Fatal(err)
	}
	var kept []scan.Row
	for range 5 {
		if err := p.Add(textRow()); err != nil {
			t.Fatal(err)
		}
		kept = append(kept, p.Row(p.Len()-1))
	}
	for i := range kept {
		for _, r := range []scan.Row{kept[i], p.Row(i)} {
			if d := diff(r, wantRow()); d != "" {
				t.Errorf("row %d: %s", i, d)
			}
		}
	}
}

// TestFailedAdd checks that a failed Add leaves the page unchanged and usable.
func TestFailedAdd(t *testing.T) {
	t.Parallel()
	p := scan.NewPage()
	defer p.Release()
	if err := begin(p, messageColumns(textFmt)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.Add(textRow()); err != nil {
			t.Fatal(err)
		}
		bad := textRow()
		bad[colTime] = []byte("yesterday")
		if err := p.Add(bad); err == nil {
			t.Fatal("no error")
		}
	}
	if p.Len() != 2 {
		t.Fatalf("Len = %d, want 2", p.Len())
	}
	for i := range p.Len() {
		if d := diff(p.Row(i), wantRow()); d != "" {
			t.Errorf("row %d: %s", i, d)
		}
	}
}

// TestBeginAgain checks that one page can be used for two results without a release in
// between.
func TestBeginAgain(t *testing.T) {
	t.Parallel()
	p := scan.NewPage()
	defer p.Release()
	var kept []scan.Row
	for _, stream := range []string{"first-1", "second-2"} {
		if err := begin(p, messageColumns(textFmt)); err != nil {
			t.Fatal(err)
		}
		if p.Len() != 0 {
			t.Fatalf("Len = %d after Begin", p.Len())
		}
		row := textRow()
		row[colStream] = []byte(stream)
		if err := p.Add(row); err != nil {
			t.Fatal(err)
		}
		kept = append(kept, p.Row(0))
	}
	if kept[0].Stream != "first-1" || kept[1].Stream != "second-2" {
		t.Errorf("streams %q and %q", kept[0].Stream, kept[1].Stream)
	}
}

// TestSharedNames checks that a row gets its own stream and type, whether or not they
// equal those of the row before.
func TestSharedNames(t *testing.T) {
	t.Parallel()
	p := scan.NewPage()
	defer p.Release()
	if err := begin(p, messageColumns(textFmt)); err != nil {
		t.Fatal(err)
	}
	// A name is shared with the same column of the row before only.
	names := [][2]string{{"", ""}, {"a", "a"}, {"a", "b"}, {"ab", "b"}, {"ab", "b"}, {"", "b"}, {"ab", ""}}
	for _, n := range names {
		row := textRow()
		row[colStream], row[colType] = []byte(n[0]), []byte(n[1])
		if err := p.Add(row); err != nil {
			t.Fatal(err)
		}
	}
	var got [][2]string
	for i := range p.Len() {
		r := p.Row(i)
		got = append(got, [2]string{r.Stream, r.Type})
	}
	if !slices.Equal(got, names) {
		t.Errorf("names %q, want %q", got, names)
	}
}

// TestString checks that a string has the same bytes as its slice.
func TestString(t *testing.T) {
	t.Parallel()
	for _, b := range [][]byte{nil, {}, []byte("x"), []byte("a longer one")} {
		if got := scan.String(b); got != string(b) {
			t.Errorf("String(%q) = %q", b, got)
		}
	}
}
