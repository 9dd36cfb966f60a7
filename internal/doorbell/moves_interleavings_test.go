package doorbell_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/interleave"
	"github.com/messagedb-go/messagedb/internal/names"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/internal/trigger"
)

// These tests run the steps of a writer, a subscriber and a move of their category from shard
// 0 to shard 1, in every order. The shards are databases with the trigger. The proxy is a
// table, which each call reads when it begins. A write is one call, so the writer's session
// commits it on the shard; that it takes two steps shows what happens between its insert and
// its commit.

// A moveWalk is one order of the steps, of a category of its own.
type moveWalk struct {
	*shardStage
	category string

	fenced  bool // writers of the category fail on shard 0
	writing int  // the shard on which a write is open; -1: none
	refused bool // the writer has found the fence, and retries
	waits   bool // the move would wait for the writer, so this order cannot happen
	rang    bool // a ring was on its way at the end
	reacted bool // so was the notification of the move
	sub     shardSubscriber
}

// A shardSubscriber is what a subscriber knows.
type shardSubscriber struct {
	listening     bool
	placed        int // the shard that the proxy has said
	armed         int // the shard whose key it shares; -1: none
	reads         int // the shard of the read under way
	fresh         bool
	asleep        bool
	rung, noticed bool
	seen          int
}

// shardStage are the sessions.
type shardStage struct {
	t                       testing.TB
	proxy                   *pgx.Conn
	bells, readers, writers [2]*pgx.Conn
	listens                 bool // before the first step
}

func newShardStage(t testing.TB) *shardStage {
	t.Helper()
	s := &shardStage{t: t}
	for i := range s.bells {
		url := testdb.Notifying(t)
		s.bells[i], s.readers[i], s.writers[i] = testdb.Session(t, url), testdb.Session(t, url), testdb.Session(t, url)
		if i == 0 {
			s.proxy = testdb.Session(t, url)
			testdb.Exec(t, s.proxy, "CREATE TABLE public.moved (category text PRIMARY KEY)")
		}
	}
	return s
}

type shardStep struct {
	name string
	do   func(*moveWalk)
}

// run takes the steps, and then what follows from them. It reports whether a wake-up is lost:
// the subscriber sleeps although there are messages to read, or will not be woken for the next.
func (s *shardStage) run(steps []shardStep) (lost, ok bool, c *moveWalk) {
	c = &moveWalk{
		shardStage: s, category: "moves" + strings.ReplaceAll(uuid.NewString(), "-", ""),
		writing: -1, sub: shardSubscriber{placed: -1, armed: -1},
	}
	defer c.clean()
	if s.listens {
		sListenOnShards.do(c)
	}
	for _, m := range steps {
		if m.do(c); c.waits {
			return false, false, c
		}
	}
	if c.refused {
		c.write(c.shard())
	}
	c.deliver()
	c.rang, c.reacted = c.sub.rung, c.sub.noticed
	for ; c.sub.noticed && c.sub.placed >= 0; c.deliver() {
		c.react()
	}
	if c.sub.asleep && !c.sub.rung && c.sub.seen < c.visible() {
		return true, true, c
	}
	if c.sub.asleep && !c.sub.rung {
		c.write(c.shard())
		c.deliver()
		return !c.sub.rung, true, c
	}
	return false, true, c
}

func (c *moveWalk) clean() {
	for i := range c.bells {
		testdb.Exec(c.t, c.bells[i], "SELECT pg_advisory_unlock_all(); UNLISTEN *")
		testdb.Exec(c.t, c.writers[i], "ROLLBACK")
	}
}

// shard is the one to which the proxy sends the category.
func (c *moveWalk) shard() int {
	return testdb.Value[int](c.t, c.proxy, "SELECT count(*)::int FROM public.moved WHERE category = $1", c.category)
}

func (c *moveWalk) visible() int {
	return testdb.Value[int](c.t, c.readers[c.shard()], sees, c.category)
}

func (c *moveWalk) write(shard int) {
	testdb.Exec(c.t, c.writers[shard], "SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Happened', '{}')", c.category+"-1")
}

