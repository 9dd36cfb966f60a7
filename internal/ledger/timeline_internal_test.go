package ledger

import (
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestClaimsEndWithTimeline checks that after a failover, everything that depends on an earlier
// claim is refused, until the member has claimed its rows again. The failover loses a parked
// stream and nothing else: to the fence without the timeline, the rows would be the same.
func TestClaimsEndWithTimeline(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	pair := testdb.Pair(t)
	ctx := t.Context()
	connect := func(s *pgtest.Server) *pgx.Conn { return testdb.Session(t, s.URL("postgres")) }
	primary := connect(pair.Primary)
	if err := schema.InstallConsumers(ctx, primary); err != nil {
		t.Fatal(err)
	}
	m := Member{ID: uuid.New(), Instance: "instance"}
	start := int64(0)
	joined, err := Join(ctx, primary, JoinParams{
		Name: "failover", Member: m.ID, Instance: m.Instance, Info: "i", Lease: time.Minute, Categories: []string{"a"}, Partitions: 2, Start: &start,
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Consumer = joined.Consumer
	_, held, err := Rebalance(ctx, primary, m)
	if err != nil || len(held.Rows) != 2 {
		t.Fatalf("got %+v, %v, want two rows", held, err)
	}
	before := held.Rows[0]
	pair.Hold(t)
	parked := Parked{Partition: before.Partition, Key: "1", Stream: "a-1", GlobalPosition: 1, Attempts: 1}
	if err := Park(ctx, primary, m, before.Epoch, parked, ""); err != nil {
		t.Fatal(err)
	}
	if err := pair.Primary.Kill(); err != nil {
		t.Fatal(err)
	}
	pair.Promote(t)

	conn := connect(pair.Standby)
	pass := Move{Partition: before.Partition, Epoch: before.Epoch, From: 0, To: 1}
	move := func(mv Move) error {
		var b pgx.Batch
		QueueMove(&b, m, mv)
		return conn.SendBatch(ctx, &b).Close()
	}
	if err := move(pass); !IsFenced(err) {
		t.Errorf("move: got %v, want it to be fenced", err)
	}
	if err := Park(ctx, conn, m, before.Epoch, parked, ""); !IsFenced(err) {
		t.Errorf("park: got %v, want it to be fenced", err)
	}
	if tick, err := Beat(ctx, conn, m, "", []Move{pass}); err != nil || !tick.Alive || !reflect.DeepEqual(tick.Refused, []int{0}) {
		t.Errorf("tick: got %+v, %v, want the move to be refused", tick, err)
	}
	if released, err := Release(ctx, conn, m, []Move{pass}); err != nil || len(released) > 0 {
		t.Errorf("release: got %v, %v, want none", released, err)
	}

	_, held, err = Rebalance(ctx, conn, m)
	if err != nil || len(held.Rows) != 2 || len(held.Parked) != 0 {
		t.Fatalf("got %+v, %v, want two rows", held, err)
	}
	for _, r := range held.Rows {
		if r.Epoch <= before.Epoch || r.Position != 0 {
			t.Errorf("got %+v, want a later epoch than %d", r, before.Epoch)
		}
	}
	if err := move(pass); !IsFenced(err) {
		t.Errorf("move by the old claim: got %v, want it to be fenced", err)
	}
	pass.Epoch = held.Rows[0].Epoch
	if err := move(pass); err != nil {
		t.Errorf("move by the new claim: %v", err)
	}
	if _, again, err := Rebalance(ctx, conn, m); err != nil || again.Rows[0].Epoch != pass.Epoch {
		t.Errorf("got %+v, %v, want the same claim", again, err)
	}
}
