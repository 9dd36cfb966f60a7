package consumer_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// delayed returns a clinic on a slow road, with what is parked for an attempt that says Permanent.
func delayed(t *testing.T) (*clinic, *slowRoad) {
	t.Helper()
	pgtest.NeedTime(t)
	road := newSlowRoad(t)
	store := withConsumers.Store(t)
	c := &clinic{T: t, store: store, ill: map[mdb.StreamName]bool{"patient-1": true}, handled: make(map[string][]string), changed: make(chan struct{}, 1)}
	var err error
	if c.c, err = consumer.New(plantOn(t, store, road.prepare).Store, "clinic", "patient", consumer.Each(c.handle),
		consumer.WithPartitions(2), consumer.WithWorkers(3), consumer.WithLease(10*time.Second)); err != nil {
		t.Fatal(err)
	}
	c.run()
	eventually(t, "it has its partitions", func() bool { return c.c.Stats().Partitions == 2 })
	return c, road
}

// within waits for what a channel says.
func within(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("%s: not within a minute", what)
	}
}

// TestDelayedPark checks that a statement that parks a message is rejected if it arrives after the process has lost the connection of
// its ticks and read its rows again: otherwise the process would not know that the stream is parked.
func TestDelayedPark(t *testing.T) {
	t.Parallel()
	c, road := delayed(t)
	parks := road.hold("message_store_consumers.park(")
	c.write("patient-1")
	within(t, "it parks", parks)
	c.heal("patient-1")
	balances := road.count("balance")
	road.cutTicks()
	road.reread(balances)
	c.until("the message", func() bool { return len(c.of("1")) == 1 })
	c.rejectsPark(t, road)
}

// TestDelayedParkRepeated checks that a statement that parks a message is rejected if it arrives after the process has lost its connection, parked
// the message by another one, and replayed it: otherwise the process would not know that the stream is parked again.
func TestDelayedParkRepeated(t *testing.T) {
	t.Parallel()
	c, road := delayed(t)
	ctx := t.Context()
	parks := road.hold("message_store_consumers.park(")
	c.write("patient-1")
	within(t, "it parks", parks)
	road.cutHeld()
	c.until("the second parking", func() bool { return slices.Equal(c.rows(), []string{"patient-1 0 1 0 1"}) })
	c.heal("patient-1")
	eventually(t, "the checkpoint", func() bool { return c.position(t) == 1 })
	if err := c.c.Replay(ctx); err != nil {
		t.Fatal(err)
	}
	c.until("the replay", func() bool { return len(c.rows()) == 0 })
	c.rejectsPark(t, road)
}

// TestDelayedUnpark checks that a statement that ends a replay is rejected if it arrives after the process has read its rows again, because it has
// lost the connection of its ticks or that of the statement. Otherwise it would delete what the process has parked since then: a message
// that the checkpoint passes, and that nobody would handle.
func TestDelayedUnpark(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(*slowRoad){
		"the connection of the ticks is lost": (*slowRoad).cutTicks,
		"its own connection is lost":          (*slowRoad).cutHeld,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, road := delayed(t)
			ctx := t.Context()
			c.write("patient-1")
			c.until("the parking", func() bool { return slices.Equal(c.rows(), []string{"patient-1 0 1 0 1"}) })
			c.heal("patient-1")
			eventually(t, "the checkpoint", func() bool { return c.position(t) == 1 })
			unparks := road.hold("message_store_consumers.unpark(")
			if err := c.c.Replay(ctx); err != nil {
				t.Fatal(err)
			}
			within(t, "the replay ends", unparks)
			balances := road.count("balance")
			cut(road)
			road.reread(balances)
			c.until("the end of the replay", func() bool { return len(c.rows()) == 0 })

			c.mu.Lock()
			c.ill["patient-1"] = true
			c.mu.Unlock()
			tx := c.lock(t) // ticks leave the checkpoint out, and parks do not
			c.write("patient-1")
			c.until("the next parking", func() bool { return slices.Equal(c.rows(), []string{"patient-1 1 1 0 1"}) })
			answer := make(chan string, 1)
			go func() { answer <- road.deliver() }()
			eventually(t, "unpark waits, or is rejected", func() bool { return len(answer) == 1 || c.waits(t, "unpark") })
			if err := tx.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			if code := <-answer; code != ledger.Fenced {
				t.Errorf("unpark: got the SQLSTATE %q, want that it is rejected", code)
			}
			eventually(t, "the checkpoint", func() bool { return c.position(t) == 2 })
			c.heal("patient-1")
			if err := c.c.Replay(ctx); err != nil {
				t.Fatal(err)
			}
			c.write("patient-1")
			eventually(t, "the checkpoint", func() bool { return c.position(t) == 3 })
			c.until("the replay", func() bool { return len(c.rows()) == 0 })
			if got := c.of("1"); !slices.Equal(got, []string{"patient-1/0", "patient-1/1", "patient-1/2"}) {
				t.Errorf("got %v handled, want each message once", got)
			}
		})
	}
}

