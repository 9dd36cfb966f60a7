package archive_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/archive"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// A route is a proxy of PL/Proxy and two shards.
type route struct {
	proxy  *mdb.Store
	shards [2]*pgxpool.Pool
	state  *pgxpool.Pool // of consumers
}

func newRoute(t *testing.T) *route {
	t.Helper()
	p := testdb.NewProxy(t, 2, nil)
	r := &route{}
	for i, url := range p.Shards {
		r.shards[i] = openPool(t, url)
	}
	r.state = r.shards[0]
	if err := schema.InstallConsumers(t.Context(), r.state); err != nil {
		t.Fatal(err)
	}
	store, err := mdb.New(openPool(t, p.URL), mdb.WithRetry(mdb.RetryPolicy{MaxDelay: 20 * time.Millisecond}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	r.proxy = store
	return r
}

// A trail is what a reader has received.
type trail struct {
	mu       sync.Mutex
	ids      []uuid.UUID
	versions map[mdb.StreamName]int64
	last     int64
	wrong    int // messages that do not follow the one before them in their stream
	early    int // messages that came after one with a greater global position
}

func (tr *trail) handle(_ context.Context, m mdb.Message) error {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.versions == nil {
		tr.versions = make(map[mdb.StreamName]int64)
	}
	if m.Position != tr.versions[m.Stream] {
		tr.wrong++
	}
	if m.GlobalPosition <= tr.last {
		tr.early++
	}
	tr.ids = append(tr.ids, m.ID)
	tr.versions[m.Stream], tr.last = m.Position+1, m.GlobalPosition
	return nil
}

func (tr *trail) len() int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return len(tr.ids)
}

// place puts the category on the first shard, wherever its hash would.
func place(t *testing.T, r *route) {
	t.Helper()
	if _, err := r.proxy.Pool().Exec(t.Context(), `INSERT INTO message_store_proxy.placement VALUES ($1, 0)`, string(moving)); err != nil {
		t.Fatal(err)
	}
}

// TestPLProxyMoves moves a category to and fro, while 8 writers with expected versions write to it through PL/Proxy, and a
// subscription and a durable consumer read it there. Nothing that was acknowledged is lost, delivered twice or out of order,
// and each stream has the versions that its writer received.
func TestPLProxyMoves(t *testing.T) {
	t.Parallel()
	r := newRoute(t)
	place(t, r)
	moves := 2
	if !testing.Short() {
		moves = 20
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	var acknowledged []uuid.UUID
	var readers, writers sync.WaitGroup
	var subscribed, consumed trail

	readers.Go(func() {
		if err := r.proxy.SubscribeToCategory(ctx, moving, subscribed.handle); err != nil && ctx.Err() == nil {
			t.Errorf("the subscription: %v", err)
		}
	})
	c, err := consumer.New(r.proxy, "reader", moving, consumer.Each(consumed.handle), consumer.StateIn(r.state), consumer.WithPartitions(1))
	if err != nil {
		t.Fatal(err)
	}
	readers.Go(func() {
		if err := c.Run(ctx); err != nil && ctx.Err() == nil {
			t.Errorf("the consumer: %v", err)
		}
	})
	moved := make(chan struct{})
	for i := range 8 {
		writers.Go(func() {
			stream := mdb.StreamName(fmt.Sprintf("%s-%d", moving, i))
			for version := mdb.NoStream; ; version++ {
				select {
				case <-moved:
					return
				default:
				}
				written, err := r.proxy.WriteMessage(ctx, stream, mdb.NewMessage("Happened", nil), mdb.ExpectVersion(version))
				if err != nil || written.Position != version+1 {
					t.Errorf("stream %s at version %d: got %+v, %v", stream, version, written, err)
					return
				}
				mu.Lock()
				acknowledged = append(acknowledged, written.ID)
				mu.Unlock()
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acknowledged)
	}
	for n := range moves {
		// So that there is something to copy, and writers before and after the gate.
		begin := count()
		eventually(t, "writers write", func() bool { return count() >= begin+100 || t.Failed() })
		from := n % 2
		m := &archive.Mover{Category: moving, From: r.shards[from], To: r.shards[1-from], Proxies: []*pgxpool.Pool{r.proxy.Pool()}}
		done, err := m.Move(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("move %d: %d messages copied, writers held up for %v", n, done.Copied, done.HeldUp)
		if _, err := m.DeleteOld(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	begin := count()
	eventually(t, "writers write", func() bool { return count() >= begin+50 || t.Failed() })
	close(moved)
	writers.Wait()
	eventually(t, "the readers have caught up", func() bool { return subscribed.len() >= count() && consumed.len() >= count() })
	cancel()
	readers.Wait()
	for what, tr := range map[string]*trail{"the subscription": &subscribed, "the consumer": &consumed} {
		received := make(map[uuid.UUID]bool)
		for _, id := range tr.ids {
			received[id] = true
		}
		lost := 0
		for _, id := range acknowledged {
			if !received[id] {
				lost++
			}
		}
		if lost > 0 || tr.wrong > 0 || len(tr.ids) != len(acknowledged) {
			t.Errorf("%s: of %d messages, %d are lost and %d out of order, %d were received", what, len(acknowledged), lost, tr.wrong, len(tr.ids))
		}
	}
	if subscribed.early > 0 { // a consumer keeps the order of each stream
		t.Errorf("the subscription has received %d messages after one with a greater global position", subscribed.early)
	}
}

// TestPLProxyMoveProves checks that a category is not moved from or to a database with the number of a shard that the proxy does not use.
func TestPLProxyMoveProves(t *testing.T) {
	t.Parallel()
	r := newRoute(t)
	place(t, r)
	for number := range r.shards {
		t.Run(fmt.Sprintf("shard %d", number), func(t *testing.T) {
			t.Parallel()
			shards := r.shards
			shards[number] = openPool(t, testdb.New(t))
			if err := schema.InstallShard(t.Context(), shards[number], number); err != nil {
				t.Fatal(err)
			}
			m := &archive.Mover{Category: moving, From: shards[0], To: shards[1], Proxies: []*pgxpool.Pool{r.proxy.Pool()}}
			want := fmt.Sprintf("to its shard %d has not arrived", number)
			if _, err := m.Move(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want that a notification %s", err, want)
			}
		})
	}
}
