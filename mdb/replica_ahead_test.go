package mdb_test

import (
	"context"
	"testing"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestReplicaAhead checks that a message which the replica shows before the primary does, because its commit waits for a synchronous standby, is not
// taken for lost when reads change to the primary, also by a subscription that begins after it.
func TestReplicaAhead(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for name, opts := range map[string][]mdb.StoreOption{"procedures": {often}, "direct": {often, mdb.WithDirectSQL()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := mirror(t, []pgtest.Option{pgtest.Setting("synchronous_standby_names", "nobody"), pgtest.Setting("synchronous_commit", "local")})
			m.store = m.open(t, opts...)
			w := newStore(t, m.primary)
			for i := range 3 {
				write(t, w, "account-1", mdb.NewMessage("Happened", i))
			}
			h := recordHistory(t, m.store, "account")
			h.next(t, 3)
			waits := newStore(t, newPool(t, m.Primary.URL("postgres"), parameter("synchronous_commit", "on")))
			written := make(chan error, 1)
			ctx, cancel := context.WithCancel(context.Background())
			t.Cleanup(cancel) // before that of the pool
			go func() {
				_, err := waits.WriteMessage(ctx, "account-1", mdb.NewMessage("Happened", 3))
				written <- err
			}()
			ahead := h.next(t, 1)[0]
			mdb.LeaveReplica(m.store)
			begins := receiveStream(t, m.store, "account-1", noFork(t), mdb.AfterPosition(ahead.Position))
			until(t, m.primary, `SELECT count(*) >= 2 FROM pg_stat_activity WHERE wait_event = 'advisory' AND query LIKE '%acquire_lock%'`)
			exec(t, m.primary, `ALTER SYSTEM SET synchronous_standby_names = ''`)
			exec(t, m.primary, `SELECT pg_reload_conf()`)
			if err := <-written; err != nil {
				t.Fatal(err)
			}
			write(t, w, "account-1", mdb.NewMessage("Happened", 4))
			for what, r := range map[string]*recipient{"the category": h.recipient, "the stream": begins} {
				if got := r.next(t, 1)[0]; got.Position != ahead.Position+1 {
					t.Errorf("%s: got position %d, want %d", what, got.Position, ahead.Position+1)
				}
			}
			h.compareForks(t)
		})
	}
}
