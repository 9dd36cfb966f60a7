package mdb_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// A spy records the statements of a pool's connections. It recognizes them by their
// texts.
type spy struct {
	mu        sync.Mutex
	positions []int64    // those from which pages were read
	batches   [][]string // the statements sent in one batch
	onHead    func()     // if set, is called before and after a query of the head
}

type spyKey struct{}

func (s *spy) attach(cfg *pgxpool.Config) { cfg.ConnConfig.Tracer = s }

func isHead(sql string) bool {
	return strings.HasSuffix(sql, "position DESC LIMIT 1") && !strings.Contains(sql, "data")
}

func (s *spy) read(args []any) {
	if len(args) < 3 {
		return
	}
	if position, ok := args[1].(int64); ok { // only in reads
		s.mu.Lock()
		defer s.mu.Unlock()
		s.positions = append(s.positions, position)
	}
}

func (s *spy) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	s.read(data.Args)
	if s.onHead == nil || !isHead(data.SQL) {
		return ctx
	}
	s.onHead()
	return context.WithValue(ctx, spyKey{}, true)
}

func (s *spy) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	if ctx.Value(spyKey{}) != nil {
		s.onHead()
	}
}

func (s *spy) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	var statements []string
	for _, q := range data.Batch.QueuedQueries {
		statements = append(statements, q.SQL)
		s.read(q.Arguments)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches = append(s.batches, statements)
	return ctx
}

func (s *spy) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (s *spy) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// often is for tests that wait for the next poll.
var often = mdb.WithPolling(poll.Constant(time.Millisecond))

