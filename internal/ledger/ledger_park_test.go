package ledger_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

// send sends what f queues as one transaction.
func (g *group) send(f func(b *pgx.Batch)) error {
	g.Helper()
	var b pgx.Batch
	f(&b)
	return g.SendBatch(g.Context(), &b).Close()
}

func (g *group) park(m ledger.Member, r ledger.Row, p ledger.Parked, text string) error {
	g.Helper()
	p.Partition = r.Partition
	return ledger.Park(g.Context(), g, m, r.Epoch, p, text)
}

// TestPark checks that what is parked is read by who has the partition, that a claim ends the
// right to park, and that errors are cut and cleaned.
func TestPark(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a := g.join(g.params("one"))
	_, held := g.balance(a)
	r := held.Rows[1]
	upto, due := int64(7), time.Now().Add(time.Hour).Truncate(time.Microsecond)
	later := ledger.Parked{Partition: r.Partition, Key: "1", Stream: "one-1", Position: 3, GlobalPosition: 30, Attempts: 2}
	alone := ledger.Parked{Partition: r.Partition, Key: "1", Stream: "one-1+2", Position: 7, Upto: &upto, GlobalPosition: 20, Attempts: 1, Due: &due}
	for _, p := range []ledger.Parked{later, alone} {
		if err := g.park(a, r, p, "a\x00b\xff"+strings.Repeat("é", 2000)); err != nil {
			t.Fatal(err)
		}
	}
	wantParked := func(what string, m ledger.Member, want ...ledger.Parked) {
		t.Helper()
		got := slices.Concat([]ledger.Parked(nil), g.read(m).Parked) // nil if there is nothing
		for i := range got {
			if got[i].Due != nil {
				*got[i].Due = got[i].Due.Local()
			}
		}
		equal(t, what, got, want)
	}
	wantParked("parked", a, alone, later)
	equal(t, "error", query[string](g, `SELECT DISTINCT error FROM message_store_consumers.parked WHERE consumer = $1`), "ab\uFFFD"+strings.Repeat("é", 997))

	later.Attempts, later.Due = 3, &due // another attempt
	if err := g.park(a, r, later, ""); err != nil {
		t.Fatal(err)
	}
	wantParked("parked again", a, alone, later)
	equal(t, "errors", query[int](g, `SELECT count(error) FROM message_store_consumers.parked WHERE consumer = $1`), 1)

	other := later
	other.Key, other.Stream = "2", "one-2"
	if err := g.park(a, held.Rows[2], other, ""); err != nil {
		t.Fatal(err)
	}
	for most, want := range map[int]int{1: 1, 5: 2} {
		if n, err := ledger.CountParked(t.Context(), g, a, most); err != nil || n != want {
			t.Errorf("got %d keys, %v, want %d", n, err, want)
		}
	}

	// Another member claims the partition: it sees the rows, and only it may park.
	g.expire(a)
	b := g.join(g.params("one"))
	_, held = g.balance(b)
	equal(t, "parked of the new owner", len(held.Parked), 3)
	wantParked("parked of the old owner", a)
	if err := g.park(a, r, later, ""); !ledger.IsFenced(err) {
		t.Errorf("got %v, want that the fence refuses it", err)
	}
	stale := held.Rows[1]
	stale.Epoch--
	if err := g.park(b, stale, later, ""); !ledger.IsFenced(err) {
		t.Errorf("got %v, want that the fence refuses it", err)
	}
	if err := g.park(a, held.Rows[1], later, ""); !ledger.IsFenced(err) {
		t.Errorf("by the epoch of another member: got %v, want that the fence refuses it", err)
	}
}

// TestParkAgainstClaim checks that nobody claims a partition while something of it is being parked.
func TestParkAgainstClaim(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	p := g.params("one")
	p.Partitions = 1
	a := g.join(p)
	_, held := g.balance(a)
	tx, err := g.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	r := held.Rows[0]
	if err := ledger.Park(t.Context(), tx, a, r.Epoch, ledger.Parked{Partition: r.Partition, Key: "1", Stream: "one-1"}, ""); err != nil {
		t.Fatal(err)
	}
	g.expire(a)
	p = g.params("one")
	p.Partitions = 1
	b := g.join(p)
	_, held = g.balance(b)
	equal(t, "rows while it is being parked", len(held.Rows), 0)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, held = g.balance(b)
	equal(t, "rows", len(held.Rows), 1)
	equal(t, "parked", len(held.Parked), 1)
}

// TestReplayed checks that a parked stream moves on, once for each message, or is no longer
// parked after its last.
func TestReplayed(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a := g.join(g.params("one"))
	_, held := g.balance(a)
	r, upto := held.Rows[0], int64(4)
	due := time.Now().Add(-time.Hour)
	for _, p := range []ledger.Parked{{Key: "1", Stream: "one-1", Position: 3, Attempts: 5, Due: &due}, {Key: "1", Stream: "one-1+2", Position: 4, Upto: &upto}} {
		if err := g.park(a, r, p, "text"); err != nil {
			t.Fatal(err)
		}
	}
	replayed := func(epoch int64, stream string, position, next int64) error {
		t.Helper()
		return g.send(func(b *pgx.Batch) { ledger.QueueReplayed(b, a, r.Partition, epoch, stream, position, next) })
	}
	if err := replayed(r.Epoch, "one-1", 3, 4); err != nil {
		t.Fatal(err)
	}
	for _, p := range g.read(a).Parked {
		if p.Stream == "one-1" && (p.Position != 4 || p.Attempts != 0 || p.Due == nil) {
			t.Errorf("got %+v, want the next position, due, without attempts", p)
		}
	}
	for what, err := range map[string]error{
		"the same again":       replayed(r.Epoch, "one-1", 3, 4),
		"not parked":           replayed(r.Epoch, "one-3", 3, 4),
		"backwards":            replayed(r.Epoch, "one-1", 4, 4),
		"an earlier epoch":     replayed(r.Epoch-1, "one-1", 4, 5),
		"a position in vain":   replayed(r.Epoch, "one-1", 5, 6),
		"another one's stream": replayed(r.Epoch, "one-1+2", 3, 4),
	} {
		if !ledger.IsFenced(err) {
			t.Errorf("%s: got %v, want that the fence refuses it", what, err)
		}
	}
	if err := replayed(r.Epoch, "one-1+2", 4, 5); err != nil {
		t.Fatal(err)
	}
	parked := g.read(a).Parked
	if len(parked) != 1 || parked[0].Stream != "one-1" || parked[0].Position != 4 {
		t.Errorf("got %+v, want only the first stream", parked)
	}
}

