package doorbell

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/trigger"
)

// A cluster is a model of a proxy and its shards.
type cluster struct {
	shards    []*database
	addresses []*database // to which bells connect, in the order of ListenOn

	mu     sync.Mutex
	placed map[string]int // the shards of categories; those of others are 0
	asks   int
	fails  error         // the questions for shards
	holds  chan struct{} // if it is not nil, a question waits, with its answer, until it is closed
}

func newCluster(shards int) *cluster {
	c := &cluster{placed: make(map[string]int)}
	for range shards {
		c.shards = append(c.shards, newDatabase())
	}
	c.addresses = slices.Clone(c.shards)
	return c
}

// bell returns a bell that listens on the addresses.
func (c *cluster) bell(log *strings.Builder) *Bell {
	logger := slog.New(slog.DiscardHandler)
	if log != nil {
		logger = slog.New(slog.NewTextHandler(log, nil))
	}
	b := New(Config{
		Connect: make([]func(context.Context) (*pgx.Conn, error), len(c.addresses)),
		Notify: func(_ context.Context, shard int, payload string) (time.Time, error) {
			c.shards[shard%len(c.shards)].notify(payload)
			return time.Now(), nil
		},
		Sharded:  func() bool { return true },
		Place:    c.place,
		Fallback: time.Hour, Recheck: time.Minute, PerSecond: 100, Logger: logger,
	})
	for i, s := range b.shards {
		s.connect = c.addresses[i].connect
	}
	return b
}

func (c *cluster) place(_ context.Context, categories []string) (shards []int, err error) {
	c.mu.Lock()
	c.asks++
	for _, category := range categories {
		shards = append(shards, c.placed[category])
	}
	err, holds := c.fails, c.holds
	c.mu.Unlock()
	if holds != nil {
		<-holds
	}
	if err != nil {
		return nil, err
	}
	return shards, nil
}

func (c *cluster) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// asked returns the number of questions since the last call.
func (c *cluster) asked() (n int) {
	c.set(func() { n, c.asks = c.asks, 0 })
	return n
}

// move moves a category, and notifies the shard that it was on.
func (c *cluster) move(category string, to int) {
	from := 0
	c.set(func() { from, c.placed[category] = c.placed[category], to })
	c.shards[from].notify(trigger.Placement)
}

// keys returns the number of keys that are shared on each shard.
func (c *cluster) keys() (keys []int) {
	for _, db := range c.shards {
		keys = append(keys, db.get(db.keys))
	}
	return keys
}

func (c *cluster) wantKeys(t *testing.T, what string, want ...int) {
	t.Helper()
	if got := c.keys(); !slices.Equal(got, want) {
		t.Errorf("%s: got %v keys on the shards, want %v", what, got, want)
	}
}

func wantShards(t *testing.T, what string, b *Bell, want ...Stats) {
	t.Helper()
	got := b.ShardStats()
	for i := range got {
		got[i].Notifications, got[i].Reads = 0, 0
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %+v, want %+v", what, got, want)
	}
}

// runShards runs a test on two shards, of which the first has category a, the second b.
func runShards(t *testing.T, test func(t *testing.T, c *cluster)) {
	t.Helper()
	run(t, func(t *testing.T, _ *database) {
		c := newCluster(2)
		c.placed["b"] = 1
		test(t, c)
	})
}

var (
	waits  = Stats{Listening: true, Armed: 1}
	silent = Stats{Listening: true}
)

// TestShards checks that a bell has one connection to each shard, that it shares the key of a
// category on its shard only, and that it asks the proxy no more than necessary.
func TestShards(t *testing.T) {
	t.Parallel()
	runShards(t, func(t *testing.T, c *cluster) {
		b := c.bell(nil)
		var listening []bool
		b.config.Listening = func(all bool) { listening = append(listening, all) }
		loops := map[string]*loop{"a": subscribe(t, b, "a"), "b": subscribe(t, b, "b")}
		pass(time.Second)
		wantShards(t, "two categories", b, waits, waits)
		wantStats(t, "two categories", b, Stats{Listening: true, Armed: 2})
		c.wantKeys(t, "two categories", 1, 1)
		for i, db := range c.shards {
			if n := db.counts(); n.connects != 1 || n.shares != 1 {
				t.Errorf("shard %d: got %d connections and %d statements that share keys, want 1 and 1", i, n.connects, n.shares)
			}
		}
		c.asked()
		before := b.ShardStats()
		pass(10 * lookInterval)
		if n := c.asked(); n != 10 {
			t.Errorf("got %d questions in ten intervals, want 10", n)
		}
		for i, category := range []string{"a", "b"} {
			if !c.shards[i].write(category) {
				t.Errorf("a writer of %s does not ring", category)
			}
			synctest.Wait()
		}
		for i, s := range b.ShardStats() {
			if s.Notifications != 1 || s.Reads != before[i].Reads+1 {
				t.Errorf("shard %d: got %d notifications and %d reads, want 1 and 1", i, s.Notifications, s.Reads-before[i].Reads)
			}
		}
		// One more question for a new category, and no more keys than needed.
		loops["c"] = subscribe(t, b, "c")
		pass(time.Second)
		if n := c.asked(); n != 1 {
			t.Errorf("got %d questions for a new category, want 1", n)
		}
		c.wantKeys(t, "a new category", 2, 1)
		stopAll(loops)
		c.wantKeys(t, "after the last subscription", 0, 0)
		if !slices.Equal(listening, []bool{true, false}) {
			t.Errorf("the hook was called with %v, want true and false", listening)
		}
	})
}