// deliver makes the subscriber receive what has been sent so far.
func (c *moveWalk) deliver() {
	x := &c.sub
	if !x.listening {
		return
	}
	for i, bell := range c.bells {
		sentinel := "-" + uuid.NewString()
		notify(c.t, c.readers[i], sentinel)
		for {
			ctx, cancel := context.WithTimeout(c.t.Context(), testTimeout)
			n, err := bell.WaitForNotification(ctx)
			cancel()
			if err != nil {
				c.t.Fatal(err)
			}
			if n.Payload == sentinel {
				break
			}
			x.rung = x.rung || names.Category(n.Payload) == c.category
			x.noticed = x.noticed || n.Payload == trigger.Placement
		}
	}
}

// react is what the client does when a shard is notified of a move.
func (c *moveWalk) react() {
	c.ask()
	c.arm()
	c.begin()
	c.rows()
	c.sleep()
}

func (c *moveWalk) ask() {
	x := &c.sub
	x.noticed = false
	if shard := c.shard(); shard != x.placed {
		x.placed, x.asleep, x.fresh = shard, false, false
		if x.armed >= 0 {
			testdb.Exec(c.t, c.bells[x.armed], "SELECT pg_advisory_unlock_shared($1, hashtext($2))", trigger.Key, c.category)
			x.armed = -1
		}
	}
}

func (c *moveWalk) arm() {
	x := &c.sub
	if x.armed < 0 && testdb.Value[bool](c.t, c.bells[x.placed], "SELECT pg_try_advisory_lock_shared($1, hashtext($2))", trigger.Key, c.category) {
		x.armed = x.placed
	}
}

// begin begins a read, which the proxy sends to a shard. What arrives later is kept.
func (c *moveWalk) begin() {
	c.deliver()
	x := &c.sub
	x.rung, x.fresh, x.reads = false, x.armed >= 0, c.shard()
}

func (c *moveWalk) rows() {
	c.sub.seen = testdb.Value[int](c.t, c.readers[c.sub.reads], sees, c.category)
}

func (c *moveWalk) sleep() {
	c.deliver()
	x := &c.sub
	x.asleep = x.armed >= 0 && x.fresh && !x.rung
}

var (
	sListenOnShards = shardStep{"S.listen", func(c *moveWalk) {
		for _, bell := range c.bells {
			testdb.Exec(c.t, bell, "LISTEN "+trigger.Channel)
		}
		c.sub.listening = true
	}}
	sAskOnShards   = shardStep{"S.ask", (*moveWalk).ask}
	sArmOnShards   = shardStep{"S.arm", (*moveWalk).arm}
	sBeginOnShards = shardStep{"S.begin-read", (*moveWalk).begin}
	sRowsOnShards  = shardStep{"S.rows", (*moveWalk).rows}
	sSleepOnShards = shardStep{"S.sleep", (*moveWalk).sleep}

	// The writer finds the shard, and inserts there, unless the fence stops it.
	wInsertOnShards = shardStep{"W.insert", func(c *moveWalk) {
		shard := c.shard()
		if c.refused = shard == 0 && c.fenced; !c.refused {
			c.writing = shard
			testdb.Exec(c.t, c.writers[shard], "BEGIN")
			c.write(shard)
		}
	}}
	wCommitOnShards = shardStep{"W.commit", func(c *moveWalk) {
		if c.writing >= 0 {
			testdb.Exec(c.t, c.writers[c.writing], "COMMIT")
			c.writing = -1
		}
	}}

	// The move copies what shard 0 has, under the category's lock, and closes the fence.
	mFence = shardStep{"M.copy+fence", func(c *moveWalk) {
		if c.waits = c.writing == 0; c.waits {
			return
		}
		for range testdb.Value[int](c.t, c.readers[0], sees, c.category) {
			c.write(1)
		}
		c.fenced = true
	}}
	mFlip = shardStep{"M.change-the-proxy", func(c *moveWalk) {
		testdb.Exec(c.t, c.proxy, "INSERT INTO public.moved VALUES ($1)", c.category)
	}}
	mNotify = shardStep{"M.notify", func(c *moveWalk) { notify(c.t, c.readers[0], trigger.Placement) }}
)

var (
	moveWriter     = []shardStep{wInsertOnShards, wCommitOnShards}
	mover          = []shardStep{mFence, mFlip, mNotify}
	moveSubscriber = []shardStep{sListenOnShards, sAskOnShards, sArmOnShards, sBeginOnShards, sRowsOnShards, sSleepOnShards}
)

