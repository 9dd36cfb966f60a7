package mdb_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
)

// TestProgressIdentifiesMessages checks that every checkpoint which OnProgress receives
// identifies the message at its position: at the end of a page, after what a filter has left
// out, and within a page, where a subscription ends because a handler fails.
func TestProgressIdentifiesMessages(t *testing.T) {
	t.Parallel()
	eachFork(t, func(t *testing.T, l *lossy, w forkWay, k forkKind) {
		s := l.store(w)
		r := k.start(t, s, "", mdb.WithBatchSize(7))
		var before atomic.Int64
		all := make(chan struct{}) // closed when these are handled
		var ids []uuid.UUID
		filled := make(chan struct{})
		r.locked(func() {
			r.onMessage = func(ctx context.Context, m mdb.Message) error {
				<-filled
				switch i := slices.Index(ids, m.ID); {
				case i < len(ids)/2:
					if before.Add(1) == int64(len(ids)/2) {
						close(all)
					}
				case i == len(ids)/2:
					select { // for workers, which handle several streams concurrently
					case <-all:
						return errStopped
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				return nil
			}
		})
		l.write(30)
		ids = l.stored(k)
		close(filled)
		if err := <-r.dropped; !errors.Is(err, errStopped) {
			t.Fatalf("got error %v, want the handler's", err)
		}
		again := k.start(t, s, r.checkpoint, mdb.WithBatchSize(7))
		again.until(t, l.pool, "at the end", l.end(k, w.tableless), nil)
		again.stop(t)

		stream := mdb.StreamName("")
		position := func(m place) int64 { return m.Global }
		if k.stream {
			stream, position = "account-1", func(m place) int64 { return m.Position }
		}
		places := selected(t, l.pool, ofAccount)
		compareProgress(t, k.name, append(r.texts, again.texts...), stream, places)
		last := places[slices.IndexFunc(places, func(m place) bool { return m.ID == ids[len(ids)/2-1] })]
		if got, want := r.progress[len(r.progress)-1], position(last); got != want {
			t.Errorf("got position %d for the last handled message, want %d", got, want)
		}
	})
}
