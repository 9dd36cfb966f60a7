package mdb_test

import (
	"runtime"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestGroupExits checks that no write waits for ever if a function, such as a tracer of pgx in a test, ends the goroutine that sends
// their group, and that each write happens once.
func TestGroupExits(t *testing.T) {
	t.Parallel()
	onGroups(t, func(t *testing.T, way ...mdb.StoreOption) {
		for _, at := range []string{"TraceAcquireStart", "TraceBatchStart", "TraceBatchEnd"} {
			t.Run(at, func(t *testing.T) {
				t.Parallel()
				exits := &failingTracer{fail: runtime.Goexit}
				s := newStore(t, groupPool(t, exits.attach), way...)
				category := mdbtest.Category("exits")
				write(t, s, category.Stream("first"), mdb.NewMessage("Happened", nil))
				release := mdb.HoldTurn(s, category)
				var queue []*queued
				for range 3 {
					queue = append(queue, enqueue(t, s, category.Stream("1"), proposals(1)))
				}
				exits.at.Store(at)
				release()
				for i, q := range queue {
					if _, err := q.result(t); err != nil {
						t.Errorf("write %d: %v", i, err)
					}
				}
				if got := positions(t, s.Pool(), category.Stream("1")); len(got) != len(queue) {
					t.Errorf("got positions %v, want %d", got, len(queue))
				}
				if at := exits.at.Load(); at != "" {
					t.Errorf("%s was not called", at)
				}
				s.Close()
				wantNoGroups(t, s)
			})
		}
	})
}
