package scan_test

import (
	"strings"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/scan"
)

// FuzzAdd checks that hostile bytes in any column, type and format neither panic nor
// damage other rows, and that no error contains them. The i-th nibble of types and the
// i-th bit of formats select the type and format of column i; the bits of nulls and
// marked select the columns that are NULL or contain the canary.
func FuzzAdd(f *testing.F) {
	for _, row := range [][][]byte{textRow(), binaryRow()} {
		for _, choice := range []struct {
			types                  uint32
			formats, nulls, marked uint8
		}{{}, {formats: 0xff}, {types: 0x22222222, formats: 0xff}, {nulls: 0x60}, {marked: 0x60}, {types: 0x33333333, formats: 0x99, marked: 0xff}} {
			f.Add(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], choice.types, choice.formats, choice.nulls, choice.marked)
		}
	}
	allowed := [numColumns][]uint32{
		colID:             {varcharOID, textOID, uuidOID},
		colStream:         {varcharOID, textOID},
		colType:           {varcharOID, textOID},
		colPosition:       {int8OID},
		colGlobalPosition: {int8OID},
		colData:           {varcharOID, textOID, jsonOID, jsonbOID},
		colMetadata:       {varcharOID, textOID, jsonOID, jsonbOID},
		colTime:           {timestampOID},
	}
	f.Fuzz(func(t *testing.T, id, stream, typ, position, global, data, metadata, at []byte, types uint32, formats, nulls, marked uint8) {
		row := [][]byte{id, stream, typ, position, global, data, metadata, at}
		cols := messageColumns(textFmt)
		for i := range row {
			cols[i].oid = allowed[i][int(types>>(4*i)&0xf)%len(allowed[i])]
			cols[i].format = int16(formats >> i & 1)
			switch {
			case nulls>>i&1 == 1:
				row[i] = nil
			case marked>>i&1 == 1:
				row[i] = append([]byte(canary), row[i]...)
			case row[i] == nil:
				row[i] = []byte{}
			}
		}
		p := scan.NewPage()
		defer p.Release()
		if err := begin(p, cols); err != nil {
			t.Fatal(err)
		}
		// The two good rows around the hostile ones must not change.
		good := func() {
			row := textRow()
			for i := range row {
				if cols[i].format == binaryFmt {
					row[i] = binaryRow()[i]
				}
				if cols[i].format == binaryFmt && cols[i].oid == uuidOID {
					row[i] = testID[:]
				}
				if cols[i].format == binaryFmt && cols[i].oid == jsonbOID {
					row[i] = append([]byte{1}, row[i]...)
				}
			}
			if err := p.Add(row); err != nil {
				t.Fatal(err)
			}
		}
		good()
		added := 0
		for range 2 {
			err := p.Add(row)
			if err == nil {
				added++
				continue
			}
			if strings.Contains(err.Error(), canary) {
				t.Fatalf("error %q contains a value", err)
			}
			if !strings.HasPrefix(err.Error(), "column ") {
				t.Fatalf("error %q names no column", err)
			}
		}
		good()
		if p.Len() != 2+added {
			t.Fatalf("Len = %d, want %d", p.Len(), 2+added)
		}
		for _, i := range []int{0, p.Len() - 1} {
			if d := diff(p.Row(i), wantRow()); d != "" {
				t.Fatalf("good row %d: %s", i, d)
			}
		}
		for i := 1; i <= added; i++ {
			r := p.Row(i)
			if r.Stream != string(row[colStream]) || r.Type != string(row[colType]) {
				t.Fatalf("names %q and %q, want %q and %q", r.Stream, r.Type, row[colStream], row[colType])
			}
			for c, got := range map[int][]byte{colData: r.Data, colMetadata: r.Metadata} {
				want := row[c]
				if want != nil && cols[c].oid == jsonbOID && cols[c].format == binaryFmt {
					want = want[1:]
				}
				if !same(got, want) || cap(got) != len(got) {
					t.Fatalf("%s = %q, want %q", cols[c].name, got, want)
				}
			}
			if r.Time.Location() != time.UTC {
				t.Fatalf("time %v is not UTC", r.Time)
			}
		}
	})
}
