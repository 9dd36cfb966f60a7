package consumer_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// A proxied is a proxy of two shards, of which the first one has the state of consumers.
type proxied struct {
	*testdb.Proxy

	store *mdb.Store
	state *pgxpool.Pool
}

// TestPLProxyConsumer checks consumers whose store is a proxy.
func TestPLProxyConsumer(t *testing.T) {
	t.Parallel()
	p := &proxied{Proxy: testdb.NewProxy(t, 2, nil)}
	p.store, p.state = storeOf(t, p.URL), directPool(t, p.Shards[0])
	if err := schema.InstallConsumers(t.Context(), p.state); err != nil {
		t.Fatal(err)
	}
	sqlExec(t, p.state, `CREATE TABLE public.handled (entry text NOT NULL)`)
	t.Run("handles each message once", p.testForms)
	t.Run("begins at a position that the shard has used", p.testStart)
	t.Run("goes back after a loss", p.testLoss)
	t.Run("ends if nobody knows what is lost", p.testFork)
	t.Run("asks again after a failover", p.testSessions)
	t.Run("rejects what a proxy cannot have", p.testState)
}

// categories returns a new category of each shard.
func (p *proxied) categories() [2]mdb.Category {
	var found [2]mdb.Category
	for found[0] == "" || found[1] == "" {
		c := mdbtest.Category("proxied")
		found[mdb.Hash64(string(c))&1] = c
	}
	return found
}

func (p *proxied) write(t *testing.T, stream mdb.StreamName, types ...string) {
	t.Helper()
	for _, typ := range types {
		if _, err := p.store.WriteMessage(t.Context(), stream, mdb.NewMessage(typ, nil)); err != nil {
			t.Fatal(err)
		}
	}
}

// A handledLog has what was handled.
type handledLog struct {
	mu      sync.Mutex
	entries []string
	fails   bool          // messages of the type Poison
	inTx    *pgxpool.Pool // has the entries of these categories in a table; nil: they are here
	of      []string
}

func (l *handledLog) handle(_ context.Context, m mdb.Message) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fails && m.Type == "Poison" {
		return consumer.Permanent(errors.New("it is poisoned"))
	}
	l.entries = append(l.entries, string(m.Stream)+" "+m.Type)
	return nil
}

// handleTx repeats what is undone.
func (l *handledLog) handleTx(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fails && m.Type == "Poison" {
		return consumer.Permanent(errors.New("it is poisoned"))
	}
	_, err := tx.Exec(ctx, `INSERT INTO public.handled VALUES ($1)`, string(m.Stream)+" "+m.Type)
	return err
}

func (l *handledLog) sorted(t *testing.T) string {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inTx != nil {
		return joined(sqlValue[[]string](t, l.inTx, `SELECT coalesce(array_agg(entry), '{}') FROM public.handled WHERE split_part(entry, '-', 1) = ANY ($1)`, l.of))
	}
	return joined(l.entries)
}

func (l *handledLog) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fails = false
}