// TestSubscriptionOverForeignMessages checks a filter that leaves out 100,000 messages: a
// subscription reads past them once, later reads begin after them, and so does a
// subscription that continues at the position OnProgress received.
func TestSubscriptionOverForeignMessages(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	const foreign = 100_000
	url := testdb.New(t)
	pool := newPool(t, url)
	exec(t, pool, `INSERT INTO message_store.messages (stream_name, position, type) SELECT 'account-1', i, 'Foreign' FROM generate_series(0, $1 - 1) AS i`, foreign)
	exec(t, pool, `ANALYZE message_store.messages`)
	hash := mdb.Hash64("1")
	member := int(1 - max(hash, -hash)%2)
	other := 2
	for ; max(mdb.Hash64(fmt.Sprint(other)), -mdb.Hash64(fmt.Sprint(other)))%2 != int64(member); other++ {
		continue
	}

	type recorded struct {
		spy      spy
		handled  []int64
		progress []int64
		told     chan int64
		dropped  chan error
		first    int64 // the progress after the foreign messages
		last     int64 // after all messages
		want     []int64
	}
	ctx, end := context.WithCancelCause(t.Context())
	defer end(errStopped)
	running := make(map[string]*recorded)
	start := func(name string, position func(mdb.Message) int64, first, last int64, want []int64,
		subscribe func(s *mdb.Store, h mdb.Handler, progress mdb.SubscribeOption) error,
	) {
		for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
			r := &recorded{told: make(chan int64, 100), dropped: make(chan error, 1), first: first, last: last, want: want}
			s := newStore(t, newPool(t, url, oneConnection, r.spy.attach), append(opts, often, mdb.WithConditions())...)
			go func() {
				r.dropped <- subscribe(s, func(_ context.Context, m mdb.Message) error {
					r.handled = append(r.handled, position(m))
					return nil
				}, onPosition(func(_ context.Context, position int64) error {
					r.progress = append(r.progress, position)
					r.told <- position
					return nil
				}))
			}()
			running[name+", "+way] = r
		}
	}
	untilTold := func(where func(*recorded) int64) {
		t.Helper()
		for name, r := range running {
			for told := int64(-1); told < where(r); {
				select {
				case told = <-r.told:
				case err := <-r.dropped:
					t.Fatalf("%s: subscription ended with %v", name, err)
				case <-time.After(testTimeout):
					t.Fatalf("%s: OnProgress is never called with %d", name, where(r))
				}
			}
		}
	}
	// Three more messages will have these global positions, and two of them these
	// positions in the stream.
	const notWanted, elsewhere, wanted = foreign + 1, foreign + 2, foreign + 3
	global := func(m mdb.Message) int64 { return m.GlobalPosition }
	for name, tt := range map[string]struct {
		opts []mdb.CategorySubscribeOption
		want []int64
	}{
		"correlation":           {[]mdb.CategorySubscribeOption{mdb.WithCorrelation("origin")}, []int64{elsewhere}},
		"group":                 {[]mdb.CategorySubscribeOption{mdb.AsConsumerGroup(member, 2)}, []int64{elsewhere}},
		"correlation and group": {[]mdb.CategorySubscribeOption{mdb.WithCorrelation("origin"), mdb.AsConsumerGroup(member, 2)}, []int64{elsewhere}},
		"condition":             {[]mdb.CategorySubscribeOption{mdb.WithCondition("type = 'Wanted'")}, []int64{elsewhere, wanted}},
		"condition and group":   {[]mdb.CategorySubscribeOption{mdb.WithCondition("type = 'Wanted'"), mdb.AsConsumerGroup(member, 2)}, []int64{elsewhere}},
	} {
		start(name, global, foreign, wanted, tt.want, func(s *mdb.Store, h mdb.Handler, progress mdb.SubscribeOption) error {
			return s.SubscribeToCategory(ctx, "account", h, append(tt.opts, progress)...)
		})
	}
	start("stream", func(m mdb.Message) int64 { return m.Position }, foreign-1, foreign+1, []int64{foreign + 1},
		func(s *mdb.Store, h mdb.Handler, progress mdb.SubscribeOption) error {
			return s.SubscribeToStream(ctx, "account-1", h, mdb.WithCondition("type = 'Wanted'"), progress)
		})

	untilTold(func(r *recorded) int64 { return r.first })
	s := newStore(t, pool)
	write(t, s, "account-1", mdb.NewMessage("Foreign", nil))
	untilTold(func(r *recorded) int64 { return r.first + 1 })
	m := mdb.NewMessage("Wanted", nil)
	m.Metadata = map[string]string{"correlationStreamName": "origin-1"}
	write(t, s, mdb.Category("account").Stream(fmt.Sprint(other)), m)
	if w := write(t, s, "account-1", mdb.NewMessage("Wanted", nil)); w.GlobalPosition != wanted {
		t.Fatalf("last message: got global position %d, want %d", w.GlobalPosition, wanted)
	}
	untilTold(func(r *recorded) int64 { return r.last })
	end(errStopped)
	for name, r := range running {
		if err := <-r.dropped; !errors.Is(err, errStopped) {
			t.Errorf("%s: got error %v, want %v", name, err, errStopped)
		}
		if !slices.Equal(r.handled, r.want) {
			t.Errorf("%s: got %v, want %v", name, r.handled, r.want)
		}
		if r.progress[0] != r.first || !slices.IsSorted(r.progress) || len(slices.Compact(slices.Clone(r.progress))) != len(r.progress) {
			t.Errorf("%s: got progress %v, want it to begin with %d and to grow", name, r.progress, r.first)
		}
		for i, position := range r.spy.positions {
			if i > 0 && position <= r.first {
				t.Errorf("%s: got read %d begins at %d, want it after the foreign messages", name, i, position)
			}
		}
		if len(r.spy.positions) < 3 {
			t.Errorf("%s: got reads from %v", name, r.spy.positions)
		}
	}
}

