package ledger_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

// TestSkipAloneOnly checks that a skip of a message that was parked alone skips no other one, also if it is asked to skip all that
// wait, and that such messages remain parked if all is skipped that waits for their key.
func TestSkipAloneOnly(t *testing.T) {
	t.Parallel()
	for _, everything := range []bool{false, true} {
		t.Run(fmt.Sprint(everything), func(t *testing.T) {
			t.Parallel()
			k := newKeeper(t)
			var last int64
			for range 6 {
				last = k.says(k.one + "-1")
			}
			k.beat(k.m, move(k.r, last))
			for position := range int64(4) {
				k.parks("-1", position, position+1, true)
			}
			k.parks("-1+2", 0, 3, true)
			k.parks("-1", 4, 5, false)
			skip := func(position *int64, want ...string) {
				t.Helper()
				if n, err := ledger.Skip(t.Context(), k, k.name, k.one+"-1", position, everything); err != nil || n != 1 {
					t.Errorf("got %d, %v, want a row", n, err)
				}
				equal(t, "parked", k.parked(), want)
			}
			skip(ref(int64(2)), "-1 0 alone", "-1 1 alone", "-1 3 alone", "-1 4", "-1+2 0 alone")
			skip(nil, "-1 1 alone", "-1 3 alone", "-1 4", "-1+2 0 alone")
			next := "-1 5 due"
			if everything {
				next = "-1 6 due"
			}
			skip(ref(int64(4)), "-1 1 alone", "-1 3 alone", next, "-1+2 0 alone")
		})
	}
}

// TestSkipDuringReplay checks that a skip without a position skips the message at which the stream is parked when a replay has moved it on
// that was under way.
func TestSkipDuringReplay(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	at := k.says(k.one + "-1")
	k.says(k.one + "-1")
	k.beat(k.m, move(k.r, at))
	k.parks("-1", 0, at, false)
	tx, err := k.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	var b pgx.Batch
	ledger.QueueReplayed(&b, k.m, k.r.Partition, k.r.Epoch, k.one+"-1", 0, 1)
	if err := tx.SendBatch(t.Context(), &b).Close(); err != nil {
		t.Fatal(err)
	}
	skipped := make(chan error, 1)
	go func() {
		n, err := ledger.Skip(t.Context(), k, k.name, k.one+"-1", nil, false)
		if err == nil && n != 1 {
			err = fmt.Errorf("%d rows", n)
		}
		skipped <- err
	}()
	k.waits(tx, skipped)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-skipped; err != nil {
		t.Errorf("got %v, want that the next message is skipped", err)
	}
	equal(t, "parked", k.parked(), []string{"-1 2 due"})
}
