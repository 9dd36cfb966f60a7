package mdb_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/scan"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// What failovers select of messages, as conditions in SQL.
const (
	everything = "true"
	ofAccount  = "message_store.category(m.stream_name) = 'account'"
	ofBoth     = "message_store.category(m.stream_name) IN ('account', 'fast')"
)

// A failover is a primary and its standby, with subscriptions of all kinds, which reach the
// primary through a relay. They are to the category account, if not to all.
type failover struct {
	*pgtest.Pair

	relay     *pgtest.Relay
	category  mdb.Category
	old       *pgxpool.Pool // of the server that is the primary at first
	next      *pgxpool.Pool // of the other one, see promote
	witnesses []*witness
	pooler    *pgtest.PgBouncer // which some reads pass; nil: none is on the machine
	large     bool              // so many messages that pages of one take too long
}

func newFailover(t *testing.T) *failover {
	t.Helper()
	p := testdb.Pair(t)
	f := &failover{
		Pair: p, relay: pgtest.NewRelay(t, p.Primary), category: "account",
		old: newPool(t, p.Primary.URL("postgres")),
	}
	if found := pgtest.PgBouncers(t); len(found) > 0 {
		f.pooler = &found[len(found)-1]
	} else if os.Getenv(allFailovers) != "" {
		t.Fatal("PgBouncer is not on the machine: install it, or set MDB_TEST_PGBOUNCER to its path")
	} else {
		t.Log("PgBouncer is not on the machine, so no reads pass one")
	}
	if testdb.Official() { // PgBouncer rejects the search path of a connection
		exec(t, f.old, `ALTER ROLE postgres SET search_path = message_store, public`)
	}
	return f
}

// A place is a message in a server's table.
type place struct {
	ID               uuid.UUID
	Stream           mdb.StreamName
	Position, Global int64
	Time             time.Time
}

// selected returns the messages that a condition selects.
func selected(t testing.TB, db database, condition string) []place {
	t.Helper()
	rows, _ := db.Query(t.Context(), `SELECT m.id, m.stream_name, m.position, m.global_position, m.time AT TIME ZONE 'utc'
FROM message_store.messages AS m WHERE `+condition+` ORDER BY m.global_position`)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[place])
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		all[i].Time = all[i].Time.UTC() // as in a Message, for ==
	}
	return all
}

// write writes n messages, one after the other to ten streams. Filters select every second
// or third of them.
func (f *failover) write(t testing.TB, pool *pgxpool.Pool, n int) {
	t.Helper()
	exec(t, pool, `SELECT message_store.write_message(gen_random_uuid()::varchar, $1 || '-' || i % 10, CASE i / 10 % 2 WHEN 0 THEN 'Selected' ELSE 'Foreign' END,
	jsonb_build_object('n', i), jsonb_build_object('correlationStreamName', CASE i % 3 WHEN 0 THEN 'origin-1' ELSE 'other-1' END))
FROM generate_series(1, $2) AS i`, string(f.category), n)
}

// writeForeign writes n messages to a stream that no filter selects.
func (f *failover) writeForeign(t testing.TB, pool *pgxpool.Pool, n int) {
	t.Helper()
	exec(t, pool, `SELECT message_store.write_message(gen_random_uuid()::varchar, s.name, 'Foreign', '{}', '{"correlationStreamName": "other-1"}')
FROM generate_series(1, $2) AS i, (SELECT $1 || '-' || n AS name FROM generate_series(0, 9) AS n
	WHERE n <> 4 AND @message_store.hash_64(n::varchar) % 3 <> 1 LIMIT 1) AS s`, string(f.category), n)
}

// align writes messages of another category until the sequence of global positions has the
// number of values left that are logged already.
func (f *failover) align(t testing.TB, pool *pgxpool.Pool, left int) {
	t.Helper()
	for value[int](t, pool, `SELECT log_cnt FROM message_store.messages_global_position_seq`) != left {
		exec(t, pool, `SELECT message_store.write_message(gen_random_uuid()::varchar, 'filler-1', 'Happened', '{}')`)
	}
}

// promote kills the primary and promotes the standby. Subscriptions reach it after arrive.
func (f *failover) promote(t testing.TB) {
	t.Helper()
	if err := f.Primary.Kill(); err != nil {
		t.Fatal(err)
	}
	f.Promote(t)
	f.next = newPool(t, f.Standby.URL("postgres"))
}

func (f *failover) arrive() { f.relay.Switch(f.Standby) }

