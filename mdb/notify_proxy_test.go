package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/poll"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// newNotifyingProxy returns a proxy of shards with the trigger.
func newNotifyingProxy(t testing.TB) *plproxy {
	t.Helper()
	p := newPLProxy(t)
	for _, shard := range p.shards {
		installNotify(t, shard)
	}
	return p
}

// addresses returns those of the shards.
func (p *plproxy) addresses() []string {
	return p.Shards
}

// writer returns a session that writes through the proxy, and that no store has.
func (p *plproxy) writer(t testing.TB) database { return testdb.Session(t, p.url) }

// wantShardStats checks what is known of the shards.
func wantShardStats(t testing.TB, s *mdb.Store, want ...mdb.NotifyStats) {
	t.Helper()
	got := s.NotifyShardStats()
	if len(got) != len(want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	for i := range got {
		got[i].Notifications, got[i].Reads = want[i].Notifications, want[i].Reads
		if got[i] != want[i] {
			t.Errorf("shard %d: got %+v, want %+v", i, got[i], want[i])
		}
	}
}

// TestPLProxyNotify checks that the subscriptions of a proxied store are woken by the
// notifications of the shards, each by those of its own.
func TestPLProxyNotify(t *testing.T) {
	t.Parallel()
	p := newNotifyingProxy(t)
	t.Run("each category waits on its shard", p.testNotified)
	t.Run("a shard's connection is lost", p.testListenerLost)
	t.Run("a category moves", p.testMoved)
	t.Run("addresses that are not those of the shards", p.testMisplaced)
	t.Run("without what it takes", p.testNotNotified)
	t.Run("consumers with their state on a shard", p.testConsumers)
	t.Run("a shard restarts", p.testNotifyRestart) // closes connections to shard 1
}

// TestPLProxyNotifyExample checks the output of the example.
func TestPLProxyNotifyExample(t *testing.T) {
	p := newNotifyingProxy(t)
	for name, url := range map[string]string{"PROXY_URL": p.url, "SHARD0_URL": p.addresses()[0], "SHARD1_URL": p.addresses()[1]} {
		t.Setenv(name, url)
	}
	if got, want := testdb.Output(t, ExampleListenOn), "received Opened\nended: shutdown; shards: 2\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func (p *plproxy) testNotified(t *testing.T) {
	var j journal
	s := newStore(t, newPool(t, p.url), append(waitingOnly(mdb.ListenOn(p.addresses()...)), j.option())...)
	db := p.writer(t)
	var observers []observer
	for _, address := range p.addresses() {
		observers = append(observers, newObserver(t, address))
	}
	waits := mdb.NotifyStats{Listening: true, Waiting: 1}
	streams := []mdb.StreamName{p.category(t, 0).Stream("1"), p.category(t, 1).Stream("1")}
	var followers []*follower
	for i, stream := range streams {
		switch i {
		case 0:
			followers = append(followers, followStream(t, s, stream))
		default:
			followers = append(followers, followCategory(t, s, stream.Category()))
		}
	}
	settled(t, s)
	wantShardStats(t, s, waits, waits)
	stats(t, s, mdb.NotifyStats{Listening: true, Waiting: 2})
	before := s.NotifyShardStats()
	const n = 5
	for i, stream := range streams {
		follows(t, db, followers[i], stream, n)
		settled(t, s)
		for k, shard := range p.shards {
			locks, want := value[int](t, shard, sharedKeys, string(stream.Category())), 0
			if k == i {
				want = 1
			}
			if locks != want {
				t.Errorf("category of shard %d: got %d keys on shard %d, want %d", i, locks, k, want)
			}
		}
	}
	for i, shard := range p.shards {
		if got := value[int](t, shard, listeners); got != 1 {
			t.Errorf("shard %d: got %d connections that listen, want 1", i, got)
		}
		if name := value[string](t, shard, "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE '%message_store notify'"); !strings.HasSuffix(name, fmt.Sprintf("shard %d message_store notify", i)) {
			t.Errorf("shard %d: got the application name %q", i, name)
		}
		var want []string
		for range n {
			want = append(want, string(streams[i]))
		}
		observers[i].expect(t, want...)
		wantNotified(t, shard, func() int64 { return s.NotifyShardStats()[i].Notifications }, before[i].Notifications+n)
	}
	for i, shard := range p.shards {
		if state, err := schema.NotifyStatus(t.Context(), shard); err != nil || state.Proxied || len(state.Listeners) != 1 || state.Categories != 1 {
			t.Errorf("shard %d: got the status %+v, error %v", i, state, err)
		}
	}
	if state, err := schema.NotifyStatus(t.Context(), s.Pool()); err != nil || !state.Proxied || state.Installed || len(state.Listeners) > 0 {
		t.Errorf("the proxy: got the status %+v, error %v", state, err)
	}
	// A group, and a second subscription, use the same connections.
	for member := range 2 {
		followCategory(t, s, streams[0].Category(), mdb.AsConsumerGroup(member, 2), mdb.FromGlobalPosition(1<<40))
	}
	settled(t, s)
	for i, shard := range p.shards {
		if got := value[int](t, shard, listeners); got != 1 {
			t.Errorf("shard %d: got %d connections that listen, want 1", i, got)
		}
	}
	for _, f := range followers {
		f.stop(t)
	}
	if log := j.String(); log != "" {
		t.Errorf("got the log %s", log)
	}
}

// testListenerLost checks that only one shard's categories are polled while its connection is lost.
func (p *plproxy) testListenerLost(t *testing.T) {
	var j journal
	var down atomic.Bool
	socket := p.server.TCP("shard1") // an address that nothing else has
	cfg, err := pgx.ParseConfig(socket)
	if err != nil {
		t.Fatal(err)
	}
	hook := func(pool *pgxpool.Config) {
		pool.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
			if down.Load() && c.Port == cfg.Port {
				return errors.New("shard 1 is cut off")
			}
			return nil
		}
	}
	s := newStore(t, newPool(t, p.url, hook), mdb.WithNotify(mdb.Fallback(never), mdb.ListenOn(p.addresses()[0], socket)),
		mdb.WithPolling(poll.Constant(10*time.Millisecond)), j.option())
	db := p.writer(t)
	waits := mdb.NotifyStats{Listening: true, Waiting: 1}
	streams := []mdb.StreamName{p.category(t, 0).Stream("1"), p.category(t, 1).Stream("1")}
	followers := []*follower{followStream(t, s, streams[0]), followStream(t, s, streams[1])}
	settled(t, s)
	for range 3 {
		down.Store(true)
		exec(t, p.shards[1], killListeners)
		eventually(t, db, "shard 1's category is polled", func() bool { return s.NotifyShardStats()[1].Polling == 1 })
		reads := s.NotifyShardStats()[0].Reads
		follows(t, db, followers[1], streams[1], 3)
		wantShardStats(t, s, waits, mdb.NotifyStats{Polling: 1})
		if n := s.NotifyShardStats()[0].Reads - reads; n != 0 {
			t.Errorf("got %d reads of the other shard's category, want none", n)
		}
		received := s.NotifyShardStats()[0].Notifications
		follows(t, db, followers[0], streams[0], 3)
		wantNotified(t, db, func() int64 { return s.NotifyShardStats()[0].Notifications }, received+3)
		down.Store(false)
		settled(t, s)
		wantShardStats(t, s, waits, waits)
		received = s.NotifyShardStats()[1].Notifications
		follows(t, db, followers[1], streams[1], 3)
		wantNotified(t, db, func() int64 { return s.NotifyShardStats()[1].Notifications }, received+3)
	}
	if log := j.String(); !strings.Contains(log, "shard=1") || strings.Contains(log, "shard=0") {
		t.Errorf("the log does not say which shard: %s", log)
	}
}

