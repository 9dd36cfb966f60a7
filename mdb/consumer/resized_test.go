package consumer_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/names"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// A desk has the messages of one stream that processes have begun to handle.
type desk struct {
	stream mdb.StreamName
	gate   chan struct{} // handlers wait for it
	ill    bool          // handlers fail instead

	mu      sync.Mutex
	begun   []int64         // positions in the stream
	by      []int           // the process
	ctx     context.Context // of the last call
	running int
	most    int // running at the same time
}

func (d *desk) handle(ctx context.Context, process int, m mdb.Message) error {
	if m.Stream != d.stream {
		return nil
	}
	d.mu.Lock()
	d.begun, d.by = append(d.begun, m.Position), append(d.by, process)
	d.running++
	d.most = max(d.most, d.running)
	gate, ill := d.gate, d.ill
	d.ctx = ctx
	d.mu.Unlock()
	if gate != nil {
		<-gate // also if its context ends
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running--; ill {
		return consumer.Permanent(errIll)
	}
	return nil
}

func (d *desk) positions() []int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.begun)
}

func (d *desk) hasEnded() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ctx.Err() != nil
}

func (d *desk) set(gate chan struct{}, ill bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gate, d.ill = gate, ill
}

// TestResizeWaitsForHandlers checks that after a change of the number of partitions by a barrier, no process handles anything before a call
// has returned that was running in another one: of a message after the barrier, or of a replay. So a key is never handled by two of them, and in order.
func TestResizeWaitsForHandlers(t *testing.T) {
	t.Parallel()
	for _, form := range []string{"Each", "Batch"} {
		for _, replays := range []bool{false, true} {
			t.Run(fmt.Sprint(form, ", replay: ", replays), func(t *testing.T) {
				t.Parallel()
				if form != "Each" {
					pgtest.NeedTime(t)
				}
				resizeWithHandler(t, form, replays)
			})
		}
	}
}

func (f *crew) count(sql string) (n int) {
	f.Helper()
	if err := f.store.Pool().QueryRow(f.Context(), sql).Scan(&n); err != nil {
		f.Fatal(err)
	}
	return n
}

func resizeWithHandler(t *testing.T, form string, replays bool) {
	t.Helper()
	f := &crew{T: t, store: withConsumers.Store(t), name: "mailer", again: make(map[int64]int)}
	d := &desk{}
	for n := 0; d.stream == "" || names.Member(string(d.stream), 3) != 0; n++ { // the first one that an idle process would claim
		d.stream = mdb.StreamName(fmt.Sprintf("signup-key%d", n))
	}
	for process := range 2 {
		h := consumer.Each(func(ctx context.Context, m mdb.Message) error { return d.handle(ctx, process, m) })
		if form == "Batch" {
			h = consumer.Batch(func(ctx context.Context, ms []mdb.Message) error {
				for _, m := range ms {
					if ctx.Err() != nil {
						return ctx.Err()
					}
					if err := d.handle(ctx, process, m); err != nil {
						return err
					}
				}
				return nil
			})
		}
		f.runs = append(f.runs, start(t, plantOn(t, f.store).Store, h, consumer.WithPartitions(2), consumer.WithLease(time.Hour)))
	}
	f.shared(2)
	write := func() {
		t.Helper()
		if _, err := f.store.WriteMessage(t.Context(), d.stream, mdb.NewMessage("SignedUp", nil)); err != nil {
			t.Fatal(err)
		}
	}
	gate := make(chan struct{})
	opened := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(opened) // before the processes end
	d.set(nil, replays)
	write()
	eventually(t, "the first message", func() bool { return len(d.positions()) == 1 })
	busy := d.by[0]
	want := []int64{0, 1, 1, 2, 3}
	if d.set(gate, false); replays {
		eventually(t, "it is parked", func() bool { return f.runs[busy].Stats().Parked == 1 })
		want = []int64{0, 0, 0, 1}
		f.act("replay", func(ctx context.Context, q ledger.Querier) error {
			_, err := ledger.Replay(ctx, q, f.name, nil)
			return err
		})
		eventually(t, "its replay", func() bool { return len(d.positions()) == 2 })
	} else {
		// The busy process does not see the barrier before it has begun to handle the next message. It has no other partition, whose checkpoint
		// it could move beyond the barrier, which would move the barrier.
		tx, err := f.store.Pool().Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(context.Background())
		if _, err := tx.Exec(t.Context(), `SELECT FROM message_store_consumers.members WHERE id IN (
			SELECT member FROM message_store_consumers.checkpoints WHERE partition = $1) FOR UPDATE`, names.Member(string(d.stream), 2)); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second call knows that the barrier is committed
			f.act("barrier", func(ctx context.Context, q ledger.Querier) error {
				_, err := ledger.Resize(ctx, q, f.name, 3, time.Minute)
				return err
			})
		}
		eventually(t, "the idle process sees the barrier", func() bool {
			return f.count(`SELECT count(*) FROM message_store_consumers.members AS m JOIN message_store_consumers.consumers AS c ON m.seen > c.barrier_set`) == 1
		})
		write()
		write()
		eventually(t, "a message after the barrier", func() bool { return len(d.positions()) == 2 })
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	f.resize(3)
	eventually(t, "the idle process knows the change", func() bool {
		return f.count(`SELECT count(*) FROM message_store_consumers.members AS m JOIN message_store_consumers.consumers AS c ON m.layout = c.layout`) == 1
	})
	if n := len(d.positions()); n != 2 {
		t.Errorf("%d calls begin while one is running", n-2)
	}
	if n := f.count(`SELECT count(*) FROM message_store_consumers.checkpoints WHERE member IS NOT NULL`); n > 0 {
		t.Errorf("%d partitions are claimed", n)
	}
	wantUnconfirmed(t, consumer.Admin(f.store.Pool()), f.name)
	write()
	eventually(t, "the context of the call has ended", func() bool { return d.hasEnded() })
	opened()
	f.shared(3)
	eventually(t, "all messages", func() bool { return len(d.positions()) >= len(want) })
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.most != 1 || !slices.Equal(d.begun, want) {
		t.Errorf("got %v begun by the processes %v, %d at the same time, want %v one by one", d.begun, d.by, d.most, want)
	}
}

// wantUnconfirmed checks that one process is shown for which the others wait, and that a call of a handler is what it waits for.
func wantUnconfirmed(t *testing.T, o *consumer.Operator, name string) {
	t.Helper()
	d, err := o.Show(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(d.Stuck, func(o consumer.Obstacle) bool { return o.Kind == consumer.ObstacleUnconfirmed })
	if i < 0 || len(d.Stuck[i].Members) != 1 || d.Stuck[i].Position != 0 || d.Barrier != nil {
		t.Errorf("got %+v, want the process whose handler runs", d.Stuck)
	}
}
