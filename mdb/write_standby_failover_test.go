package mdb_test

import (
	"strings"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestAcknowledgedSurvivesFailover checks that a write whose first commit has not reached
// the synchronous standby, and whose retry finds the message on the primary, is not
// acknowledged until the message is on the server that is the primary after a failover.
func TestAcknowledgedSurvivesFailover(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for name, function := range map[string]string{"cancelled": "pg_cancel_backend", "terminated": "pg_terminate_backend"} {
		t.Run(name, func(t *testing.T) {
			p := testdb.Pair(t)
			admin := newPool(t, p.Primary.URL("postgres"))
			s := newStore(t, newPool(t, p.URL(), asRole("message_store")))
			stream := mdbtest.Category("failover").Stream("1")
			seed(t, s, stream, 1)
			p.Synchronous(t, true)
			p.Hold(t)
			h := &heldStandby{admin: admin, since: value[time.Time](t, admin, `SELECT now()`)}
			call := do(func() ([]mdb.Written, error) {
				w, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", 1))
				return []mdb.Written{w}, err
			})
			stalledUntil(t, h, call).signal(t, h, function)
			if look := stalledUntil(t, h, call); !strings.Contains(look.query, "sought") {
				t.Fatalf("%s waits for the standby, want the look for the message", look.query)
			}
			if got := len(positions(t, admin, stream)); got != 2 {
				t.Fatalf("got %d messages on the primary, want 2", got)
			}
			if err := p.Primary.Kill(); err != nil {
				t.Fatal(err)
			}
			p.Promote(t)
			if result := <-call; result.err != nil {
				t.Fatal(result.err)
			}
			if got := len(positions(t, newPool(t, p.Standby.URL("postgres")), stream)); got != 2 {
				t.Errorf("got %d messages on the new primary, want 2", got)
			}
		})
	}
}