// consumer returns a consumer of the categories.
func (p *proxied) consumer(t *testing.T, store *mdb.Store, of [2]mdb.Category, h consumer.Handler, opts ...consumer.Option) *consumer.Consumer {
	t.Helper()
	c, err := consumer.New(store, string(of[0]), of[0], h, append(opts, consumer.WithCategories(of[1]), consumer.StateIn(p.state))...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func catchUp(t *testing.T, c *consumer.Consumer, l *handledLog, want string) {
	t.Helper()
	if err := c.CatchUp(t.Context()); err != nil || l.sorted(t) != want {
		t.Fatalf("error %v, handled\n%s\nwant\n%s", err, l.sorted(t), want)
	}
}

// testForms also parks messages and replays them, and starts again.
func (p *proxied) testForms(t *testing.T) {
	for name, form := range map[string]func(l *handledLog) consumer.Handler{
		"Each": func(l *handledLog) consumer.Handler { return consumer.Each(l.handle) },
		"EachTx": func(l *handledLog) consumer.Handler {
			l.inTx = p.state
			return consumer.EachTx(l.handleTx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			of := p.categories()
			l := &handledLog{fails: true, of: []string{string(of[0]), string(of[1])}}
			var before, all []string
			for _, category := range of {
				one, two := category.Stream("1"), category.Stream("2")
				p.write(t, one, "First", "Poison", "Third")
				p.write(t, two, "Other")
				before = append(before, string(one)+" First", string(two)+" Other")
				all = append(all, string(one)+" First", string(one)+" Poison", string(one)+" Third", string(two)+" Other")
			}
			c := p.consumer(t, p.store, of, form(l))
			catchUp(t, c, l, joined(before))
			l.heal()
			if err := c.Replay(t.Context()); err != nil {
				t.Fatal(err)
			}
			catchUp(t, c, l, joined(all))
			again := p.consumer(t, p.store, of, form(l))
			catchUp(t, again, l, joined(all))
			p.write(t, of[1].Stream("3"), "Later")
			catchUp(t, again, l, joined(append(all, string(of[1].Stream("3"))+" Later")))
		})
	}
}

func joined(lines []string) string {
	return strings.Join(slices.Sorted(slices.Values(lines)), "\n")
}

func (p *proxied) testStart(t *testing.T) {
	l, of := &handledLog{}, p.categories()
	p.write(t, of[1].Stream("1"), "First", "Second")
	head, err := p.store.CategoryHead(t.Context(), of[1])
	if err != nil {
		t.Fatal(err)
	}
	p.write(t, of[1].Stream("1"), "Third")
	from := func(position int64) *consumer.Consumer {
		c, err := consumer.New(p.store, string(of[1]), of[1], consumer.Each(l.handle), consumer.FromPosition(position), consumer.StateIn(p.state))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	var ahead *mdb.AheadError
	if err := from(head + 1<<40).CatchUp(t.Context()); !errors.As(err, &ahead) || ahead.Category != of[1] || ahead.Last <= head {
		t.Errorf("got error %v, want an AheadError of the category", err)
	}
	catchUp(t, from(head), l, string(of[1].Stream("1"))+" Third")
	if _, err := consumer.Admin(p.state, consumer.Messages(p.store)).Seek(t.Context(), string(of[1]), consumer.ToPosition(head-1)); err != nil {
		t.Fatal(err)
	}
	catchUp(t, from(head), l, joined([]string{string(of[1].Stream("1")) + " Second", string(of[1].Stream("1")) + " Third", string(of[1].Stream("1")) + " Third"}))
}

// testLoss loses messages on one shard while a process runs.
func (p *proxied) testLoss(t *testing.T) {
	l, of := &handledLog{inTx: p.state}, p.categories()
	l.of = []string{string(of[0]), string(of[1])}
	c := startNamed(t, p.store, string(of[0]), of[0], consumer.EachTx(l.handleTx), consumer.WithCategories(of[1]), consumer.StateIn(p.state), consumer.WithPartitions(1))
	streams := [2]mdb.StreamName{of[0].Stream("1"), of[1].Stream("1")}
	for _, s := range streams {
		p.write(t, s, "First", "Second", "Third")
	}
	r := ruin{directPool(t, p.Shards[1])}
	sqlExec(t, r.Pool, `CREATE SCHEMA lost; CREATE TABLE lost.messages AS TABLE message_store.messages WITH NO DATA`)
	var want []string
	for _, s := range streams {
		want = append(want, string(s)+" First", string(s)+" Second", string(s)+" Third")
	}
	eventually(t, "all is handled and stored", func() bool {
		return l.sorted(t) == joined(want) && p.stored(t, of[0]) == p.end(t, 0) && p.stored(t, of[1]) == p.end(t, 1)
	})
	r.lose(t, p.end(t, 1)-1024)
	p.write(t, streams[1], "Other", "Fourth")
	p.write(t, streams[0], "Fourth")
	want = append(want, string(streams[1])+" Other", string(streams[1])+" Fourth", string(streams[0])+" Fourth")
	eventually(t, "it goes on after the last message that is left", func() bool {
		return l.sorted(t) == joined(want) && p.stored(t, of[1]) == p.end(t, 1)
	})
	if s := c.Stats(); s.Rewound != 1 {
		t.Errorf("%d checkpoints were moved back, want 1", s.Rewound)
	}
}

// stored returns the position of the consumer's checkpoint of a category with one partition.
func (p *proxied) stored(t *testing.T, category mdb.Category) int64 {
	t.Helper()
	return sqlValue[int64](t, p.state, `SELECT coalesce(max(position), 0) FROM message_store_consumers.checkpoints WHERE category = $1`, string(category))
}

// end returns the last position of a shard.
func (p *proxied) end(t *testing.T, shard int) int64 {
	t.Helper()
	return ruin{directPool(t, p.Shards[shard])}.end(t)
}

func (p *proxied) testFork(t *testing.T) {
	l, of := &handledLog{}, p.categories()
	stream := of[1].Stream("1")
	p.write(t, stream, "First", "Second")
	catchUp(t, p.consumer(t, p.store, of, consumer.Each(l.handle)), l, joined([]string{string(stream) + " First", string(stream) + " Second"}))
	ruin{directPool(t, p.Shards[1])}.lose(t, p.end(t, 1)-1024)
	p.write(t, stream, "Other")
	var fork *mdb.ForkError
	if err := p.consumer(t, p.store, of, consumer.Each(l.handle)).CatchUp(t.Context()); !errors.As(err, &fork) || fork.Category != of[1] {
		t.Errorf("got error %v, want a ForkError of the category", err)
	}
}

// An incident happens once, after a statement of a store about a category.
type incident struct {
	category string
	after    string
	do       func()
	then     *incident // after that
	mu       sync.Mutex
	done     bool
}

func (i *incident) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	if slices.Contains(d.Args, any(i.category)) {
		return context.WithValue(ctx, i, d.SQL)
	}
	return ctx
}

func (i *incident) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	sql, _ := ctx.Value(i).(string)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.after == "" || !strings.Contains(sql, i.after) {
		return
	}
	i.do()
	if i.after = ""; i.then != nil {
		i.after, i.do, i.then = i.then.after, i.then.do, i.then.then
	} else {
		i.done = true
	}
}

func (i *incident) happened() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.done
}

