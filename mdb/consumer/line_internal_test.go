package consumer

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

// TestLineRoundTrips checks that each of a member's statements is one round trip, with the limit for locks that
// those of them have which need the consumer's lock.
func TestLineRoundTrips(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			tap := new(tap)
			s := newStand(t, 0, database(t), execMode(mode), oneConnection, tap.attach)
			conn, err := s.store.Pool().Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Release()
			p := onConn{conn.Conn()}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var m ledger.Member
			var held ledger.Held
			for _, call := range []struct {
				name string
				do   func() error
			}{
				{"join", func() error {
					m = ledger.Member{ID: uuid.New()}
					joined, err := p.join(ctx, ledger.JoinParams{
						Name: s.config.consumer, Member: m.ID, Info: "test", Lease: time.Hour, Categories: []string{string(s.category)},
					})
					m.Consumer = joined.Consumer
					return err
				}},
				{"balance", func() error {
					_, read, err := p.rebalance(ctx, s.member, nil)
					held = read
					return err
				}},
				{"beat", func() error { _, err := p.beat(ctx, s.member, "", []ledger.Move{s.calling(nil).from}); return err }},
				{"due", func() error { _, err := p.due(ctx, s.member); return err }},
				{"release", func() error { _, err := p.release(ctx, m, []ledger.Move{s.calling(nil).from}); return err }},
				{"leave", func() error { return p.leave(ctx, m, nil) }},
			} {
				trips := 0
				for range 2 { // the first call prepares statements
					tap.reset(-1, -1)
					if err := call.do(); err != nil {
						t.Fatal(call.name, err)
					}
					trips, _, _ = tap.counts()
				}
				want := 1
				if mode == pgx.QueryExecModeDescribeExec { // which describes, then executes
					want = 2
				}
				if trips != want {
					t.Errorf("%s takes %d round trips, want %d", call.name, trips, want)
				}
			}
			if len(held.Rows) != 1 {
				t.Errorf("got %+v, want one row", held)
			}
		})
	}
}
