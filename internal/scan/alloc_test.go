package scan_test

import (
	"bytes"
	"fmt"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/messagedb-go/messagedb/internal/scan"
)

// sized returns a binary row whose variable-size fields have n bytes in total.
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

// TestAllocs checks that a page costs a fixed number of allocations, however many rows
// it has. It does not run in parallel, because it would count what other tests
// allocate.
func TestAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector sync.Pool drops some of its values")
	}
	// A garbage collection empties the pool too.
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
		{5000, short, 1}, // nearly 1 MiB, if the names are shared

		// The copy of the scratch, and a chunk of 1 MiB, trimmed.
		{10_000, short, 2},
		{6000, short, 3},

		// A large value has its own chunk; the names are in the scratch.
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

// TestSmallPageBytes checks how many bytes a small page allocates and keeps.
func TestSmallPageBytes(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector sync.Pool drops some of its values")
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
		// The slack is for what the runtime allocates in the meantime.
		if got := after.TotalAlloc - before.TotalAlloc; got > uint64(runs*tt.most+4096) {
			t.Errorf("%d rows: %d bytes a page, want at most %d", tt.rows, got/runs, tt.most)
		}
	}
}