// TestSubscriptionLooksAtTheHeadFirst checks that a filtered read queries the head before
// the messages, in the same round trip. In the opposite order, the position would skip
// messages written between the two. The look at the last known message comes after them.
func TestSubscriptionLooksAtTheHeadFirst(t *testing.T) {
	t.Parallel()
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		for name, filter := range map[string]mdb.CategoryOption{
			"group":                     mdb.AsConsumerGroup(0, 1),
			"correlation":               mdb.WithCorrelation("origin"),
			"condition":                 mdb.WithCondition("true"),
			"correlation and condition": mdb.CategoryOptions{mdb.WithCorrelation("origin"), mdb.WithCondition("true")},
			"stream":                    nil,
		} {
			t.Run(way+", "+name, func(t *testing.T) {
				t.Parallel()
				var sp spy
				var w wire
				s := newStore(t, newPool(t, testdb.Shared(t), sp.attach, w.attach, oneConnection), append(opts, mdb.WithConditions())...)
				stream := mdbtest.Category("head").Stream("1")
				m := mdb.NewMessage("Happened", nil)
				m.Metadata = map[string]string{"correlationStreamName": "origin-1"}
				write(t, s, stream, m)
				var polls []int64 // the round trips before each
				ctx, end := context.WithCancelCause(t.Context())
				polling := mdb.WithPolling(func(poll.Seen) time.Duration {
					if polls = append(polls, w.trips.Load()); len(polls) == 5 {
						end(errStopped)
					}
					return time.Millisecond
				})
				handled := 0
				handle := func(context.Context, mdb.Message) error { handled++; return nil }
				var err error
				if filter == nil {
					err = s.SubscribeToStream(ctx, stream, handle, mdb.WithCondition("true"), polling)
				} else {
					err = s.SubscribeToCategory(ctx, stream.Category(), handle, filter, polling)
				}
				if err != errStopped || handled != 1 { //nolint:errorlint // the cause itself
					t.Fatalf("got error %v after %d messages", err, handled)
				}
				for i := 2; i < len(polls); i++ { // the second read prepares a statement
					if n := polls[i] - polls[i-1]; n != 1 {
						t.Errorf("got %d round trips for a read, want 1", n)
					}
				}
				for i, want := range []string{"head page", "head page look", "head page look"} {
					var kinds []string
					for _, sql := range sp.batches[i] {
						switch {
						case strings.Contains(sql, "'on'"):
							kinds = append(kinds, "on")
						case strings.Contains(sql, "'off'"):
							kinds = append(kinds, "off")
						case isHead(sql):
							kinds = append(kinds, "head")
						case strings.Contains(sql, "data"):
							kinds = append(kinds, "page")
						default:
							kinds = append(kinds, "look")
						}
					}
					if name != "group" && name != "correlation" {
						want = "on " + want + " off"
					}
					if got := strings.Join(kinds, " "); got != want {
						t.Errorf("got the batch %q, want %q", got, want)
					}
				}
			})
		}
	}
}

