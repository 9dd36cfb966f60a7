package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
)

// A failover is a run of TestFailover: a fault of the primary under a workload, until
// another node has taken over.
type failover struct {
	fault       string
	synchronous bool
	times       timings
	through     string // "HAProxy", or "" if clients connect to the nodes
	sharded     bool   // the cluster is a shard of a proxy, which reaches it so

	inject func(ctx context.Context, f *failover) error
	held   int  // messages that the standbys lack when the primary fails; 0: they keep up
	thaws  bool // the primary answers again when another one has taken over
	silent bool // the primary does not answer, not even that it rejects a connection

	cluster   *cluster
	haproxy   int // its port
	old       *node
	w         *workload
	acks      pulse
	others    pulse // of the other shard
	delivered map[*subscriber]*pulse
	result    failoverResult
}

// TestFailover checks a workload whose primary fails, with Patroni, until another node has
// taken over. Clients have the default options. Each fault is injected into clusters that
// replicate synchronously and asynchronously. The floors are in failoverResult.misses.
func TestFailover(t *testing.T) {
	if !*failoverFlag {
		t.Skip("runs with -failover, see make test-failover")
	}
	for _, f := range failovers() {
		t.Run(f.name(), f.run)
	}
}

func failovers() (all []*failover) {
	for _, synchronous := range []bool{false, true} {
		held := 500
		if synchronous {
			held = 0 // nothing is acknowledged that the standby lacks
		}
		for _, times := range []timings{quick, defaults} {
			all = append(all,
				&failover{fault: "switchover", times: times, synchronous: synchronous, inject: switchedOver},
				&failover{fault: "gone", times: times, synchronous: synchronous, inject: gone, held: held},
			)
		}
		all = append(all,
			&failover{fault: "unplugged", times: quick, synchronous: synchronous, inject: frozen, silent: true, held: held},
			&failover{fault: "crash", times: quick, synchronous: synchronous, inject: crashed},
		)
		for _, through := range []string{"", "HAProxy"} {
			all = append(all, &failover{fault: "frozen", times: quick, synchronous: synchronous, inject: frozen, thaws: true, silent: true, through: through})
		}
	}
	return append(all,
		&failover{fault: "switchover", times: quick, synchronous: true, inject: switchedOver, sharded: true},
		&failover{fault: "gone", times: quick, synchronous: true, inject: gone, sharded: true},
		&failover{fault: "frozen", times: quick, synchronous: true, inject: frozen, thaws: true, silent: true, through: "HAProxy", sharded: true},
	)
}

// switchedOver is the fault of a planned switchover.
func switchedOver(ctx context.Context, f *failover) error { return f.cluster.switchover(ctx, f.old) }

// crashed is the fault of a PostgreSQL whose main process is killed.
func crashed(_ context.Context, f *failover) error { return f.old.crash() }

// gone is the fault of a machine that ends all its processes, and closes their connections.
func gone(_ context.Context, f *failover) error { return f.old.die() }

// frozen is the fault of a machine that stands still, and closes no connection.
func frozen(_ context.Context, f *failover) error { return f.old.freeze() }

func (f *failover) name() string {
	name := fmt.Sprintf("%s/%s/ttl %d", f.fault, f.mode(), f.times.TTL)
	if front := f.front(); front != "" {
		name += "/" + front
	}
	return name
}

// front returns what is between the clients and the cluster.
func (f *failover) front() string {
	switch {
	case !f.sharded:
		return f.through
	case f.through == "":
		return "PL/Proxy"
	}
	return "PL/Proxy, " + f.through
}

func (f *failover) mode() string {
	if f.synchronous {
		return "sync"
	}
	return "async"
}

func (f *failover) run(t *testing.T) {
	f.cluster = startCluster(t, f.synchronous, f.times)
	f.old = f.cluster.nodes[0]
	direct, url := f.cluster.url(), f.cluster.url()
	if f.through != "" {
		var err error
		if f.haproxy, err = f.cluster.startHAProxy(t.Context(), t); err != nil {
			t.Fatal(err)
		}
		url = serviceURL(loopback(f.haproxy), "")
	}
	var listen []mdb.NotifyOption
	if f.sharded {
		proxy := f.startProxy(t)
		direct, url, listen = proxy.direct, proxy.url, append(listen, mdb.ListenOn(proxy.shards...))
	}
	w := newWorkload(direct, url, *seedFlag)
	f.w = w
	w.defaults, w.options = true, []mdb.StoreOption{mdb.WithNotify(listen...)}
	w.messages, w.writers, w.pause, w.chain = 0, 8, 20*time.Millisecond, false
	w.write, w.consume = f.write, f.consume
	f.delivered = make(map[*subscriber]*pulse)
	w.subscribed = func(s *subscriber) {
		if f.affects(s.Category) {
			f.delivered[s] = new(pulse)
		}
	}
	if f.sharded {
		w.names = []mdb.Category{categoryOf(0), categoryOf(1)}
		w.apart = true // so that none of the other shard waits for this one
		w.all = false  // the messages of shards have no common order
		w.counted = func(o *op) bool { return f.affects(o.stream.Category()) }
	}
	w.run(t, f.failOver)
	if t.Failed() { // not a floor, but the failover itself
		f.cluster.logTails(t)
	}
	f.evaluate(t)
}

