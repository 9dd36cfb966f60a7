package ledger_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

// key returns what is parked of a key.
func (g *group) key(m ledger.Member, p ledger.Partition, key string) (parked []ledger.Parked) {
	g.Helper()
	if err := g.send(func(b *pgx.Batch) {
		ledger.QueueKey(b, m, ledger.Key{Partition: p, Key: key}, func(ps []ledger.Parked) { parked = ps })
	}); err != nil {
		g.Fatal(err)
	}
	return parked
}

// TestPostpone checks that a failed replay adds an attempt and a new time, that the key is not due
// before that because of its other streams, and that the fence refuses it for who has not the partition
// and for a stream that has moved.
func TestPostpone(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a := g.join(g.params("one"))
	_, held := g.balance(a)
	r, upto := held.Rows[0], int64(4)
	for _, p := range []ledger.Parked{
		{Key: "1", Stream: "one-1", Position: 3, GlobalPosition: 10, Attempts: 6},
		{Key: "1", Stream: "one-1+2", Position: 0, GlobalPosition: 11},
		{Key: "1", Stream: "one-1+3", Position: 4, GlobalPosition: 12, Upto: &upto, Attempts: 6},
		{Key: "2", Stream: "one-2", Position: 0, GlobalPosition: 13, Attempts: 6},
	} {
		p.Partition = r.Partition
		if created, err := ledger.ParkFor(t.Context(), g, a, r.Epoch, p, "text", time.Microsecond); err != nil || !created {
			t.Fatal(created, err)
		}
		if created, err := ledger.ParkFor(t.Context(), g, a, r.Epoch, p, "text", time.Microsecond); err != nil || created {
			t.Errorf("parked again: got %t, %v, want that it was parked", created, err)
		}
	}
	due := func() (keys []string) {
		t.Helper()
		found, err := ledger.Due(t.Context(), g, a)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range found {
			if k.Partition != r.Partition {
				t.Errorf("got %+v, want a key of %v", k, r.Partition)
			}
			keys = append(keys, k.Key)
		}
		slices.Sort(keys)
		return keys
	}
	postpone := func(epoch int64, f ledger.Postponed) error {
		t.Helper()
		return g.send(func(b *pgx.Batch) { ledger.QueuePostpone(b, a, r.Partition, epoch, f) })
	}
	equal(t, "due", due(), []string{"1", "2"})
	for what, err := range map[string]error{
		"an earlier epoch": postpone(r.Epoch-1, ledger.Postponed{Stream: "one-1", Position: 3}),
		"a stale position": postpone(r.Epoch, ledger.Postponed{Stream: "one-1", Position: 2}),
		"not parked":       postpone(r.Epoch, ledger.Postponed{Stream: "one-3", Position: 3}),
	} {
		if !ledger.IsFenced(err) {
			t.Errorf("%s: got %v, want that the fence refuses it", what, err)
		}
	}
	if err := postpone(r.Epoch, ledger.Postponed{Stream: "one-2", Attempts: 7, Replays: 1, Wait: time.Hour}); err != nil {
		t.Fatal(err)
	}
	equal(t, "due after a failure", due(), []string{"1"})
	if err := postpone(r.Epoch, ledger.Postponed{Stream: "one-1+2", Attempts: 1, Error: "*errors.errorString", Wait: time.Hour}); err != nil {
		t.Fatal(err)
	}
	equal(t, "due because of the message that stands alone", due(), []string{"1"})
	parked := g.key(a, r.Partition, "1")
	if len(parked) != 3 || parked[0].Due != nil || parked[0].Attempts != 6 || parked[1].Due == nil || parked[1].Attempts != 1 || parked[2].Due == nil {
		t.Errorf("got %+v", parked)
	}
	if err := postpone(r.Epoch, ledger.Postponed{Stream: "one-1+3", Position: 4, Attempts: 7, Replays: 1}); err != nil {
		t.Fatal(err)
	}
	equal(t, "due after all have failed", due(), []string(nil))
	parked = g.key(a, r.Partition, "1")
	if parked[1].Due == nil || parked[2].Due != nil || parked[2].Replays != 1 {
		t.Errorf("got %+v, want that one waits for its time, and another until somebody asks for it", parked)
	}

	// The schedule begins again with the next message of the stream.
	if err := g.send(func(b *pgx.Batch) { ledger.QueueReplayed(b, a, r.Partition, r.Epoch, "one-2", 0, 1) }); err != nil {
		t.Fatal(err)
	}
	if p := g.key(a, r.Partition, "2"); len(p) != 1 || p[0].Attempts != 0 || p[0].Replays != 0 || p[0].Position != 1 {
		t.Errorf("got %+v", p)
	}

	// Others that run the consumer have nothing due.
	b := g.join(g.params("one"))
	if keys, err := ledger.Due(t.Context(), g, b); err != nil || len(keys) != 0 {
		t.Errorf("got %v, %v, want nothing", keys, err)
	}
}

// TestReplay checks that parked streams are due when somebody asks for it, all or some of them, and that there is an error
// for a consumer that does not exist.
func TestReplay(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a := g.join(g.params("one"))
	_, held := g.balance(a)
	r := held.Rows[0]
	for _, p := range []ledger.Parked{{Key: "1", Stream: "one-1"}, {Key: "1", Stream: "one-1+2"}, {Key: "2", Stream: "one-2"}} {
		if err := g.park(a, r, p, ""); err != nil {
			t.Fatal(err)
		}
	}
	name := query[string](g, `SELECT name FROM message_store_consumers.consumers WHERE id = $1`)
	replay := func(want int64, streams ...string) {
		t.Helper()
		if n, err := ledger.Replay(t.Context(), g, name, streams); err != nil || n != want {
			t.Errorf("%v: got %d, %v, want %d", streams, n, err, want)
		}
	}
	due := func(want int) {
		t.Helper()
		keys, err := ledger.Due(t.Context(), g, a)
		if err != nil || len(keys) != want {
			t.Errorf("got %v, %v, want %d keys", keys, err, want)
		}
	}
	due(0)
	replay(0, "one-3")
	due(0)
	replay(1, "one-1+2")
	due(1)
	replay(3)
	due(2)
	_, err := ledger.Replay(t.Context(), g, "nobody", nil)
	wantCode(t, "no consumer", err, ledger.NoConsumer)
}

// TestPostponeLocksInOrder checks that a replay that fails locks the rows of its key in the order in which operators lock them for a replay:
// while it waits for the first row, it has not locked the others.
func TestPostponeLocksInOrder(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	for _, stream := range []string{"-1+2", "-1+1", "-1+3"} { // unlike their order by name
		k.parks(stream, 0, 1, false)
	}
	k.exec(`UPDATE message_store_consumers.parked SET due = clock_timestamp() WHERE consumer = $1`)
	tx, err := k.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	lock := func(stream string) error {
		_, err := tx.Exec(t.Context(), `SELECT FROM message_store_consumers.parked WHERE consumer = $1 AND stream = $2 FOR NO KEY UPDATE NOWAIT`, k.id, k.one+stream)
		return err
	}
	if err := lock("-1+1"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- k.send(func(b *pgx.Batch) {
			ledger.QueuePostpone(b, k.m, k.r.Partition, k.r.Epoch, ledger.Postponed{Stream: k.one + "-1+2", Attempts: 4})
		})
	}()
	k.waits(tx, ended)
	for _, stream := range []string{"-1+2", "-1+3"} {
		if err := lock(stream); err != nil {
			t.Fatalf("%s: %v", stream, err)
		}
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