// A witnessKind is a kind of subscription.
type witnessKind struct {
	name    string
	selects string // its messages, as a condition in SQL
	stream  mdb.StreamName
	filter  mdb.CategoryOption // or nil
	all     []mdb.AllOption    // of a subscription to all categories
	workers int
	batch   int
	pooler  bool
	direct  bool
}

// reads returns what the subscription reads, with what its filter leaves out.
func (k witnessKind) reads() string {
	switch {
	case k.all == nil:
		return ofAccount
	case k.selects == ofBoth:
		return ofBoth
	}
	return everything
}

func (k witnessKind) filtered() bool {
	return k.filter != nil || k.all != nil && k.selects != k.reads()
}

// kinds returns all kinds of subscriptions.
func (f *failover) kinds() (kinds []witnessKind) {
	stream := f.category.Stream("4")
	all := []witnessKind{
		{name: "plain", selects: ofAccount, batch: 7},
		{name: "pages of one", selects: ofAccount, batch: 1},
		{name: "group", selects: ofAccount + " AND @message_store.hash_64(message_store.cardinal_id(m.stream_name)) % 3 = 1", filter: mdb.AsConsumerGroup(1, 3), batch: 7},
		{name: "correlation", selects: ofAccount + " AND message_store.category(m.metadata->>'correlationStreamName') = 'origin'", filter: mdb.WithCorrelation("origin")},
		{name: "condition", selects: ofAccount + " AND m.type = 'Selected'", filter: mdb.WithCondition("type = 'Selected'"), batch: 7},
		{name: "stream", selects: "m.stream_name = '" + string(stream) + "'", stream: stream},
		{name: "stream with a condition", selects: "m.stream_name = '" + string(stream) + "' AND m.type = 'Selected'", stream: stream, filter: mdb.WithCondition("type = 'Selected'"), batch: 2},
		{name: "workers", selects: ofAccount, workers: 3, batch: 7},
		{name: "workers of a group", selects: ofAccount + " AND @message_store.hash_64(message_store.cardinal_id(m.stream_name)) % 3 = 1", filter: mdb.AsConsumerGroup(1, 3), workers: 2},
		{name: "all", selects: everything, all: []mdb.AllOption{}, batch: 7},
		{name: "all with workers", selects: everything, all: []mdb.AllOption{}, workers: 3},
		{name: "categories", selects: ofBoth, all: []mdb.AllOption{mdb.InCategories("account", "fast")}, batch: 7},
		{name: "types", selects: "m.type = 'Selected'", all: []mdb.AllOption{mdb.OfTypes("Selected")}, batch: 7},
	}
	if f.pooler != nil {
		for _, k := range all {
			switch k.name {
			case "plain", "group", "correlation", "workers", "all":
				k.name, k.pooler = k.name+", pooler", true
				all = append(all, k)
			}
		}
	}
	for _, k := range all {
		if f.large && k.batch == 1 {
			continue
		}
		if k.batch == 0 {
			k.batch = mdb.DefaultBatchSize
		}
		kinds = append(kinds, k)
		if k.all == nil { // which always reads the table
			k.name, k.direct = k.name+", direct", true
			kinds = append(kinds, k)
		}
	}
	return kinds
}

// A witness is a subscription that records what its callbacks receive.
type witness struct {
	witnessKind

	pool    *pgxpool.Pool
	store   *mdb.Store
	journal journal
	end     context.CancelCauseFunc
	dropped chan error
	changed chan struct{} // has a value after a change of what follows

	mu         sync.Mutex
	handled    []mdb.Message
	forks      []mdb.Fork
	forkedAt   []int    // how many messages were handled when each fork was reported
	checkpoint string   // the last one
	progress   []string // all of them
	lives      int      // how often it was live
}

// watch starts a subscription of each kind. The option may be one with a checkpoint.
func (f *failover) watch(t testing.TB, start func(k witnessKind) string) {
	t.Helper()
	pooled := ""
	for _, k := range f.kinds() {
		url := f.relay.URL("postgres")
		prepare := []func(*pgxpool.Config){func(cfg *pgxpool.Config) { cfg.MaxConns = 3 }}
		if k.pooler {
			if pooled == "" {
				pooled = f.pooler.Start(t, url, "transaction")
			}
			url = pooled
		}
		w := &witness{witnessKind: k, dropped: make(chan error, 1), changed: make(chan struct{}, 1)}
		if k.pooler {
			w.pool = barePool(t, url, append(prepare, func(cfg *pgxpool.Config) { mdb.Configure(cfg, mdb.BehindPooler()) })...)
		} else {
			w.pool = newPool(t, url, prepare...)
		}
		opts := []mdb.StoreOption{mdb.WithConditions(), often, w.journal.option()}
		if k.direct {
			opts = append(opts, mdb.WithDirectSQL())
		}
		w.store = newStore(t, w.pool, opts...)
		from := ""
		if start != nil {
			from = start(k)
		}
		w.run(t, f.category, from)
		f.witnesses = append(f.witnesses, w)
	}
}

