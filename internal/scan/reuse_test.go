package scan_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/messagedb-go/messagedb/internal/scan"
)

// TestKeptRowsSurviveReuse checks that rows stay unchanged while many goroutines reuse
// the pooled scratch and the buffers that rows are read from. A row that shared memory
// with either would change, or race.
func TestKeptRowsSurviveReuse(t *testing.T) {
	t.Parallel()
	type page struct{ got, want []scan.Row }

	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(worker)))
			var kept []page
			buf := make([]byte, 0, 2<<20)
			for range 60 {
				p := scan.NewPage()
				if err := begin(p, messageColumns(textFmt)); err != nil {
					t.Error(err)
					return
				}
				var pg page
				for range []int{0, 1, 10, 100}[r.IntN(4)] {
					want := randomRow(r)
					// All rows are read from one buffer, as from a connection.
					if err := p.Add(encodeText(buf, want)); err != nil {
						t.Error(err)
						return
					}
					pg.want = append(pg.want, want)
				}
				for i := range p.Len() {
					pg.got = append(pg.got, p.Row(i))
				}
				p.Release()
				kept = append(kept, pg)
			}
			for n, pg := range kept {
				if len(pg.got) != len(pg.want) {
					t.Errorf("page %d: %d rows, want %d", n, len(pg.got), len(pg.want))
					continue
				}
				for i := range pg.got {
					if d := diff(pg.got[i], pg.want[i]); d != "" {
						t.Errorf("page %d, row %d: %s", n, i, d)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

// TestReleaseAndReuse checks the same for one small page and the next, without
// depending on how goroutines are scheduled.
func TestReleaseAndReuse(t *testing.T) {
	t.Parallel()
	p := scan.NewPage()
	read := func(want scan.Row) scan.Row {
		if err := begin(p, messageColumns(textFmt)); err != nil {
			t.Fatal(err)
		}
		if err := p.Add(encodeText(nil, want)); err != nil {
			t.Fatal(err)
		}
		return p.Row(0)
	}
	first := wantRow()
	got := read(first)
	second := wantRow()
	second.Stream, second.Type = "ACCOUNT-789", "DEPOSITED"
	second.Data, second.Metadata = []byte(`{"AMOUNT":99}`), []byte(`{"CORRELATION":"Y"}`)
	read(second)
	p.Release()
	if d := diff(got, first); d != "" {
		t.Error(d)
	}
}

func randomRow(r *rand.Rand) scan.Row {
	size := 200
	switch r.IntN(50) {
	case 0:
		size = 100_000
	case 1:
		size = 20_000
	}
	payload := func() []byte {
		switch r.IntN(10) {
		case 0:
			return nil
		case 1:
			return []byte{}
		}
		return bytes.Repeat([]byte{byte(r.Uint32())}, 1+r.IntN(size))
	}
	want := wantRow()
	for i := range want.ID {
		want.ID[i] = byte(r.Uint32())
	}
	want.Stream = fmt.Sprintf("stream-%d", r.IntN(3))
	want.Type = fmt.Sprintf("Type%d", r.IntN(3))
	want.Position, want.GlobalPosition = r.Int64(), -r.Int64()
	want.Data, want.Metadata = payload(), payload()
	return want
}

// encodeText writes the row to the start of buf and returns its values as views of
// buf, which the next call overwrites.
func encodeText(buf []byte, r scan.Row) [][]byte {
	b := bytes.NewBuffer(buf[:0])
	var values [][]byte
	put := func(v []byte) {
		if v == nil {
			values = append(values, nil)
			return
		}
		start := b.Len()
		b.Write(v)
		values = append(values, b.Bytes()[start:b.Len():b.Len()])
	}
	put([]byte(r.ID.String()))
	put([]byte(r.Stream))
	put([]byte(r.Type))
	put(fmt.Append(nil, r.Position))
	put(fmt.Append(nil, r.GlobalPosition))
	put(r.Data)
	put(r.Metadata)
	put([]byte(r.Time.Format("2006-01-02 15:04:05.999999")))
	return values
}
