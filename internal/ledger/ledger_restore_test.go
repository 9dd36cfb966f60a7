package ledger_test

import (
	"context"
	"net/url"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestClaimsEndWithRestore checks that claims do not hold in a database that was restored from
// a copy, although all rows are those that the member knows: what was parked since may be lost.
func TestClaimsEndWithRestore(t *testing.T) {
	t.Parallel()
	original := testdb.Consumers(t)
	g := groupOn(t, original, func(*pgxpool.Config) {})
	a := g.join(g.params("one"))
	_, held := g.balance(a)
	timeline := g.beat(a).Timeline
	g.Close()

	u, err := url.Parse(original)
	if err != nil {
		t.Fatal(err)
	}
	name := u.Path[1:]
	u.Path = "/postgres"
	admin := testdb.Session(t, u.String())
	restored := "mdb_test_" + uuid.NewString()
	for _, sql := range []string{
		"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '" + name + "'", // that has not ended yet
		"CREATE DATABASE " + pgx.Identifier{restored}.Sanitize() + " TEMPLATE " + pgx.Identifier{name}.Sanitize(),
	} {
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if _, err := admin.Exec(context.Background(), "DROP DATABASE "+pgx.Identifier{restored}.Sanitize()+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	u.Path = "/" + restored
	h := groupOn(t, u.String(), func(*pgxpool.Config) {})
	h.id = g.id
	tick := h.beat(a, moves(held.Rows, 1)...)
	if !tick.Alive || len(tick.Refused) != 4 || tick.Timeline == timeline {
		t.Errorf("got %+v, want that all moves are refused, and another timeline than %s", tick, timeline)
	}
	err = h.send(func(b *pgx.Batch) { ledger.QueueMove(b, a, move(held.Rows[0], 1)) })
	if !ledger.IsFenced(err) {
		t.Errorf("got %v, want that the fence refuses the move", err)
	}
	_, held = h.balance(a)
	equal(t, "moved by the new claim", len(h.beat(a, moves(held.Rows, 1)...).Moved), 4)
}