// A tally counts what has happened in all orders.
type tally struct {
	ran, lost, slept, rang, reacted int
	first                           string // that loses a wake-up
}

// runOrders runs the interleavings, or some of them, or only up to the first one that loses a wake-up.
func runOrders(t testing.TB, s *shardStage, every int, upToLoss bool, programs ...[]shardStep) (n tally) {
	t.Helper()
	count := func(n *int, happened bool) {
		if happened {
			*n++
		}
	}
	for i, steps := range interleave.All(programs...) {
		if i%every != 0 {
			continue
		}
		lost, ok, c := s.run(steps)
		if !ok {
			continue
		}
		n.ran++
		count(&n.lost, lost)
		count(&n.slept, c.sub.asleep)
		count(&n.rang, c.rang)
		count(&n.reacted, c.reacted)
		if lost && n.lost == 1 {
			for _, m := range steps {
				n.first += " " + m.name
			}
			if upToLoss {
				break
			}
		}
	}
	return n
}

// TestInterleavingsOfMoves checks that no interleaving of a writer's and a subscriber's steps
// with those of a move of their category loses a wake-up.
func TestInterleavingsOfMoves(t *testing.T) {
	t.Parallel()
	s, subscriber, every := newShardStage(t), moveSubscriber, 1
	if testing.Short() {
		every = 11
	}
	if os.Getenv("MDB_TEST_WALKS") != "all" { // it listens before anything else happens
		s.listens, subscriber = true, moveSubscriber[1:]
	}
	n := runOrders(t, s, every, false, moveWriter, mover, subscriber)
	t.Logf("%d interleavings; the subscriber slept in %d, was woken in %d, and received the notification of the move in %d", n.ran, n.slept, n.rang, n.reacted)
	if n.lost > 0 {
		t.Errorf("%d of %d interleavings lose a wake-up, such as:%s", n.lost, n.ran, n.first)
	}
	if n.slept == 0 || n.rang == 0 || n.reacted == 0 || n.reacted == n.ran && !s.listens {
		t.Errorf("got %+v, want some of each: otherwise the test proves nothing", n)
	}
}

// TestMutantsOfMoves checks that TestInterleavingsOfMoves can fail: each mutant breaks the
// protocol in one place.
func TestMutantsOfMoves(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	forget := shardStep{"S.forget", func(c *moveWalk) {
		c.deliver()
		c.sub.noticed = false
	}}
	elsewhere := shardStep{"S.arm-shard-1", func(c *moveWalk) {
		c.sub.placed = 1
		c.arm()
	}}
	for _, test := range []struct {
		name              string
		mover, subscriber []shardStep
	}{
		{"the old shard is notified before the proxy changes", []shardStep{mFence, mNotify, mFlip}, moveSubscriber},
		{"the old shard is not notified", []shardStep{mFence, mFlip}, moveSubscriber},
		{"the new shard is notified", []shardStep{mFence, mFlip, {"M.notify-1", func(c *moveWalk) {
			if c.sub.armed != 0 {
				notify(c.t, c.readers[1], trigger.Placement)
			}
		}}}, moveSubscriber},
		{"the proxy is asked before the connection listens", mover, []shardStep{sAskOnShards, sListenOnShards, sArmOnShards, sBeginOnShards, sRowsOnShards, sSleepOnShards}},
		{"a notification of a move is forgotten after the question", mover, []shardStep{sListenOnShards, sAskOnShards, sArmOnShards, sBeginOnShards, sRowsOnShards, forget, sSleepOnShards}},
		{"the key is shared on another shard", []shardStep{}, []shardStep{sListenOnShards, sAskOnShards, elsewhere, sBeginOnShards, sRowsOnShards, sSleepOnShards}},
		{"the key is shared after the read", mover, []shardStep{sListenOnShards, sAskOnShards, sBeginOnShards, sRowsOnShards, {"S.arm-late", func(c *moveWalk) {
			c.arm()
			c.sub.fresh = true
		}}, sSleepOnShards}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n := runOrders(t, newShardStage(t), 1, true, moveWriter, test.mover, test.subscriber)
			if n.lost == 0 {
				t.Errorf("none of %d interleavings loses a wake-up, want the mutant to be caught", n.ran)
			}
			t.Logf("interleaving %d loses a wake-up:%s", n.ran, n.first)
		})
	}
}
