package mdb_test

import (
	"slices"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestGroupStable checks groups on stores whose function stream_version is STABLE, so that it sees neither what its statement has
// written before, nor what was committed since its statement began: several writes to a stream have the same outcomes as one after
// another, in one transaction, after another store's write that the group has waited for.
func TestGroupStable(t *testing.T) {
	t.Parallel()
	for name, replace := range map[string]string{
		"PL/pgSQL": `ALTER FUNCTION message_store.stream_version(varchar) STABLE`,
		// The planner puts its query in the place of the call.
		"SQL": `CREATE OR REPLACE FUNCTION message_store.stream_version(stream_name varchar) RETURNS bigint LANGUAGE sql STABLE
			AS 'SELECT max(m.position) FROM message_store.messages AS m WHERE m.stream_name = $1'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := testdb.New(t)
			other := newStore(t, newPool(t, url))
			exec(t, other.Pool(), replace)
			if v := value[string](t, other.Pool(), `SELECT string_agg(provolatile::text, '') FROM pg_proc WHERE proname = 'stream_version' AND pronamespace = 'message_store'::regnamespace`); v != "s" {
				t.Fatalf("got volatility %q, want s", v)
			}
			onGroups(t, func(t *testing.T, way ...mdb.StoreOption) {
				s := newStore(t, newPool(t, url, connections(10)), way...)
				for range 3 { // the first ones prepare
					category := mdbtest.Category("stable")
					stream := category.Stream("1")
					tx := begin(t, other.Pool())
					write(t, other.WithTx(tx), stream, mdb.NewMessage("Happened", nil))
					release := mdb.HoldTurn(s, category)
					var queue []*queued
					for _, w := range []struct {
						messages int
						expected int64
					}{{1, 0}, {2, 1}, {1, 1}, {1, 3}, {1, 0}} {
						queue = append(queue, enqueue(t, s, stream, proposals(w.messages), mdb.ExpectVersion(w.expected)))
					}
					release()
					untilBlocked(t, other.Pool(), category, 1)
					if err := tx.Commit(t.Context()); err != nil {
						t.Fatal(err)
					}
					for i, want := range []string{"written 1", "written 2", "version 3", "written 4", "version 4"} {
						if got := outcomeOf(queue[i].result(t)); got != want {
							t.Errorf("write %d: got %q, want %q", i, got, want)
						}
					}
					if got := positions(t, other.Pool(), stream); !slices.Equal(got, []int64{0, 1, 2, 3, 4}) {
						t.Errorf("got positions %v, want 5 in order", got)
					}
					if n := value[int](t, other.Pool(), `SELECT count(DISTINCT xmin::text)::int FROM message_store.messages WHERE stream_name = $1`, string(stream)); n != 2 {
						t.Errorf("got %d transactions, want that of the other store and that of the group", n)
					}
				}
			})
		})
	}
}