// write is the writer that notes when writes are acknowledged.
func (f *failover) write(ctx context.Context, s *mdb.Store, o *op) ([]mdb.Written, error) {
	written, err := writeByMDB(ctx, s, o)
	switch {
	case err != nil:
	case f.affects(o.stream.Category()):
		f.acks.beat()
	default:
		f.others.beat()
	}
	return written, err
}

// consume is the consumer with default options, that notes when messages are delivered and
// which are reported missing.
func (f *failover) consume(ctx context.Context, s *mdb.Store, sub *subscriber, _ int64, h mdb.Handler, _ func(context.Context, int64) error) error {
	noting := func(ctx context.Context, m mdb.Message) error {
		if p := f.delivered[sub]; p != nil {
			p.beat()
		}
		return h(ctx, m)
	}
	reporting := mdb.OnFork(func(_ context.Context, fork mdb.Fork) error {
		f.w.miss(sub, fork)
		return nil
	})
	if sub.Stream != "" {
		return s.SubscribeToStream(ctx, sub.Stream, noting, reporting)
	}
	if sub.All {
		return s.SubscribeToAll(ctx, noting, append(sub.options(), reporting)...)
	}
	opts := []mdb.CategorySubscribeOption{reporting}
	if sub.Of > 0 {
		opts = append(opts, mdb.AsConsumerGroup(sub.Member, sub.Of))
	}
	if sub.Correlation != "" {
		opts = append(opts, mdb.WithCorrelation(sub.Correlation))
	}
	return s.SubscribeToCategory(ctx, sub.Category, noting, opts...)
}

// failOver injects the fault, and waits until writes are acknowledged again, and enough
// that their global positions pass those that may be lost.
func (f *failover) failOver(ctx context.Context) error {
	w := f.w
	if err := w.untilAcked(ctx, 300); err != nil {
		return err
	}
	if f.held > 0 {
		if err := f.old.holdBack(); err != nil {
			return err
		}
		if err := w.untilAcked(ctx, f.held); err != nil {
			return err
		}
	}
	p, err := f.cluster.poll(ctx, f.old, f.haproxy)
	if err != nil {
		return err
	}
	defer p.end()
	f.measure((*pulse).begin)
	w.noteFault()
	if err := f.inject(ctx, f); err != nil {
		return err
	}
	var taken acceptance
	select {
	case taken = <-p.accepted:
	case <-ctx.Done():
		return fmt.Errorf("no other node accepts writes: %w", context.Cause(ctx))
	}
	f.result.patroni = taken.at.Sub(taken.last)
	f.result.deadHosts = f.deadBefore(taken.node)

	recovered := w.acknowledged() + 300 + f.held
	if f.thaws {
		// Writers that wait for the frozen primary go on only when it is thawed.
		limited, cancel := context.WithTimeout(ctx, 15*time.Second)
		_ = w.untilAcked(limited, 300)
		cancel()
		if err := f.old.thaw(); err != nil {
			return err
		}
		if err := f.cluster.awaitOnePrimary(ctx); err != nil {
			return err
		}
	}
	err = w.await(ctx, func() bool { return w.acks >= recovered })
	f.measure((*pulse).end)
	if f.silent && !f.thaws {
		// Nobody has connections to it any more but the workload's own, which have no timeouts.
		err = errors.Join(err, f.old.die())
	}
	return err
}

// deadBefore returns how many hosts a client asks in vain, without an answer, before it
// asks the new primary.
func (f *failover) deadBefore(primary *node) int {
	nodes := f.cluster.nodes
	if f.silent && f.through == "" && slices.Index(nodes, f.old) < slices.Index(nodes, primary) {
		return 1
	}
	return 0
}

func (f *failover) measure(do func(*pulse)) {
	do(&f.acks)
	do(&f.others)
	for _, p := range f.delivered {
		do(p)
	}
}

// A pulse measures the longest time without a beat.
type pulse struct {
	mu        sync.Mutex
	last      time.Time
	measuring bool
	longest   time.Duration
}

func (p *pulse) beat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note()
	p.last = time.Now()
}

func (p *pulse) note() {
	if p.measuring && !p.last.IsZero() {
		p.longest = max(p.longest, time.Since(p.last))
	}
}

func (p *pulse) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.measuring = true
}

func (p *pulse) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note()
	p.measuring = false
}