// TestSubscriptionOnReplicas checks that no message is passed over, and none delivered twice,
// if the connections of the pool lead to two servers, one of which has fewer messages than the
// other, as with replicas of different age.
func TestSubscriptionOnReplicas(t *testing.T) {
	t.Parallel()
	pools := []*pgxpool.Pool{newPool(t, testdb.New(t)), newPool(t, testdb.New(t))}
	for _, pool := range pools {
		pretendStandby(t, pool, true)
	}
	insert := func(t *testing.T, pool *pgxpool.Pool, global int) {
		t.Helper()
		exec(t, pool, `INSERT INTO message_store.messages (global_position, stream_name, position, type, data, metadata, id, time)
			VALUES ($1::int, 'account-1', $1::int - 1, 'Happened', 'null', '{"correlationStreamName": "origin-1"}', md5($1::text)::uuid, '2026-01-02 03:04:05')`, global)
	}
	for global := 1; global <= 5; global++ {
		insert(t, pools[0], global)
		if global <= 3 {
			insert(t, pools[1], global)
		}
	}
	type running struct {
		*recipient
		polled chan struct{}
	}
	recipients := make(map[string]running)
	for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		for first := range int64(2) {
			for name, filter := range map[string]mdb.CategoryOption{
				"stream": nil, "stream with a condition": nil,
				"category":    mdb.CategoryOptions{},
				"group":       mdb.AsConsumerGroup(0, 1),
				"correlation": mdb.WithCorrelation("origin"),
				"condition":   mdb.WithCondition("type = 'Happened'"),
			} {
				var connects atomic.Int64
				pool := newPool(t, pools[0].Config().ConnString(), pretendedStandby, func(cfg *pgxpool.Config) {
					cfg.MaxConns = 2
					cfg.AfterRelease = func(*pgx.Conn) bool { return false } // each call has a new connection
					cfg.BeforeConnect = func(_ context.Context, conn *pgx.ConnConfig) error {
						// Two to each, because a read whose last known message is missing looks for it again.
						conn.Database = pools[(2*first+connects.Add(1))/2%2].Config().ConnConfig.Database
						return nil
					}
				})
				s := newStore(t, pool, append(opts, mdb.WithConditions())...)
				polled := make(chan struct{}, 1000)
				polling := mdb.WithPolling(func(poll.Seen) time.Duration {
					select {
					case polled <- struct{}{}:
					default:
					}
					return 10 * time.Millisecond
				})
				var r *recipient
				switch name {
				case "stream":
					r = receiveStream(t, s, "account-1", polling)
				case "stream with a condition":
					r = receiveStream(t, s, "account-1", polling, mdb.WithCondition("type = 'Happened'"))
				default:
					r = receiveCategory(t, s, "account", filter, polling)
				}
				recipients[fmt.Sprintf("%s, %s, first %d", way, name, first)] = running{r, polled}
			}
		}
	}
	check := func(name string, r running, from, to int64) {
		t.Helper()
		for i, m := range r.next(t, int(to-from+1)) {
			if m.GlobalPosition != from+int64(i) {
				t.Fatalf("%s: got message %d, want %d", name, m.GlobalPosition, from+int64(i))
			}
		}
	}
	for name, r := range recipients {
		check(name, r, 1, 5)
		for range 4 { // both servers have been read
			<-r.polled
		}
	}
	// One is first with a message, and then the other.
	insert(t, pools[0], 6)
	for name, r := range recipients {
		check(name, r, 6, 6)
	}
	for global := 4; global <= 7; global++ {
		insert(t, pools[1], global)
	}
	insert(t, pools[0], 7)
	for name, r := range recipients {
		check(name, r, 7, 7)
		r.stop(t)
	}
}

// newRole creates a role that may call Message DB's functions and nothing else.
func newRole(t testing.TB, db database) string {
	t.Helper()
	role := string(mdbtest.Category("role"))
	exec(t, db, `CREATE ROLE `+role)
	t.Cleanup(func() {
		_, _ = db.Exec(context.Background(), `DROP OWNED BY `+role)
		if _, err := db.Exec(context.Background(), `DROP ROLE `+role); err != nil {
			t.Error(err)
		}
	})
	exec(t, db, `GRANT USAGE ON SCHEMA message_store TO `+role)
	exec(t, db, `GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA message_store TO `+role)
	return role
}

// TestSubscriptionWithoutTheTable checks a role that can only call the procedures, as on a
// proxy: the progress is that of the messages that pass the filter.
func TestSubscriptionWithoutTheTable(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	pool := newPool(t, url)
	admin := newStore(t, pool)
	exec(t, pool, `ALTER FUNCTION message_store.get_category_messages SECURITY DEFINER`)
	role := newRole(t, pool)
	want := make(map[mdb.StreamName]int64)
	for i := range 20 {
		stream := mdb.Category("account").Stream(fmt.Sprint(i))
		w := write(t, admin, stream, mdb.NewMessage("Happened", nil))
		if hash := mdb.Hash64(fmt.Sprint(i)); max(hash, -hash)%2 == 0 {
			want[stream] = w.GlobalPosition
		}
	}
	for _, opts := range [][]mdb.CategorySubscribeOption{
		{mdb.AsConsumerGroup(0, 2)},
		{mdb.AsConsumerGroup(0, 2), mdb.WithCondition("true")},
	} {
		s := newStore(t, newPool(t, url, asRole(role)), mdb.WithConditions(), often)
		progress := make(chan int64, 100)
		r := receiveCategory(t, s, "account", append(opts, mdb.OnRetry(func(r mdb.Retry) { t.Errorf("got retry %v, want none", r) }),
			onPosition(func(_ context.Context, position int64) error { progress <- position; return nil }))...)
		last := int64(0)
		for _, m := range r.next(t, len(want)) {
			if want[m.Stream] != m.GlobalPosition {
				t.Errorf("got message %+v, want none", m)
			}
			last = m.GlobalPosition
		}
		if told := <-progress; told != last {
			t.Errorf("got progress %d, want %d", told, last)
		}
		r.stop(t)
	}

	s := newStore(t, newPool(t, url, asRole(role)))
	// Only the table shows where a category ends.
	err := s.SubscribeToCategory(t.Context(), "account", func(context.Context, mdb.Message) error { return nil }, mdb.FromEnd())
	wantCode(t, err, "42501")
}