// wantNotified waits until there are as many notifications, and fails the test if there are more. The read after one of them may find a
// message before its own one has arrived.
func wantNotified(t *testing.T, db database, count func() int64, want int64) {
	t.Helper()
	eventually(t, db, "the notifications have arrived", func() bool { return count() >= want })
	if n := count(); n != want {
		t.Errorf("got %d notifications more than there should be", n-want)
	}
}

// testMoved checks that a subscription follows its category to another shard.
func (p *plproxy) testMoved(t *testing.T) {
	s := newStore(t, newPool(t, p.url), waitingOnly(mdb.ListenOn(p.addresses()...))...)
	db := p.writer(t)
	stream := p.category(t, 0).Stream("1")
	f := followCategory(t, s, stream.Category())
	settled(t, s)
	waits, silent := mdb.NotifyStats{Listening: true, Waiting: 1}, mdb.NotifyStats{Listening: true}
	for round, to := range []int{1, 0, 1} {
		p.copyCategory(t, stream.Category(), 1-to, to)
		exec(t, db, "INSERT INTO message_store_proxy.placement VALUES ($1, $2) ON CONFLICT (category) DO UPDATE SET shard = excluded.shard", string(stream.Category()), to)
		// Written before the store knows that it has moved, which wakes nobody. The shards number their messages apart.
		exec(t, p.shards[to], "SELECT setval('message_store.messages_global_position_seq', $1)", 1_000_000*(round+1))
		written := fmt.Sprint("round-", round)
		exec(t, db, "SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Moved', '{}')", string(stream.Category().Stream(written)))
		exec(t, db, "SELECT message_store_proxy.notify($1, '-placement')", 1-to)
		if m := f.next(t); m.Type != "Moved" {
			t.Errorf("got %+v", m)
		}
		settled(t, s)
		want := []mdb.NotifyStats{waits, silent}
		if to == 1 {
			want = []mdb.NotifyStats{silent, waits}
		}
		wantShardStats(t, s, want...)
		received := s.NotifyStats().Notifications
		follows(t, db, f, stream.Category().Stream(written), 3)
		wantNotified(t, db, func() int64 { return s.NotifyStats().Notifications }, received+3)
		until(t, p.shards[1-to], "SELECT ("+sharedKeys+") = 0", string(stream.Category()))
	}
}

