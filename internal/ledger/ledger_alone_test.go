package ledger_test

import (
	"fmt"
	"testing"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

// TestSeekKeepsAlone checks that a stream that is parked covers the messages after it that were parked alone, where a seek sets it back, so
// that it can be replayed, and that others remain parked alone.
func TestSeekKeepsAlone(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		to   int // the number of the message
		want []string
	}{
		{0, []string{"-1 0", "-1+2 0 alone"}},
		{2, []string{"-1 2", "-1+2 0 alone"}}, // where a message is parked alone
		{3, []string{"-1 2 alone", "-1 3", "-1+2 0 alone"}},
		{5, []string{"-1 2 alone", "-1 4 alone", "-1 5", "-1+2 0 alone"}},
		{7, []string{"-1 2 alone", "-1 4 alone", "-1 6", "-1+2 0 alone"}},
	} {
		t.Run(fmt.Sprint("to message ", test.to), func(t *testing.T) {
			t.Parallel()
			k := newKeeper(t)
			at := []int64{0}
			for range 7 {
				at = append(at, k.says(k.one+"-1"))
			}
			other := k.says(k.one + "-1+2")
			k.beat(k.m, move(k.r, other))
			k.parks("-1", 2, at[3], true)
			k.parks("-1", 4, at[5], true)
			k.parks("-1+2", 0, other, true)
			k.parks("-1", 5, at[6], false)
			k.replays("-1", 5, 6)
			k.seek(ledger.SeekParams{Position: ref(at[test.to]), Keep: true})
			equal(t, "parked", k.parked(), test.want)
			k.replays("-1", min(int64(test.to), 6), 7)
		})
	}
}
