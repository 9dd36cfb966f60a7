package scan_test

import (
	"bytes"
	"fmt"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/messagedb-go/messagedb/internal/scan"
)

// sized returns a binary row whose variable fields are n bytes together.
func sized(n int) [][]byte {
	row := binaryRow()
	row[colData] = nil
	row[colMetadata] = nil
	row[colData] = bytes.Repeat([]byte{'x'}, n-len(row[colStream])-len(row[colType]))
	return row
}

var sink scan.Row

// scanPage does what the client does for one read.
func scanPage(cols []column, n int, row [][]byte) {
	p := scan.NewPage()
	defer p.Release()
	if err := begin(p, cols); err != nil {
		panic(err)
	}
	for range n {
		if err := p.Add(row); err != nil {
			panic(err)
		}
	}
	for i := range p.Len() {
		sink = p.Row(i)
	}
}

// TestAllocs does not run in parallel: what others allocate would be counted.
func TestAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool forget")
	}
	// So does a collection.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))

	short, long := sized(200), sized(2<<20)
	tests := []struct {
		rows int
		row  [][]byte
		want float64
	}{
		{0, short, 0},
		{1, short, 1},
		{10, short, 1},
		{100, short, 1},
		{1000, short, 1},
		{5000, short, 1}, // 1 MiB almost, but only if the names are shared

		// The scratch's copy, and a chunk of 1 MiB, trimmed.
		{10_000, short, 2},
		{6000, short, 3},

		// A large value has a chunk to itself; the names are in the scratch.
		{1, long, 2},
		{8, long, 9},
	}
	for _, format := range []string{"binary", "text"} {
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s/%d rows of %d", format, tt.rows, len(tt.row[colData])), func(t *testing.T) {
				cols, row := messageColumns(binaryFmt), tt.row
				if format == "text" {
					cols = messageColumns(textFmt)
					row = textRow()
					row[colData], row[colMetadata] = tt.row[colData], tt.row[colMetadata]
				}
				got := testing.AllocsPerRun(20, func() { scanPage(cols, tt.rows, row) })
				if got != tt.want {
					t.Errorf("%v allocations, want %v", got, tt.want)
				}
			})
		}
	}
}

// TestSmallPageBytes bounds what a small page costs and keeps in bytes.
func TestSmallPageBytes(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool forget")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1))

	cols := messageColumns(binaryFmt)
	row := sized(200)
	for _, tt := range []struct{ rows, most int }{
		{0, 0},
		{1, 208},
		{10, 2048},
	} {
		scanPage(cols, tt.rows, row)
		const runs = 100
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			scanPage(cols, tt.rows, row)
		}
		runtime.ReadMemStats(&after)
		// The slack is for what the runtime does meanwhile.
		if got := after.TotalAlloc - before.TotalAlloc; got > uint64(runs*tt.most+4096) {
			t.Errorf("%d rows: %d bytes a page, want at most %d", tt.rows, got/runs, tt.most)
		}
	}
}
