package ledger

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// TestSample checks that sample walks all sequences that chooser returns, and none twice.
func TestSample(t *testing.T) {
	t.Parallel()
	pgtest.NeedNoServer(t)
	const most = 200
	// walk has up to six steps, of up to three sessions. The steps that it takes decide how many there are.
	walk := func(choose func(of int) int) string {
		path, sum := "", 0
		for step := 0; step < 3+sum%4 && step < 6; step++ {
			i := choose(1 + (step+sum)%3)
			sum += i
			path += fmt.Sprint(i)
		}
		return path
	}
	want := map[string]bool{}
	for n := range most {
		want[walk(chooser(n))] = true
	}
	var got []string
	n := sample(0, most, func(choose func(of int) int) bool {
		got = append(got, walk(choose))
		return true
	})
	if slices.Sort(got); !slices.Equal(got, slices.Sorted(maps.Keys(want))) || n != len(got) || n == most {
		t.Errorf("walked %d, %q, want each of %q once", n, got, slices.Sorted(maps.Keys(want)))
	}
	calls := 0
	if n := sample(5, most, func(choose func(int) int) bool { calls++; walk(choose); return calls < 3 }); n != 3 || calls != 3 {
		t.Errorf("walked %d of %d sequences, want 3, of which the last one fails", calls, n)
	}
}