// run runs the subscription until the end of the test, or until stop.
func (w *witness) run(t testing.TB, category mdb.Category, from string) {
	t.Helper()
	ctx, end := context.WithCancelCause(context.Background())
	w.end = end
	common := []mdb.SubscribeOption{
		mdb.WithBatchSize(w.batch),
		mdb.OnFork(func(_ context.Context, fork mdb.Fork) error {
			w.change(func() {
				w.forks = append(w.forks, fork)
				w.forkedAt = append(w.forkedAt, len(w.handled))
			})
			return nil
		}),
		mdb.OnLive(func(live bool) {
			if live {
				w.change(func() { w.lives++ })
			}
		}),
	}
	handler := func(_ context.Context, m mdb.Message) error {
		w.change(func() { w.handled = append(w.handled, m) })
		return nil
	}
	var subscribe func() error
	switch {
	case w.all != nil:
		var c mdb.AllCheckpoint
		if err := c.UnmarshalText([]byte(from)); err != nil {
			t.Fatal(err)
		}
		opts := []mdb.AllSubscribeOption{mdb.AllOptions(w.all), mdb.AfterAllCheckpoint(c), mdb.OnAllProgress(func(_ context.Context, c mdb.AllCheckpoint) error {
			w.change(func() { w.checkpoint = c.String(); w.progress = append(w.progress, w.checkpoint) })
			return nil
		})}
		if w.workers > 0 {
			opts = append(opts, mdb.WithWorkers(w.workers))
		}
		for _, o := range common {
			opts = append(opts, o)
		}
		subscribe = func() error { return w.store.SubscribeToAll(ctx, handler, opts...) }
	case w.stream != "":
		opts := []mdb.StreamSubscribeOption{mdb.OnStreamProgress(func(_ context.Context, c mdb.StreamCheckpoint) error {
			w.change(func() { w.checkpoint = c.String(); w.progress = append(w.progress, w.checkpoint) })
			return nil
		})}
		if w.filter != nil {
			opts = append(opts, w.filter.(mdb.StreamSubscribeOption))
		}
		if from != "" {
			var c mdb.StreamCheckpoint
			if err := c.UnmarshalText([]byte(from)); err != nil {
				t.Fatal(err)
			}
			opts = append(opts, mdb.AfterStreamCheckpoint(c))
		}
		for _, o := range common {
			opts = append(opts, o)
		}
		subscribe = func() error { return w.store.SubscribeToStream(ctx, w.stream, handler, opts...) }
	default:
		opts := []mdb.CategorySubscribeOption{mdb.OnProgress(func(_ context.Context, c mdb.CategoryCheckpoint) error {
			w.change(func() { w.checkpoint = c.String(); w.progress = append(w.progress, w.checkpoint) })
			return nil
		})}
		if w.filter != nil {
			opts = append(opts, w.filter.(mdb.CategorySubscribeOption))
		}
		if w.workers > 0 {
			opts = append(opts, mdb.WithWorkers(w.workers))
		}
		if from != "" {
			var c mdb.CategoryCheckpoint
			if err := c.UnmarshalText([]byte(from)); err != nil {
				t.Fatal(err)
			}
			opts = append(opts, mdb.AfterCheckpoint(c))
		}
		for _, o := range common {
			opts = append(opts, o)
		}
		subscribe = func() error { return w.store.SubscribeToCategory(ctx, category, handler, opts...) }
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.dropped <- subscribe()
	}()
	t.Cleanup(func() { end(errStopped); <-ended })
}

func (w *witness) change(f func()) {
	w.mu.Lock()
	f()
	w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// until waits until a condition holds, which is evaluated under the lock.
func (w *witness) until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	timeout := time.NewTimer(testTimeout)
	defer timeout.Stop()
	for {
		w.mu.Lock()
		done, n, forks := holds(), len(w.handled), len(w.forks)
		w.mu.Unlock()
		if done {
			return
		}
		select {
		case <-w.changed:
		case err := <-w.dropped:
			t.Fatalf("%s: ended before %s: %v", w.name, what, err)
		case <-timeout.C:
			t.Fatalf("%s: not %s in time, with %d messages and %d forks\n%s", w.name, what, n, forks, w.journal.String())
		}
	}
}