// TestShardLost checks that only the categories of a shard are polled while its connection is
// lost, and that the others are neither read nor asked for their keys.
func TestShardLost(t *testing.T) {
	t.Parallel()
	runShards(t, func(t *testing.T, c *cluster) {
		var log strings.Builder
		b := c.bell(&log)
		loops := map[string]*loop{"a": subscribe(t, b, "a"), "b": subscribe(t, b, "b")}
		pass(time.Second)
		c.shards[1].set(func() { c.shards[1].refuses = errors.New("shutting down") })
		c.shards[1].kill()
		before := b.ShardStats()[0].Reads
		pass(time.Minute)
		wantShards(t, "one is lost", b, waits, Stats{Off: 1})
		wantStats(t, "one is lost", b, Stats{Armed: 1, Off: 1})
		after := b.ShardStats()
		if n := after[0].Reads - before; n != 0 {
			t.Errorf("got %d reads of the other shard's category, want none", n)
		}
		if after[1].Reads < 60 {
			t.Errorf("got %d reads in a minute, want those of the strategy", after[1].Reads)
		}
		if n := c.shards[0].counts(); n.shares != 1 {
			t.Errorf("got %d statements that share keys on the other shard, want 1", n.shares)
		}
		if !c.shards[0].write("a") {
			t.Error("a writer on the other shard does not ring")
		}
		c.shards[1].set(func() { c.shards[1].refuses = nil })
		pass(listenRetry.Max + 2*time.Second)
		wantShards(t, "it is back", b, waits, waits)
		if s := log.String(); !strings.Contains(s, "shard=1") || strings.Contains(s, "shard=0") {
			t.Errorf("the log does not say which shard: %s", s)
		}
		stopAll(loops)
	})
}

// TestShardMisplaced checks that an address which is not that of the shard with its number is
// never used, and that a warning says what is wrong.
func TestShardMisplaced(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name      string
		addresses func(c *cluster) []*database
		want      []Stats
		says      []string
	}{
		{
			"in another order", func(c *cluster) []*database { return []*database{c.shards[1], c.shards[0]} },
			[]Stats{{Off: 1}, {Off: 1}},
			// A probe may be sent before the other connection listens, each time.
			[]string{"sends to shard 0 (arrives at the address for shard 1|does not arrive)", "sends to shard 1 (arrives at the address for shard 0|does not arrive)"},
		},
		{
			"the same one twice", func(c *cluster) []*database { return []*database{c.shards[0], c.shards[0]} },
			[]Stats{waits, {Off: 1}},
			[]string{"sends to shard 1 does not arrive"},
		},
		{
			"not a shard", func(c *cluster) []*database { return []*database{c.shards[0], newDatabase()} },
			[]Stats{waits, {Off: 1}},
			[]string{"sends to shard 1 does not arrive"},
		},
		{
			"one is missing", func(c *cluster) []*database { return c.shards[:1] },
			[]Stats{waits},
			[]string{"shard=1 error=\"ListenOn has no address for this shard, to which the proxy sends the category b\""},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			runShards(t, func(t *testing.T, c *cluster) {
				c.addresses = test.addresses(c)
				var log strings.Builder
				b := c.bell(&log)
				loops := map[string]*loop{"a": subscribe(t, b, "a"), "b": subscribe(t, b, "b")}
				pass(5 * time.Minute)
				pass(2 * time.Second) // not in the middle of an attempt
				wantShards(t, "after some attempts", b, test.want...)
				for _, says := range test.says {
					if !regexp.MustCompile(says).MatchString(log.String()) {
						t.Errorf("got no line with %q: %s", says, &log)
					}
				}
				// The first probe may be sent before the other connection listens.
				if n := strings.Count(log.String(), saysOff); n > 2*len(test.says) {
					t.Errorf("got %d warnings, want one for each reason: %s", n, &log)
				}
				stopAll(loops)
			})
		})
	}
}

