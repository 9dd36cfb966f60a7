package mdb_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestBehindStandby checks that a subscription to a standby that does not have the messages of
// its checkpoint yet waits for them, and reports no fork.
func TestBehindStandby(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	p := testdb.Pair(t)
	f := failover{Pair: p, category: "account", old: newPool(t, p.Primary.URL("postgres"))}
	f.write(t, f.old, 20)
	p.Hold(t)
	f.write(t, f.old, 20)
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		var at mdb.CategoryCheckpoint
		progress := mdb.OnProgress(func(_ context.Context, c mdb.CategoryCheckpoint) error {
			at = c
			return nil
		})
		ctx, end := context.WithCancelCause(t.Context())
		live := mdb.OnLive(func(bool) { end(errStopped) })
		err := newStore(t, f.old, opts...).SubscribeToCategory(ctx, f.category, func(context.Context, mdb.Message) error { return nil }, progress, live)
		if !errors.Is(err, errStopped) || at.Position() < 40 {
			t.Fatalf("%s: got position %d, error %v", way, at.Position(), err)
		}
		retries := make(chan error, 100)
		standby := newStore(t, newPool(t, p.Standby.URL("postgres")), append(opts, often)...)
		r := receiveCategory(t, standby, f.category, mdb.AfterCheckpoint(at),
			mdb.OnRetry(func(retry mdb.Retry) {
				select {
				case retries <- retry.Err:
				default:
				}
			}),
			mdb.OnFork(func(_ context.Context, fork mdb.Fork) error {
				t.Errorf("%s: got fork %+v", way, fork)
				return errStopped
			}))
		for n := 0; n < 3; {
			select {
			case err := <-retries:
				if strings.Contains(err.Error(), "standby") {
					n++
				}
			case <-time.After(testTimeout):
				t.Fatalf("%s: the subscription does not wait for the standby", way)
			}
		}
		p.Release(t)
		before := selected(t, f.old, ofAccount)
		f.write(t, f.old, 5)
		if got, want := placesOf(r.next(t, 5)), selected(t, f.old, ofAccount)[len(before):]; !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", way, got, want)
		}
		r.stop(t)
		p.Hold(t)
		f.write(t, f.old, 5)
	}
}