// TestUnpark checks that a key is parked until its checkpoint moves, and that both happen or
// neither.
func TestUnpark(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a := g.join(g.params("one"))
	_, held := g.balance(a)
	r, upto := held.Rows[0], int64(9)
	for _, p := range []ledger.Parked{
		{Key: "1", Stream: "one-1", Position: 3},
		{Key: "1", Stream: "one-1+2", Position: 3},
		{Key: "1", Stream: "one-1+3", Position: 9, Upto: &upto}, // a message that others do not wait for
		{Key: "2", Stream: "one-2", Position: 3},
	} {
		if err := g.park(a, r, p, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.park(a, held.Rows[1], ledger.Parked{Key: "1", Stream: "two-1"}, ""); err != nil {
		t.Fatal(err)
	}
	unpark := func(mv ledger.Move) error {
		t.Helper()
		return g.send(func(b *pgx.Batch) { ledger.QueueUnpark(b, a, mv, "1") })
	}
	for what, mv := range forged(g, r) {
		if err := unpark(mv); !ledger.IsFenced(err) {
			t.Errorf("%s: got %v, want that the fence refuses it", what, err)
		}
	}
	equal(t, "parked", len(g.read(a).Parked), 5)
	if err := unpark(move(r, 40)); err != nil {
		t.Fatal(err)
	}
	after := g.read(a)
	equal(t, "position", after.Rows[0].Position, 40)
	var left []string
	for _, p := range after.Parked {
		left = append(left, p.Stream)
	}
	equal(t, "parked", left, []string{"one-1+3", "one-2", "two-1"})
}

// TestParkingIsDurable checks that what is parked, replayed or no longer parked is on disk when its
// transaction has committed, also if commits are asynchronous.
func TestParkingIsDurable(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a := g.join(g.params("one"))
	_, held := g.balance(a)
	r := held.Rows[0]
	for what, f := range map[string]func(tx pgx.Tx) error{
		"park": func(tx pgx.Tx) error {
			return ledger.Park(t.Context(), tx, a, r.Epoch, ledger.Parked{Partition: r.Partition, Key: "1", Stream: "one-1"}, "")
		},
		"replayed": func(tx pgx.Tx) error {
			var b pgx.Batch
			b.Queue(`INSERT INTO message_store_consumers.parked (consumer, category, partition, key, stream, position, global_position, attempts) VALUES ($1, 'one', 0, '2', 'one-2', 0, 0, 0)`, g.id)
			ledger.QueueReplayed(&b, a, r.Partition, r.Epoch, "one-2", 0, 1)
			return tx.SendBatch(t.Context(), &b).Close()
		},
		"unpark": func(tx pgx.Tx) error {
			var b pgx.Batch
			ledger.QueueUnpark(&b, a, move(r, r.Position), "1")
			return tx.SendBatch(t.Context(), &b).Close()
		},
	} {
		for given, want := range map[string]string{"off": "local", "remote_apply": "remote_apply"} {
			tx, err := g.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(t.Context(), "SET LOCAL synchronous_commit = "+given); err != nil {
				t.Fatal(err)
			}
			var got string
			if err := errors.Join(f(tx), tx.QueryRow(t.Context(), "SHOW synchronous_commit").Scan(&got), tx.Rollback(t.Context())); err != nil || got != want {
				t.Errorf("%s: got %q, %v, want %q", what, got, err, want)
			}
		}
	}
}

// TestParkWithAlone checks that a message which was parked alone waits with the others of its stream when one before it is parked
// with those after it, as after a crash, and that others are still parked alone.
func TestParkWithAlone(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a := g.join(g.params("one"))
	_, held := g.balance(a)
	r := held.Rows[1]
	alone := func(stream string, position int64) ledger.Parked {
		return ledger.Parked{Partition: r.Partition, Key: "1", Stream: stream, Position: position, Upto: &position, GlobalPosition: 10 + position, Attempts: 1}
	}
	before, after, last, other := alone("one-1", 2), alone("one-1", 4), alone("one-1", 5), alone("one-1+2", 6)
	open := ledger.Parked{Partition: r.Partition, Key: "1", Stream: "one-1", Position: 4, GlobalPosition: 14}
	for _, p := range []ledger.Parked{before, after, last, other, open} {
		if err := g.park(a, r, p, ""); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "parked", g.read(a).Parked, []ledger.Parked{before, open, other})
	if err := g.send(func(b *pgx.Batch) { ledger.QueueReplayed(b, a, r.Partition, r.Epoch, "one-1", 4, 5) }); err != nil {
		t.Fatal(err)
	}
}
