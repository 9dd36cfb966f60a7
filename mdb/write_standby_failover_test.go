package mdb_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestFindMessages checks that the search for the messages of a write works for a role that
// can only do what a service can, in a read-only transaction, and on a standby, where it
// writes nothing. Without a need for standbys, wal_level can be minimal.
func TestFindMessages(t *testing.T) {
	t.Parallel()
	p := testdb.Pair(t)
	admin := newPool(t, p.Primary.URL("postgres"))
	m := mdb.NewMessage("Happened", 1)
	write(t, newStore(t, admin), "account-1", m)
	p.CatchUp(t)
	find := func(url string, tx pgx.TxOptions) (standby, found, writes bool) {
		var index int64
		var stream, lsn *string
		row := begin(t, newPool(t, url, asRole("message_store")), tx).QueryRow(t.Context(), mdb.FindMessages, []string{m.ID.String()}, []string{m.Type}, []string{"1"})
		if err := row.Scan(&index, &standby, &stream, nil, nil, nil, nil, nil, &lsn); err != nil {
			t.Fatal(err)
		}
		return standby, stream != nil, lsn != nil
	}
	for _, mode := range []pgx.TxAccessMode{pgx.ReadWrite, pgx.ReadOnly} {
		if standby, found, writes := find(p.Primary.URL("postgres"), pgx.TxOptions{AccessMode: mode}); standby || !found || !writes {
			t.Errorf("%s on the primary: got standby %t, found %t, writes %t", mode, standby, found, writes)
		}
	}
	if standby, found, writes := find(p.Standby.URL("postgres"), pgx.TxOptions{}); !standby || !found || writes {
		t.Errorf("on the standby: got standby %t, found %t, writes %t", standby, found, writes)
	}

	minimal := pgtest.Own(t, pgtest.Setting("wal_level", "minimal"), pgtest.Setting("max_wal_senders", "0")).URL("postgres")
	install(t, newPool(t, minimal))
	s := newStore(t, newPool(t, minimal, asRole("message_store")))
	write(t, s, "account-1", m)
	if w := write(t, s, "account-1", m, mdb.Idempotent()); !w.Duplicate {
		t.Errorf("got %+v, want a duplicate", w)
	}
}

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