// TestShardMoves checks that the key of a category follows it to another shard, and that a
// subscription reads after that.
func TestShardMoves(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		move func(c *cluster, a *loop)
	}{
		{"with a notification", func(c *cluster, _ *loop) {
			c.move("a", 1)
			pass(100 * time.Millisecond)
		}},
		{"without one", func(c *cluster, _ *loop) {
			c.set(func() { c.placed["a"] = 1 })
			pass(lookInterval)
		}},
		{"without one, and the fallback finds a message", func(c *cluster, a *loop) {
			c.set(func() { c.placed["a"] = 1 })
			a.reads <- 1
			pass(a.bell.config.Fallback)
		}},
		{"twice", func(c *cluster, _ *loop) {
			c.move("a", 1)
			c.move("a", 0)
			pass(100 * time.Millisecond)
			c.move("a", 1)
			pass(100 * time.Millisecond)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			runShards(t, func(t *testing.T, c *cluster) {
				b := c.bell(nil)
				b.config.Fallback = 5 * time.Second
				a, other := subscribe(t, b, "a"), subscribe(t, b, "b")
				pass(time.Second)
				c.wantKeys(t, "before", 1, 1)
				read, stays := readIn(a), readIn(other)
				test.move(c, a)
				wantShards(t, "after", b, silent, Stats{Listening: true, Armed: 2})
				c.wantKeys(t, "after", 0, 2)
				if readIn(a) == read || !b.Settled() {
					t.Error("it has not read since")
				}
				if !c.shards[1].write("a") {
					t.Error("a writer on the new shard does not ring")
				}
				if readIn(other) != stays {
					t.Error("a category that stays has given its key up")
				}
				a.stop()
				other.stop()
			})
		})
	}
}

// TestShardMovesMeanwhile checks that a key which is granted on a shard after the category has
// moved arms nothing.
func TestShardMovesMeanwhile(t *testing.T) {
	t.Parallel()
	runShards(t, func(t *testing.T, c *cluster) {
		for _, db := range c.shards {
			db.latency = 100 * time.Millisecond
		}
		b := c.bell(nil)
		a := subscribe(t, b, "a")
		pass(250 * time.Millisecond) // it listens and has looked; the key is asked for
		if n := c.shards[0].counts(); n.looks != 1 || n.shares != 0 {
			t.Fatalf("got %d looks and %d statements that share keys, want 1 and 0", n.looks, n.shares)
		}
		c.set(func() { c.placed["a"] = 1 })
		b.askShards() // for another reason: a notification waits until the statement has ended
		pass(80 * time.Millisecond)
		if n := c.shards[0].counts().shares; n != 1 {
			t.Fatalf("got %d statements that share keys on the old shard, want 1", n)
		}
		wantShards(t, "before the new shard has granted it", b, silent, Stats{Listening: true, Cooling: 1})
		pass(2 * time.Second)
		wantShards(t, "after the move", b, silent, waits)
		c.wantKeys(t, "after the move", 0, 1)
		a.stop()
	})
}

// readIn returns how often the category was armed when the last read began.
func readIn(l *loop) int64 {
	l.bell.mu.Lock()
	defer l.bell.mu.Unlock()
	return l.epoch
}

// TestShardsUnknown checks that all categories are polled while the proxy does not say where
// they are, and that a pool without a free connection changes nothing.
func TestShardsUnknown(t *testing.T) {
	t.Parallel()
	runShards(t, func(t *testing.T, c *cluster) {
		var log strings.Builder
		b := c.bell(&log)
		loops := map[string]*loop{"a": subscribe(t, b, "a"), "b": subscribe(t, b, "b")}
		pass(time.Second)
		c.set(func() { c.fails = fmt.Errorf("%w: in time", ErrBusy) })
		pass(2 * lookInterval)
		wantShards(t, "the pool is busy", b, waits, waits)
		c.set(func() { c.fails = errors.New("no function shard_of") })
		pass(2 * lookInterval)
		wantShards(t, "the proxy does not know", b, silent, silent)
		wantStats(t, "the proxy does not know", b, Stats{Listening: true, Off: 2})
		c.wantKeys(t, "the proxy does not know", 0, 0)
		c.set(func() { c.fails = nil })
		pass(listenRetry.Max + 2*time.Second)
		wantShards(t, "it knows again", b, waits, waits)
		for _, says := range []string{"ask the proxy for the shards of categories: no function shard_of", "no free connection"} {
			if n := strings.Count(log.String(), says); n != 1 {
				t.Errorf("got %d warnings with %q, want one: %s", n, says, &log)
			}
		}
		stopAll(loops)
	})
}

// TestShardAnswerIsOld checks that an answer of the proxy does not count if a connection was
// lost since the question, because the notification of a move may have been lost with it.
func TestShardAnswerIsOld(t *testing.T) {
	t.Parallel()
	runShards(t, func(t *testing.T, c *cluster) {
		b := c.bell(nil)
		a := subscribe(t, b, "a")
		pass(time.Second)
		held := make(chan struct{})
		c.set(func() { c.holds = held })
		b.askShards()
		synctest.Wait() // the proxy has said: shard 0
		c.shards[0].kill()
		c.move("a", 1)
		pass(time.Second)
		wantShards(t, "the connection is back", b, silent, silent)
		again := make(chan struct{})
		c.set(func() { c.holds = again })
		close(held)
		pass(time.Second)
		wantShards(t, "after the old answer", b, silent, silent)
		c.wantKeys(t, "after the old answer", 0, 0)
		c.set(func() { c.holds = nil })
		close(again)
		pass(2 * time.Second)
		wantShards(t, "after the new answer", b, silent, waits)
		a.stop()
	})
}
