package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestCutGroup checks a group of writes whose connection breaks before or after each message of its
// exchange in turn, of either side: each write happens once or not at all, and its result says which.
func TestCutGroup(t *testing.T) {
	direct := []mdb.StoreOption{mdb.WithDirectSQL()}
	for _, shape := range []struct {
		name    string
		options []mdb.StoreOption
		retries bool
		refused bool // a trigger refuses one of the writes, so that there is a second transaction
		cold    bool // the group prepares its statements
	}{
		{name: "procedures"},
		{name: "procedures, retries", retries: true},
		{name: "procedures, refused", refused: true},
		{name: "procedures, retries, cold", retries: true, cold: true},
		{name: "direct SQL", options: direct},
		{name: "direct SQL, retries", options: direct, retries: true},
		{name: "direct SQL, retries, refused", options: direct, retries: true, refused: true},
		{name: "direct SQL, cold", options: direct, cold: true},
	} {
		t.Run(shape.name, func(t *testing.T) {
			t.Parallel()
			g := newCutGroup(t, shape.retries, shape.options...)
			g.refused = shape.refused
			stride, ways := 1, scaled(2, 5)
			if shape.refused { // whose exchange is long
				stride, ways = scaled(5, 1), 2
			}
			if testing.Short() {
				stride *= 4
			}
			prepare := func() { g.round(t, nil) }
			if shape.cold {
				prepare = g.pool.Reset
			}
			prepare()
			var points []cutPoint
			g.round(t, recording(&points))
			if len(points) < 20 {
				t.Fatalf("an exchange of %d messages: %v", len(points), points)
			}
			rng, cuts := rand.New(rand.NewPCG(*seedFlag, 32)), 0
			for _, v := range []verdict{{cut, false}, {cut, true}, {reset, false}, {halfClose, false}, {halfClose, true}}[:ways] {
				for i := rng.IntN(stride); i < len(points); i += stride {
					prepare()
					at := points[i]
					g.round(t, onNth(at.from, at.message, at.nth, v))
					cuts++
				}
			}
			if injected := int(g.proxy.injected.Load()); injected != cuts {
				t.Errorf("%d faults, want %d at %v", injected, cuts, points)
			}
			g.end(t)
		})
	}
}

// A cutGroup sends groups through a proxy that cuts them.
type cutGroup struct {
	*workload
	category mdb.Category
	old      uuid.UUID // an ID that is taken
	proxy    *proxy
	pool     *pgxpool.Pool // of one connection
	store    *mdb.Store
	retries  bool
	refused  bool

	rounds int
	sizes  []int  // of the groups of a round
	begin  func() // called when a group begins
}

// What a trigger refuses, and its error.
const (
	refusedType = "Refused"
	refusedCode = "MD999"
)

func newCutGroup(t *testing.T, retries bool, options ...mdb.StoreOption) *cutGroup {
	t.Helper()
	url := testdb.New(t)
	execute(t, connect(t, url), `
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '`+refusedCode+`'; END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON message_store.messages FOR EACH ROW WHEN (NEW.type = '`+refusedType+`') EXECUTE FUNCTION refuse()`)
	g := &cutGroup{
		workload: &workload{history: newHistory(), seed: *seedFlag, direct: url, abort: func(err error) { t.Error(err) }},
		category: mdbtest.Category("cut"), proxy: newProxy(t, url), retries: retries,
	}
	g.pool = openPool(t, g.proxy.url(), 1, configure, func(cfg *pgxpool.Config) {
		cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	})
	t.Cleanup(g.pool.Close)
	policy := noRetry
	if retries {
		policy = mdb.WithRetry(mdb.RetryPolicy{MinDelay: time.Millisecond})
	}
	var err error
	if g.store, err = mdb.New(g.pool, append(slices.Clip(options), mdb.WithGroupCommit(), mdb.WithHooks(g), policy)...); err != nil {
		t.Fatal(err)
	}
	old := g.newCall("old", 1)
	g.start(t, old)
	g.wait(old)
	g.old = old.ids[0]
	return g
}

// OnGroupStart records the group, and makes the proxy count the messages of its exchange.
func (g *cutGroup) OnGroupStart(ctx context.Context, group mdb.WriteGroup) context.Context {
	g.sizes = append(g.sizes, group.Writes)
	g.begin()
	return ctx
}

// OnGroupEnd does nothing.
func (g *cutGroup) OnGroupEnd(context.Context, mdb.WriteGroup, time.Duration, error) {}