// TestSubscriptionLosesTheTable checks that a role which has read the head of a category, and
// then may not for a while, as during an upgrade, waits until it may again. If it went on
// without the head, its progress would no longer pass what a filter leaves out.
func TestSubscriptionLosesTheTable(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	pool := newPool(t, url)
	admin := newStore(t, pool)
	exec(t, pool, `ALTER FUNCTION message_store.get_category_messages SECURITY DEFINER`)
	role := newRole(t, pool)
	exec(t, pool, `GRANT SELECT ON message_store.messages TO `+role)
	s := newStore(t, newPool(t, url, asRole(role)), often)
	foreign := func() int64 { return write(t, admin, "account-1", mdb.NewMessage("Foreign", nil)).GlobalPosition }
	progress, retries := make(chan int64, 100), make(chan mdb.Retry, 100)
	first := foreign()
	r := receiveCategory(t, s, "account", mdb.WithCorrelation("origin"),
		mdb.OnRetry(func(r mdb.Retry) { retries <- r }),
		onPosition(func(_ context.Context, position int64) error { progress <- position; return nil }))
	if got := <-progress; got != first {
		t.Fatalf("got progress %d, want %d", got, first)
	}
	exec(t, pool, `REVOKE SELECT ON message_store.messages FROM `+role)
	select {
	case retry := <-retries:
		wantCode(t, retry.Err, "42501")
	case err := <-r.dropped:
		t.Fatalf("the subscription ended: %v", err)
	case <-time.After(testTimeout):
		t.Fatal("the subscription goes on without the head")
	}
	second := foreign()
	exec(t, pool, `GRANT SELECT ON message_store.messages TO `+role)
	select {
	case got := <-progress:
		if got != second {
			t.Errorf("got progress %d, want %d", got, second)
		}
	case <-time.After(testTimeout):
		t.Fatal("the progress does not pass the message that is left out")
	}
	r.stop(t)
}

// TestSubscriptionsAfterInstallation checks a subscription that begins before Message DB
// is installed: what it may read is determined later.
func TestSubscriptionsAfterInstallation(t *testing.T) {
	t.Parallel()
	pool := newPool(t, testdb.Empty(t))
	s := newStore(t, pool, often)
	h := func(context.Context, mdb.Message) error { return nil }
	wantError[*mdb.SetupError](t, s.SubscribeToCategory(t.Context(), "account", h, mdb.WithCorrelation("origin")))
	install(t, pool)
	w := write(t, s, "account-1", mdb.NewMessage("Foreign", nil))
	told := int64(0)
	r := receiveCategory(t, s, "account", mdb.WithCorrelation("origin"),
		onPosition(func(_ context.Context, position int64) error { told = position; return nil }))
	r.untilLive(t) // which is after the page, and after its OnProgress
	r.stop(t)
	if told != w.GlobalPosition {
		t.Errorf("got progress %d, want %d, that of the message that is left out", told, w.GlobalPosition)
	}
}