// TestDelayedParkHolds checks that a process that reads its rows again begins no partition whose checkpoint is locked by a statement that it has
// sent before, which may still be executed. It continues with the others, and with that one when the statement has ended.
func TestDelayedParkHolds(t *testing.T) {
	t.Parallel()
	c, road := delayed(t)
	ctx := t.Context()
	tx, err := c.store.Pool().Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	if _, err := tx.Exec(ctx, `INSERT INTO message_store_consumers.parked (consumer, category, partition, key, stream, position, global_position, attempts)
		SELECT id, 'patient', 0, '1', 'patient-1', 0, 1, 1 FROM message_store_consumers.consumers`); err != nil {
		t.Fatal(err)
	}
	c.write("patient-1")
	eventually(t, "park waits", func() bool { return c.waits(t, "park") })
	c.heal("patient-1")
	balances := road.count("balance")
	road.cutTicks()
	road.reread(balances)
	c.write("patient-1", "patient-2")
	c.until("the other partition", func() bool { return len(c.of("2")) == 1 })
	ticks := road.count("tick")
	eventually(t, "it ticks", func() bool { return road.count("tick") > ticks })
	if got := c.of("1"); len(got) > 0 {
		t.Errorf("got %v handled, want nothing of the partition", got)
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the checkpoint", func() bool { return c.position(t) >= 2 })
	if got := c.rows(); !slices.Equal(got, []string{"patient-1 0 1 0 1"}) {
		t.Errorf("got %v parked", got)
	}
	if err := c.c.Replay(ctx); err != nil {
		t.Fatal(err)
	}
	c.until("the replay", func() bool { return len(c.rows()) == 0 })
	if got := c.of("1"); !slices.Equal(got, []string{"patient-1/0", "patient-1/1"}) {
		t.Errorf("got %v handled", got)
	}
}

// ofPatient1 is the partition of the stream patient-1.
const ofPatient1 = "partition = message_store_consumers.partition_of('1', 2)"

// position returns the checkpoint of the partition of patient-1.
func (c *clinic) position(t *testing.T) (position int64) {
	t.Helper()
	if err := c.store.Pool().QueryRow(t.Context(), "SELECT position FROM message_store_consumers.checkpoints WHERE "+ofPatient1).Scan(&position); err != nil {
		t.Fatal(err)
	}
	return position
}

// lock locks that checkpoint as a parking does.
func (c *clinic) lock(t *testing.T) pgx.Tx {
	t.Helper()
	tx, err := c.store.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	if _, err := tx.Exec(t.Context(), "SELECT FROM message_store_consumers.checkpoints WHERE "+ofPatient1+" FOR SHARE"); err != nil {
		t.Fatal(err)
	}
	return tx
}

// waits reports whether a call of a function waits for a lock.
func (c *clinic) waits(t *testing.T, function string) (waits bool) {
	t.Helper()
	if err := c.store.Pool().QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%message_store_consumers.' || $1 || '(%')`, function).Scan(&waits); err != nil {
		t.Fatal(err)
	}
	return waits
}

// rejectsPark delivers the statement that parks the first message, which is handled, and checks that it is rejected and that the next message is handled.
func (c *clinic) rejectsPark(t *testing.T, road *slowRoad) {
	t.Helper()
	if code := road.deliver(); code != ledger.Fenced {
		t.Errorf("park: got the SQLSTATE %q, want that it is rejected", code)
	}
	c.write("patient-1")
	c.until("the next message", func() bool { return len(c.of("1")) >= 2 })
	if rows := c.rows(); len(rows) > 0 {
		t.Errorf("got %v parked, want nothing", rows)
	}
	if got := c.of("1"); !slices.Equal(got, []string{"patient-1/0", "patient-1/1"}) {
		t.Errorf("got %v handled", got)
	}
}