// stop ends the subscription, after which its record does not change.
func (w *witness) stop(t testing.TB) {
	t.Helper()
	w.end(errStopped)
	select {
	case err := <-w.dropped:
		if err != errStopped { //nolint:errorlint // the cause itself
			t.Errorf("%s: got error %v (%T), want the cause", w.name, err, err)
		}
	case <-time.After(testTimeout):
		t.Fatalf("%s: did not end", w.name)
	}
}

// catchUp waits until each subscription has handled all that it is to receive: what it wants
// of the old server, and of the other one what the old one does not have.
func (f *failover) catchUp(t testing.TB) {
	t.Helper()
	for _, w := range f.witnesses {
		want := f.wanted(t, w)
		w.until(t, fmt.Sprintf("%d messages", len(want)), func() bool { return len(w.handled) >= len(want) })
	}
}

// arriveAtEnd waits until each subscription to the category knows its last message, also if
// a filter leaves it out.
func (f *failover) arriveAtEnd(t testing.TB) {
	t.Helper()
	all := selected(t, f.old, everything)
	end := all[len(all)-1].Global
	for _, w := range f.witnesses {
		if w.stream == "" {
			w.until(t, "at the end", func() bool { return strings.HasPrefix(w.checkpoint, fmt.Sprint(end, ":")) })
		}
	}
}

// A past is what a server contained, by the condition that selects it.
type past map[string][]place

// remember reads what all kinds of subscriptions select.
func (f *failover) remember(t testing.TB, db database) past {
	t.Helper()
	p := past{everything: selected(t, db, everything), ofAccount: selected(t, db, ofAccount)}
	for _, k := range f.kinds() {
		if p[k.selects] == nil {
			p[k.selects] = selected(t, db, k.selects)
		}
	}
	return p
}

func (f *failover) wanted(t testing.TB, w *witness) []place {
	t.Helper()
	pool := f.old
	if f.next != nil {
		pool = f.next
	}
	return selected(t, pool, w.selects)
}

func without(all, some []place) (rest []place) {
	there := make(map[place]bool, len(some))
	for _, m := range some {
		there[m] = true
	}
	for _, m := range all {
		if !there[m] {
			rest = append(rest, m)
		}
	}
	return rest
}

func placeOf(m mdb.Message) place {
	return place{m.ID, m.Stream, m.Position, m.GlobalPosition, m.Time.UTC()}
}

func placesOf(messages []mdb.Message) []place {
	all := make([]place, len(messages))
	for i := range messages {
		all[i] = placeOf(messages[i])
	}
	return all
}

// position is what the subscription counts by.
func (w *witness) position(m place) int64 {
	if w.stream != "" {
		return m.Position
	}
	return m.Global
}

// compareDelivered reports what of the messages was not delivered, delivered twice, or out
// of order. With workers the order holds in each stream only.
func (w *witness) compareDelivered(t testing.TB, got, want []place) {
	t.Helper()
	if w.workers > 0 {
		byStream := func(a, b place) int { return strings.Compare(string(a.Stream), string(b.Stream)) }
		got, want = slices.Clone(got), slices.Clone(want)
		slices.SortStableFunc(got, byStream)
		slices.SortStableFunc(want, byStream)
	}
	if slices.Equal(got, want) {
		return
	}
	seen := make(map[place]int)
	for _, m := range got {
		seen[m]++
	}
	twice := 0
	for _, n := range seen {
		if n > 1 {
			twice++
		}
	}
	t.Errorf("%s: delivered %d messages, want %d: not delivered %d, delivered twice %d, unknown %d, or out of order",
		w.name, len(got), len(want), len(without(want, got)), twice, len(without(got, want)))
}

// compareProgress checks that each text of a checkpoint identifies a message at its position.
func compareProgress(t testing.TB, name string, texts []string, stream mdb.StreamName, all ...[]place) {
	t.Helper()
	there := make(map[source.Anchor]bool)
	for _, m := range slices.Concat(all...) {
		a := source.Anchor{Position: m.Global, ID: m.ID, Time: scan.Micros(m.Time)}
		if stream != "" {
			a.Position = m.Position
		}
		there[a] = stream == "" || m.Stream == stream
	}
	if len(texts) == 0 {
		t.Errorf("%s: no progress was reported", name)
	}
	for _, text := range texts {
		known, err := mdb.AnchorsOf(text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(known) == 0 || !there[known[0]] || !strings.HasPrefix(text, fmt.Sprint(known[0].Position, ":")) {
			t.Errorf("%s: %s does not identify the message at its position, but %v", name, text, known)
		}
	}
}