// copyCategory copies the messages that the other shard does not have.
func (p *plproxy) copyCategory(t *testing.T, category mdb.Category, from, to int) {
	t.Helper()
	rows, _ := p.shards[from].Query(t.Context(), `SELECT row_to_json(m)::text FROM message_store.messages AS m WHERE message_store.category(stream_name) = $1`, string(category))
	messages, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		exec(t, p.shards[to], `INSERT INTO message_store.messages SELECT * FROM json_populate_record(NULL::message_store.messages, $1::json) ON CONFLICT DO NOTHING`, m)
	}
}

// testMisplaced checks that a connection is used only if it is to the shard with its number.
func (p *plproxy) testMisplaced(t *testing.T) {
	a := p.addresses()
	elsewhere := testdb.Notifying(t)
	for _, test := range []struct {
		name      string
		addresses []string
		listening []bool
		says      []string
	}{
		{"in another order", []string{a[1], a[0]}, []bool{false, false}, []string{
			"arrives at the address for shard 1", "arrives at the address for shard 0",
		}},
		{"not a shard", []string{a[0], elsewhere}, []bool{true, false}, []string{"a NOTIFY that the proxy sends to shard 1 does not arrive"}},
		{"one is missing", a[:1], []bool{true}, []string{"ListenOn has no address for this shard"}},
		{"the proxy", []string{p.url}, []bool{false}, []string{"to a database of PL/Proxy"}},
		{"none, so the proxy", nil, []bool{false}, []string{"to a database of PL/Proxy"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var j journal
			opts := []mdb.NotifyOption{mdb.Fallback(never), mdb.Recheck(10 * time.Millisecond)}
			if test.addresses != nil {
				opts = append(opts, mdb.ListenOn(test.addresses...))
			}
			s, db := newStore(t, newPool(t, p.url), polled(&j, opts...)...), p.writer(t)
			streams := []mdb.StreamName{p.category(t, 0).Stream("1"), p.category(t, 1).Stream("1")}
			followers := []*follower{followStream(t, s, streams[0]), followStream(t, s, streams[1])}
			eventually(t, db, "the store says why", func() bool {
				for _, says := range test.says {
					if j.count(says) == 0 {
						return false
					}
				}
				for i, listening := range test.listening {
					if listening != (s.NotifyShardStats()[i] == mdb.NotifyStats{Listening: true, Waiting: 1, Reads: s.NotifyShardStats()[i].Reads, Notifications: s.NotifyShardStats()[i].Notifications}) {
						return false
					}
				}
				return true
			})
			for i, f := range followers {
				follows(t, db, f, streams[i], 3)
			}
			for i, got := range s.NotifyShardStats() {
				if got.Listening != test.listening[i] || !got.Listening && got.Waiting+got.Cooling > 0 {
					t.Errorf("shard %d: got %+v", i, got)
				}
			}
			for k, shard := range p.shards {
				if k < len(test.listening) && test.listening[k] {
					continue
				}
				for _, stream := range streams {
					if n := value[int](t, shard, sharedKeys, string(stream.Category())); n != 0 {
						t.Errorf("shard %d: got %d keys of %s, want none", k, n, stream)
					}
				}
			}
		})
	}
}

