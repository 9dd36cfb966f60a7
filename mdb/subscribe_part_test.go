package mdb_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
)

// TestForkWithinPage checks that a subscription begins a page again if messages of it are lost
// after some have arrived, and before the rest has, as in a failover that takes the
// connection. Nothing of the page was delivered, so there is nothing to report.
func TestForkWithinPage(t *testing.T) {
	t.Parallel()
	for _, w := range forkWays() {
		for name, before := range map[string]int{"the first": 0, "a later one": 10} {
			t.Run(w.name+", "+name, func(t *testing.T) {
				t.Parallel()
				l := newLossy(t)
				const messages, size = 20, 10_000
				for i := range before + messages {
					write(t, l.s, "account-1", mdb.NewMessage("Happened", map[string]any{"n": i, "filler": strings.Repeat("x", size)}))
				}
				r := newRelay(t, l.url)
				s := l.store(w, oneConnection, r.through)
				if _, err := s.GetCategoryMessages(t.Context(), "account", mdb.WithBatchSize(1)); err != nil { // prepares the statement
					t.Fatal(err)
				}
				mdb.SetSilence(s, soon)
				r.limit(messages / 2 * size)
				retries := 0
				got := receiveCategory(t, s, "account", mdb.WithBatchSize(messages), mdb.AfterGlobalPosition(int64(before)),
					mdb.OnRetry(func(mdb.Retry) {
						if retries++; retries == 1 {
							l.lose(15, 3)
						}
					}),
					mdb.OnFork(func(_ context.Context, f mdb.Fork) error { return fmt.Errorf("got fork %+v, want none", f) }))
				var ids []uuid.UUID
				for _, m := range got.next(t, messages-15+3) {
					ids = append(ids, m.ID)
				}
				got.stop(t)
				if want := l.stored(forkKinds()[0])[before:]; !slices.Equal(ids, want) {
					t.Errorf("got %v, want %v", ids, want)
				}
				if retries == 0 {
					t.Error("the connection was not lost")
				}
			})
		}
	}
}

// TestForkBeforePart checks that a subscription notices a loss before a page of which a part
// arrives. What has arrived is of the new history, and is there when the subscription
// continues after it, so that alone shows no loss.
func TestForkBeforePart(t *testing.T) {
	t.Parallel()
	eachFork(t, func(t *testing.T, l *lossy, w forkWay, k forkKind) {
		if k.name == "workers" {
			t.Skip("reads as a plain one")
		}
		l.write(30)
		relay := newRelay(t, l.url)
		s := l.store(w, oneConnection, relay.through)
		r := k.start(t, s, "")
		r.until(t, l.pool, "before the loss", l.end(k, w.tableless), nil)
		before := l.stored(k)

		tx := begin(t, l.pool)
		exec(t, tx, `LOCK TABLE message_store.messages`) // reads wait
		exec(t, tx, `DELETE FROM message_store.messages WHERE global_position > 18`)
		exec(t, tx, `SELECT setval('message_store.messages_global_position_seq', 18)`)
		kept := value[int](t, tx, `SELECT count(*) FROM message_store.messages WHERE `+k.selected)
		const others, size = 60, 10_000
		exec(t, tx, strings.Replace(l.writing(others), "'{}'", fmt.Sprintf(`to_jsonb(repeat('x', %d))`, size), 1))
		fresh := value[int](t, tx, `SELECT count(*) FROM message_store.messages WHERE `+k.selected) - kept
		mdb.SetSilence(s, soon)
		relay.limit(fresh * size / 2)
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}

		want := append(before, l.stored(k)[kept:]...)
		r.until(t, l.pool, "after the loss", l.end(k, w.tableless), func() bool { return len(r.handled) >= len(want) })
		r.stop(t)
		if len(r.retries) == 0 {
			t.Error("the connection was not lost")
		}
		if got := r.ids(); !slices.Equal(got, want) {
			t.Errorf("got %d messages, want %d", len(got), len(want))
		}
		if len(r.forks) != 1 || !slices.Equal(missingIDs(r.forks[0]), before[kept:]) {
			t.Errorf("got forks %+v, want one with %v", r.forks, before[kept:])
		}
	})
}
