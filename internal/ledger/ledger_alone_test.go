package ledger_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

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

// TestSeekLeavesKeyDue checks that the streams of a key are due if a seek deletes the one that said when they are replayed, that those of
// other keys are not, and that what is parked alone says nothing of others.
func TestSeekLeavesKeyDue(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	var at []int64
	for _, stream := range []string{"-1", "-2", "-3", "-1+2", "-3", "-4"} {
		at = append(at, k.says(k.one+stream))
	}
	k.beat(k.m, move(k.r, at[5]))
	for i, stream := range []string{"-1", "-2", "-3", "-1+2"} {
		k.parks(stream, 0, at[i], false)
	}
	k.parks("-3", 1, at[4], true)
	k.parks("-4", 0, at[5], false)
	if err := k.send(func(b *pgx.Batch) {
		ledger.QueuePostpone(b, k.m, k.r.Partition, k.r.Epoch, ledger.Postponed{Stream: k.one + "-1+2", Attempts: 4, Wait: time.Hour})
	}); err != nil {
		t.Fatal(err)
	}
	equal(t, "parked", k.parked(), []string{"-1 0", "-1+2 0 due", "-2 0", "-3 0", "-3 1 alone", "-4 0"})
	k.seek(ledger.SeekParams{Position: ref(at[2])})
	equal(t, "parked after the seek", k.parked(), []string{"-1 0 due", "-2 0", "-3 0"})
	if keys, err := ledger.Due(t.Context(), k, k.m); err != nil || len(keys) != 1 || keys[0].Key != "1" {
		t.Errorf("due: got %v, %v, want key 1", keys, err)
	}
}