// testSessions checks that answers of different sessions, which may be of different servers, decide nothing.
func (p *proxied) testSessions(t *testing.T) {
	var of [2]mdb.Category
	shard := directPool(t, p.Shards[1])
	const (
		sessions = `FROM pg_stat_activity WHERE usename = 'message_store'`
		session  = "message_store_shard.session("
		found    = "SELECT index"
		there    = "ARRAY[9223372036854775807]"
	)
	crash := func() { // it ends the sessions that are there: the consumer may begin others at any time
		ended := sqlValue[[]int32](t, shard, `SELECT coalesce(array_agg(pid), '{}') FROM (SELECT pid, pg_terminate_backend(pid) `+sessions+`) AS s`)
		eventually(t, "the sessions have ended", func() bool {
			return sqlValue[int](t, shard, `SELECT count(*) `+sessions+` AND pid = ANY ($1)`, ended) == 0
		})
	}
	move := func(after string) *incident {
		return &incident{
			after: after,
			do: func() {
				sqlExec(t, p.store.Pool(), `INSERT INTO message_store_proxy.placement VALUES ($1, 0)`, string(of[1]))
			},
			then: &incident{after: session, do: func() { sqlExec(t, p.store.Pool(), `DELETE FROM message_store_proxy.placement`) }},
		}
	}
	for _, test := range []struct {
		what     string
		replayed bool
		incident *incident
		want     string
	}{
		{"a move while checkpoints are compared", false, move(found), "another session on the shard"},
		{"a crash while checkpoints are compared", false, &incident{after: found, do: crash}, "could not compare its checkpoints"},
		{"a move while a stream is replayed", true, move(there), ""},
		{"a crash while a stream is replayed", true, &incident{after: there, do: crash}, ""},
	} {
		t.Run(test.what, func(t *testing.T) {
			of = p.categories()
			stream := of[1].Stream("1")
			cfg := p.store.Pool().Config()
			test.incident.category = string(of[1])
			cfg.ConnConfig.Tracer = test.incident
			pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			var journal journal
			store, err := mdb.New(pool, mdb.WithLogger(slog.New(slog.NewTextHandler(&journal, nil))))
			if err != nil {
				t.Fatal(err)
			}
			l := &handledLog{fails: test.replayed}
			p.write(t, stream, "First", "Poison")
			c := p.consumer(t, store, of, consumer.Each(l.handle))
			if test.replayed {
				catchUp(t, c, l, string(stream)+" First")
				l.heal()
				if err := c.Replay(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			catchUp(t, c, l, joined([]string{string(stream) + " First", string(stream) + " Poison"}))
			if !test.incident.happened() || !strings.Contains(journal.String(), test.want) {
				t.Errorf("nothing was asked again: %s", journal.String())
			}
		})
	}
}

func (p *proxied) testState(t *testing.T) {
	never := consumer.Each(func(context.Context, mdb.Message) error { panic("not reached") })
	wantSetup := func(err error, problem string) {
		t.Helper()
		var setup *mdb.SetupError
		if !errors.As(err, &setup) || !strings.Contains(setup.Problem, problem) {
			t.Errorf("got error %v, want a SetupError that says %q", err, problem)
		}
	}
	for _, option := range [][]consumer.Option{nil, {consumer.InPositionStream("")}} {
		store := storeOf(t, p.URL)
		for range 2 { // the store knows what the database is after the first call
			c, err := consumer.New(store, "stateless", "proxied", never, option...)
			if err != nil {
				t.Fatal(err)
			}
			wantSetup(c.CatchUp(t.Context()), "a proxy cannot have the state")
		}
	}
	sqlExec(t, p.state, `ALTER FUNCTION message_store_shard.category_head(varchar, bigint) RENAME TO absent`)
	of := p.categories()
	wantSetup(p.consumer(t, p.store, of, never).CatchUp(t.Context()), "a shard lacks the functions")
	sqlExec(t, p.state, `ALTER FUNCTION message_store_shard.absent(varchar, bigint) RENAME TO category_head`)
	p.MakePlain(t.Context(), t)
	plain := storeOf(t, p.URL)
	for range 2 {
		c, err := consumer.New(plain, "plain", "proxied", never, consumer.StateIn(p.state))
		if err != nil {
			t.Fatal(err)
		}
		err = c.CatchUp(t.Context())
		wantSetup(err, "the functions of shards")
		if !errors.Is(err, mdb.ErrProxied) {
			t.Errorf("error %v does not wrap ErrProxied", err)
		}
	}
}

func storeOf(t *testing.T, url string) *mdb.Store {
	t.Helper()
	s, err := mdb.New(directPool(t, url))
	if err != nil {
		t.Fatal(err)
	}
	return s
}