// testNotNotified checks that a store says why it polls where it cannot be proved that it may wait.
func (p *plproxy) testNotNotified(t *testing.T) {
	// Several addresses of a store that is not proxied.
	var j journal
	s := newStore(t, newPool(t, testdb.Notifying(t)), polled(&j, mdb.ListenOn(p.addresses()...), mdb.Fallback(never))...)
	stream := mdbtest.Category("whole").Stream("1")
	f := followStream(t, s, stream)
	eventually(t, s.Pool(), "the store says why", func() bool { return j.count("write_message is not a function of PL/Proxy") == 2 })
	follows(t, s.Pool(), f, stream, 3)
	if now := s.NotifyStats(); now.Listening || now.Waiting > 0 {
		t.Errorf("got %+v", now)
	}

	// A proxy without the function that proves it.
	proxy := barePool(t, p.url)
	exec(t, proxy, "ALTER FUNCTION message_store_proxy.notify RENAME TO hidden")
	var missing journal
	s = newStore(t, newPool(t, p.url), polled(&missing, mdb.ListenOn(p.addresses()...), mdb.Fallback(never))...)
	stream = p.category(t, 0).Stream("1")
	f = followStream(t, s, stream)
	eventually(t, proxy, "the store says why", func() bool { return missing.count("message_store_proxy.notify") == 2 })
	follows(t, p.writer(t), f, stream, 3)
	if now := s.NotifyStats(); now.Listening || now.Waiting > 0 {
		t.Errorf("got %+v", now)
	}
	exec(t, proxy, "ALTER FUNCTION message_store_proxy.hidden RENAME TO notify")
	settled(t, s)
	follows(t, p.writer(t), f, stream, 3)
}

func (p *plproxy) testNotifyRestart(t *testing.T) {
	var j journal
	s := newStore(t, newPool(t, p.url), append(waitingOnly(mdb.ListenOn(p.addresses()...)), j.option())...)
	streams := []mdb.StreamName{p.category(t, 0).Stream("1"), p.category(t, 1).Stream("1")}
	followers := []*follower{followStream(t, s, streams[0]), followStream(t, s, streams[1])}
	settled(t, s)
	if err := p.server.Restart("immediate"); err != nil {
		t.Fatal(err)
	}
	eventually(t, p.writer(t), "the store has noticed", func() bool { return j.count("shard=1") > 0 })
	settled(t, s)
	waits := mdb.NotifyStats{Listening: true, Waiting: 1}
	wantShardStats(t, s, waits, waits)
	writer := newStore(t, newPool(t, p.url), mdb.WithRetry(mdb.RetryPolicy{For: testTimeout}))
	for i, stream := range streams {
		received := s.NotifyShardStats()[i].Notifications
		for range 3 {
			write(t, writer, stream, mdb.NewMessage("Happened", nil))
			followers[i].next(t)
		}
		wantNotified(t, p.writer(t), func() int64 { return s.NotifyShardStats()[i].Notifications }, received+3)
	}
}
