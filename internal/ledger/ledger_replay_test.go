package ledger_test

import (
	"context"
	"slices"
	"strconv"
	"strings"
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

// TestKeyLocksInOrder checks that everything that changes several rows of a key locks them in the order in which operators lock them for a
// replay: while it waits for the first row, it has not locked the others.
func TestKeyLocksInOrder(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		rows []string // as they are parked; the first one by name and position is locked
		act  func(k *keeper, b *pgx.Batch)
	}{
		"postpone": {[]string{"-1+2 0", "-1+1 0", "-1+3 0"}, func(k *keeper, b *pgx.Batch) {
			ledger.QueuePostpone(b, k.m, k.r.Partition, k.r.Epoch, ledger.Postponed{Stream: k.one + "-1+2", Attempts: 4})
		}},
		"replayed": {[]string{"-1+2 0", "-1+1 0", "-1+3 0"}, func(k *keeper, b *pgx.Batch) {
			ledger.QueueReplayed(b, k.m, k.r.Partition, k.r.Epoch, k.one+"-1+2", 0, 1)
			ledger.QueueReplayed(b, k.m, k.r.Partition, k.r.Epoch, k.one+"-1+1", 0, 1)
		}},
		"unpark": {[]string{"-1+2 0", "-1+1 0", "-1+3 0"}, func(k *keeper, b *pgx.Batch) {
			for _, scan := range []string{"indexscan", "bitmapscan"} { // which would happen to return the rows in this order
				b.Queue("SELECT set_config('enable_' || $1, 'off', true)", scan)
			}
			ledger.QueueUnpark(b, k.m, move(k.r, k.r.Position), "1")
		}},
		"park": {[]string{"-1 5", "-1 0", "-1 7"}, func(k *keeper, b *pgx.Batch) {
			b.Queue(`SELECT message_store_consumers.park($1, $2, $3, $4, $5, '1', $6, 0, NULL, 1, 1, NULL, NULL)`,
				k.m.Consumer, k.r.Category, k.r.Number, k.m.ID.String(), k.r.Epoch, k.one+"-1")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKeeper(t)
			for _, row := range test.rows {
				stream, position := rowOf(row)
				k.parks(stream, position, 1, name == "park")
			}
			k.exec(`UPDATE message_store_consumers.parked SET due = clock_timestamp() WHERE consumer = $1`)
			k.locksLast(test.rows[1], test.rows, func(b *pgx.Batch) { test.act(k, b) })
		})
	}
}

// rowOf returns what a text says: a stream and a position.
func rowOf(text string) (stream string, position int64) {
	stream, digits, _ := strings.Cut(text, " ")
	position, _ = strconv.ParseInt(digits, 10, 64)
	return stream, position
}

// locksLast checks that what is queued waits for the first row before it locks others.
func (k *keeper) locksLast(first string, rows []string, queue func(b *pgx.Batch)) {
	k.Helper()
	tx, err := k.Begin(k.Context())
	if err != nil {
		k.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	lock := func(row string) {
		k.Helper()
		stream, position := rowOf(row)
		if _, err := tx.Exec(k.Context(), `SELECT FROM message_store_consumers.parked WHERE consumer = $1 AND stream = $2 AND position = $3 FOR NO KEY UPDATE NOWAIT`,
			k.id, k.one+stream, position); err != nil {
			k.Fatalf("%s: %v", row, err)
		}
	}
	lock(first)
	ended := make(chan error, 1)
	go func() { ended <- k.send(queue) }()
	k.waits(tx, ended)
	for _, row := range rows {
		lock(row)
	}
	if err := tx.Rollback(k.Context()); err != nil {
		k.Fatal(err)
	}
	if err := <-ended; err != nil {
		k.Error(err)
	}
}