// round sends a group, and calls decide for each message of the exchange. The writes have the outcomes that they must have if
// the connection breaks when decide says so.
func (g *cutGroup) round(t *testing.T, decide func(side, string) verdict) {
	t.Helper()
	g.rounds++
	g.sizes = nil
	broken, complete := false, false // whether the client has all answers when the connection breaks
	g.begin = func() {
		rows := 0
		g.proxy.onMessage(func(from side, message string) (v verdict) {
			if decide != nil {
				v = decide(from, message)
			}
			if message == "DataRow" {
				rows++
			}
			if v.do != pass {
				broken = true
				complete = !g.refused && v.after && message == "ReadyForQuery" && rows > 0 // not that of a Prepare
			}
			return v
		})
	}
	held, err := g.pool.Acquire(t.Context()) // so that the writes wait
	if err != nil {
		t.Fatal(err)
	}
	first := g.newCall("first", 1) // which takes the turn
	calls := []*groupedCall{g.newCall("plain", 1), g.newCall("batch", 3), g.newCall("pair", 2)}
	for _, c := range append(calls, first) {
		c.settles = true
	}
	calls[1].expects(mdb.NoStream)
	after, wrong, taken := g.newCall("batch", 1), g.newCall("wrong", 1), g.newCall("taken", 1)
	after.expects(2)
	wrong.expects(7)
	wrong.own = func(err error) bool { return errors.As(err, new(*mdb.WrongVersionError)) }
	taken.ids[0], taken.settles = g.old, true
	taken.own = func(err error) bool { return errors.As(err, new(*mdb.DuplicateIDError)) }
	calls = append(calls, after, wrong, taken)
	if g.refused {
		refused := g.newCall("refused", 1)
		refused.typ = refusedType
		refused.own = func(err error) bool {
			pgErr := (*pgconn.PgError)(nil)
			return errors.As(err, &pgErr) && pgErr.Code == refusedCode
		}
		calls = slices.Insert(calls, 1, refused)
	}
	g.start(t, first)
	for _, c := range calls {
		g.start(t, c)
	}
	held.Release()
	for _, c := range append(calls, first) {
		g.wait(c)
	}
	g.proxy.onMessage(nil)
	if len(g.sizes) != 1 || g.sizes[0] != len(calls) {
		t.Errorf("groups of %v writes, want one of %d", g.sizes, len(calls))
	}
	if broken {
		g.pool.Reset() // the connection may have broken without anybody's notice
	}
	first.check(t, false, false)
	for _, c := range calls {
		c.check(t, broken && !complete, g.retries)
	}
	g.resolve(t.Context(), g.store)
}

// A groupedCall is a call that writes. Its outcome is its own if it is as without faults.
type groupedCall struct {
	*op
	typ     string           // of its messages; "": of no interest
	own     func(error) bool // whether the error is its own; nil: it is written
	settles bool             // retries lead to its own outcome, whatever happens
	written []mdb.Written
	err     error
	done    chan struct{}
}

func (g *cutGroup) newCall(stream string, messages int) *groupedCall {
	o := &op{name: uuid.NewString(), stream: g.category.Stream(fmt.Sprint(stream, g.rounds))}
	for range messages {
		o.ids = append(o.ids, uuid.New())
	}
	return &groupedCall{op: o, done: make(chan struct{})}
}

func (c *groupedCall) expects(version int64) { c.expected = &version }

// recorded reports whether the call is in the history. The validators find messages of those that are not.
func (c *groupedCall) recorded(g *cutGroup) bool { return c.typ == "" && c.ids[0] != g.old }

// start starts a call, and returns when it waits for its turn or for a connection.
func (g *cutGroup) start(t *testing.T, c *groupedCall) {
	t.Helper()
	ms := c.messages()
	if c.typ != "" {
		ms[0].Type = c.typ
	}
	if c.recorded(g) {
		g.send(c.op)
	}
	limited, cancel := context.WithTimeout(t.Context(), testTimeout)
	ctx := &awaitedContext{Context: limited, awaited: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer cancel()
		c.written, c.err = g.store.WriteMessages(ctx, c.stream, ms, c.options()...)
	}()
	<-ctx.awaited
}

// wait waits for the end of the call, and records its outcome.
func (g *cutGroup) wait(c *groupedCall) {
	<-c.done
	g.met(c.err)
	switch {
	case !c.recorded(g):
	case c.err == nil:
		g.history.end(c.op, acked, c.written)
	case c.isUnknown():
		c.unknown = true
	default:
		g.history.end(c.op, failed, nil)
	}
}

func (c *groupedCall) isUnknown() bool { return errors.As(c.err, new(*mdb.UnknownOutcomeError)) }

// check checks the error of the call. An attempt of it may have been lost, and then it may have been retried.
func (c *groupedCall) check(t *testing.T, lost, retried bool) {
	t.Helper()
	switch {
	case c.own == nil && c.err == nil, c.own != nil && c.own(c.err):
		return
	case !lost, c.err == nil, retried && c.settles, retried && c.own != nil && !c.isUnknown():
		t.Errorf("%s: lost %t, retried %t: got error %v, want its own outcome", c.stream, lost, retried, c.err)
	}
}

// An awaitedContext tells when its end is first waited for.
type awaitedContext struct {
	context.Context
	once    sync.Once
	awaited chan struct{}
}

func (c *awaitedContext) Done() <-chan struct{} {
	c.once.Do(func() { close(c.awaited) })
	return c.Context.Done()
}

// end compares what the writes have come to with the store.
func (g *cutGroup) end(t *testing.T) {
	t.Helper()
	pool := openPool(t, g.direct, 1)
	defer pool.Close()
	store, err := readStore(t.Context(), pool, []string{string(g.category)})
	if err != nil {
		t.Fatal(err)
	}
	g.workload.store = store
	g.evaluate(t, "T31", int(g.proxy.injected.Load()), validate(g.history, store))
}
