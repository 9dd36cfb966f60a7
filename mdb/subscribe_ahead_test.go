package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// TestReadAhead checks that the page after a full one is read while the handler has the full one,
// that the number of reads is the same as without that, and that a pool of one connection is enough
// for the handler's own calls.
func TestReadAhead(t *testing.T) {
	t.Parallel()
	const batch, pages = 3, 5 // all of them full
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			var acquired atomic.Int64
			s := newStore(t, newPool(t, testdb.Shared(t), oneConnection, func(cfg *pgxpool.Config) {
				cfg.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { acquired.Add(1); return true, nil }
			}), opts...)
			stream := mdbtest.Category("ahead").Stream("1")
			seed(t, s, stream, batch*pages)
			acquired.Store(0)
			handled, own := 0, int64(0)
			err := s.SubscribeToStream(t.Context(), stream, func(ctx context.Context, _ mdb.Message) error {
				if handled++; handled%batch != 1 {
					return nil
				}
				// The first of a page: the read of the next one has begun, or will.
				for end := time.Now().Add(testTimeout); acquired.Load()-own < int64(handled/batch+2); runtime.Gosched() {
					if time.Now().After(end) {
						return fmt.Errorf("got %d reads before message %d, want one more", acquired.Load()-own, handled)
					}
				}
				own++
				_, err := s.StreamVersion(ctx, stream)
				return err
			}, mdb.WithBatchSize(batch), mdb.WithPolling(func(poll.Seen) time.Duration {
				if n := acquired.Load() - own; handled != batch*pages || n != pages+2 {
					t.Errorf("caught up after %d messages and %d reads, want %d and %d", handled, n, batch*pages, pages+2)
				}
				panic(errStopped)
			}))
			if p := (*mdb.PanicError)(nil); !errors.As(err, &p) {
				t.Errorf("got error %v, want that of the strategy", err)
			}
		})
	}
}

// TestReadAheadSharesOneConnection checks that many subscriptions that catch up while others write
// receive everything on a pool of one connection, which their handlers use, too.
func TestReadAheadSharesOneConnection(t *testing.T) {
	t.Parallel()
	const subscriptions, before, meanwhile = 6, 50, 50
	s := newStore(t, newPool(t, testdb.Shared(t), oneConnection))
	writer := newStore(t, newPool(t, testdb.Shared(t)))
	stream := mdbtest.Category("ahead").Stream("1")
	seed(t, writer, stream, before)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	errDone := errors.New("all messages have arrived")
	var wg sync.WaitGroup
	for i := range subscriptions {
		wg.Go(func() {
			n := int64(0)
			err := s.SubscribeToCategory(ctx, stream.Category(), func(ctx context.Context, m mdb.Message) error {
				if m.Position != n {
					t.Errorf("got position %d, want %d", m.Position, n)
				}
				if n++; n == before+meanwhile {
					return errDone
				}
				_, err := s.StreamVersion(ctx, stream)
				return err
			}, mdb.WithBatchSize(1+i))
			if !errors.Is(err, errDone) {
				t.Errorf("after %d messages: got error %v", n, err)
			}
		})
	}
	wg.Go(func() { seed(t, writer, stream, meanwhile) })
	wg.Wait()
}
