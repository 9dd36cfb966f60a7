package consumer_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// historyForms are the forms of handlers that the tests of failovers and restores use.
var historyForms = []string{"Each", "EachTx", "EachQueued"}

// A past is a primary and its standby, with consumers that reach one of them.
type past struct {
	*pgtest.Pair

	old, next *pgxpool.Pool // of the two servers; next is set by promote
	courses   []*course
}

func newPast(t *testing.T) *past {
	t.Helper()
	p := &past{Pair: testdb.Pair(t)}
	p.old = directPool(t, p.Primary.URL("postgres"))
	if testdb.Official() {
		sqlExec(t, p.old, `ALTER ROLE postgres SET search_path = message_store, public`)
		p.old.Reset()
	}
	conn, err := p.old.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if err := schema.InstallConsumers(t.Context(), conn.Conn()); err != nil {
		t.Fatal(err)
	}
	sqlExec(t, p.old, sqlEffects)
	return p
}

// promote promotes the standby. The primary remains one until it is killed.
func (p *past) promote(t *testing.T) {
	t.Helper()
	p.Promote(t)
	p.next = directPool(t, p.Standby.URL("postgres"))
}

// arrive lets the consumers reach the new primary, after the old one has failed.
func (p *past) arrive(t *testing.T) {
	t.Helper()
	for _, c := range p.courses {
		c.road.lead(p.Standby)
	}
	if err := p.Primary.Kill(); err != nil {
		t.Fatal(err)
	}
}

const sqlEffects = `CREATE TABLE public.effects (consumer text, id uuid, global_position bigint)`

func directPool(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.ConnConfig.RuntimeParams["application_name"] = "history"
	cfg.ConnConfig.RuntimeParams["search_path"] = "message_store, public" // for the functions of Message DB
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func sqlExec(t *testing.T, db *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func sqlValue[T any](t *testing.T, db *pgxpool.Pool, sql string, args ...any) (v T) {
	t.Helper()
	if err := db.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// A road leads new connections to a server. Those that are there remain.
type road struct{ to atomic.Pointer[[2]string] }

func (r *road) lead(to *pgtest.Server) {
	cfg, err := pgx.ParseConfig(to.URL("postgres"))
	if err != nil {
		panic(err)
	}
	r.set(cfg)
}

func (r *road) set(cfg *pgx.ConnConfig) {
	network, address := pgconn.NetworkAddress(cfg.Host, cfg.Port)
	r.to.Store(&[2]string{network, address})
}

// close lets new connections fail.
func (r *road) close() { r.to.Store(nil) }

func (r *road) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	to := r.to.Load()
	if to == nil {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	return new(net.Dialer).DialContext(ctx, to[0], to[1])
}

// A course is a consumer, which has the name of its category. The effect of a message is a row
// of the server to which the consumer's pool leads.
type course struct {
	name, form string
	road       road
	store      *mdb.Store
	opts       []consumer.Option
	positions  string // the position stream; empty: none
	runs       []*shift
	journal    journal

	mu    sync.Mutex
	calls map[uuid.UUID]int // of the handler
	gate  chan struct{}     // handlers wait until it is closed; nil: they do not
	cured atomic.Bool       // what could not be handled can be
}

// course adds a consumer of a form, without running it.
func (p *past) course(t *testing.T, scenario, form string, opts ...consumer.Option) *course {
	t.Helper()
	c := newCourse(t, scenario, form, p.Primary.URL("postgres"), opts...)
	p.courses = append(p.courses, c)
	return c
}

// newCourse returns a consumer that reaches a server on loopback. The lease is so long that it
// does not end: its end would lead to the rows, too.
func newCourse(t *testing.T, scenario, form, url string, opts ...consumer.Option) *course {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.ReplaceAll(scenario, " ", "_") + "_" + form
	c := &course{name: name, form: form, calls: make(map[uuid.UUID]int)}
	c.opts = append([]consumer.Option{consumer.WithLease(time.Hour), consumer.WithPartitions(4), consumer.WithWorkers(2)}, opts...)
	c.road.set(cfg.ConnConfig)
	cfg.MaxConns = 3
	cfg.ConnConfig.DialFunc = c.road.dial
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	c.store, err = mdb.New(pool, mdb.WithLogger(slog.New(slog.NewTextHandler(&c.journal, nil))))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// run runs the consumer in one more process, which shares the pool with the others.
func (c *course) run(t *testing.T) *shift {
	t.Helper()
	r := startNamed(t, c.store, c.name, mdb.Category(c.name), c.handler(), c.opts...)
	c.runs = append(c.runs, r)
	return r
}

var errPoison = errors.New("poison")

func (c *course) handler() consumer.Handler { return c.handlerIn(c.store.Pool()) }

// handlerIn returns a handler that writes effects into the pool's database, or with the transaction that it gets.
func (c *course) handlerIn(db *pgxpool.Pool) consumer.Handler {
	const insert = "INSERT INTO public.effects VALUES ($1, $2, $3)"
	switch c.form {
	case "Each":
		return consumer.Each(func(ctx context.Context, m mdb.Message) error {
			if err := c.enter(ctx, m); err != nil {
				return err
			}
			_, err := db.Exec(ctx, insert, c.name, m.ID, m.GlobalPosition)
			return err
		})
	case "EachTx":
		return consumer.EachTx(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
			if err := c.enter(ctx, m); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, insert, c.name, m.ID, m.GlobalPosition)
			return err
		})
	default:
		return consumer.EachQueued(func(b *pgx.Batch, m mdb.Message) error {
			if err := c.enter(context.Background(), m); err != nil {
				return err
			}
			b.Queue(insert, c.name, m.ID, m.GlobalPosition)
			return nil
		})
	}
}

func (c *course) enter(ctx context.Context, m mdb.Message) error {
	c.mu.Lock()
	c.calls[m.ID]++
	gate := c.gate
	c.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if m.Type == "Poison" && !c.cured.Load() || m.Type == "Worse" {
		return consumer.Permanent(errPoison)
	}
	return nil
}

// hold lets handlers wait until open.
func (c *course) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gate = make(chan struct{})
}

func (c *course) open() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gate != nil {
		close(c.gate)
		c.gate = nil
	}
}

func (c *course) called() (messages, most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.calls {
		most = max(most, n)
	}
	return len(c.calls), most
}

// write writes n messages, one after the other to ten streams.
func (c *course) write(t *testing.T, db *pgxpool.Pool, n int) {
	t.Helper()
	sqlExec(t, db, `SELECT message_store.write_message(gen_random_uuid()::varchar, $1 || '-' || i % 10, 'Happened', '{}') FROM generate_series(1, $2) AS i`, c.name, n)
}

// writePoison writes a message that cannot be handled, and two others after it, to a stream of
// its own.
func (c *course) writePoison(t *testing.T, db *pgxpool.Pool) {
	t.Helper()
	sqlExec(t, db, `SELECT message_store.write_message(gen_random_uuid()::varchar, $1 || '-poisoned', CASE i WHEN 1 THEN 'Poison' ELSE 'Happened' END, '{}') FROM generate_series(1, 3) AS i`, c.name)
}

func (c *course) parked(t *testing.T, db *pgxpool.Pool) int {
	t.Helper()
	return sqlValue[int](t, db, `SELECT count(*) FROM message_store_consumers.parked AS p JOIN message_store_consumers.consumers AS c ON c.id = p.consumer WHERE c.name = $1`, c.name)
}

// missing returns how many messages that are to be handled have no effect.
func (c *course) missing(t *testing.T, db *pgxpool.Pool) int {
	t.Helper()
	return sqlValue[int](t, db, `SELECT count(*) FROM message_store.messages AS m
WHERE message_store.category(m.stream_name) = $1 AND m.stream_name NOT LIKE '%poisoned'
	AND NOT EXISTS (SELECT FROM public.effects AS e WHERE e.consumer = $1 AND e.id = m.id)`, c.name)
}

// stored reports whether the checkpoints are at the end of the category.
func (c *course) stored(t *testing.T, db *pgxpool.Pool) bool {
	t.Helper()
	if c.positions != "" {
		return sqlValue[bool](t, db, `SELECT coalesce((
	SELECT (m.data ->> 'position')::bigint FROM message_store.messages AS m WHERE m.stream_name = $2 ORDER BY m.position DESC LIMIT 1
) >= (SELECT max(m.global_position) FROM message_store.messages AS m WHERE message_store.category(m.stream_name) = $1), false)`, c.name, c.positions)
	}
	return sqlValue[bool](t, db, `SELECT coalesce(bool_and(k.position >= ALL (
	SELECT m.global_position FROM message_store.messages AS m
	WHERE message_store.category(m.stream_name) = $1 AND @message_store.hash_64(message_store.cardinal_id(m.stream_name)) % o.partitions = k.partition
)), false) FROM message_store_consumers.consumers AS o JOIN message_store_consumers.checkpoints AS k ON k.consumer = o.id WHERE o.name = $1`, c.name)
}

// settled waits until all messages of a server are handled, what cannot be handled is parked,
// and the checkpoints are stored.
func (c *course) settled(t *testing.T, db *pgxpool.Pool, parked int) {
	t.Helper()
	c.until(t, "everything is handled and stored", func() bool {
		return c.missing(t, db) == 0 && c.parked(t, db) == parked && c.stored(t, db)
	})
}

// until waits for a condition.
func (c *course) until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for begun := time.Now(); !f(); <-time.After(5 * time.Millisecond) {
		for _, r := range c.runs {
			select {
			case err := <-r.ended:
				r.ended <- err
				t.Fatalf("%s: not %s: Run has ended: %v\n%s", c.name, what, err, c.journal.String())
			default:
			}
		}
		if time.Since(begun) > time.Minute {
			t.Fatalf("%s: not in time: %s, with %+v\n%s", c.name, what, c.runs[0].Stats(), c.journal.String())
		}
	}
}

// rest waits until no handler runs for longer than a first retry waits.
func (c *course) rest(t *testing.T) {
	t.Helper()
	rested := 0
	c.until(t, "no handler runs", func() bool {
		if rested++; c.runs[0].Stats().Running > 0 {
			rested = 0
		}
		return rested == 50
	})
}

// check ends the processes, and checks the effects on a server: each message has one, or at
// least one with Each, and no others have one, unless with Each.
func (c *course) check(t *testing.T, db *pgxpool.Pool) {
	t.Helper()
	for _, r := range c.runs {
		r.end(t)
	}
	if n := c.missing(t, db); n != 0 {
		t.Errorf("%s: %d messages were not handled", c.name, n)
	}
	if c.form == "Each" {
		return
	}
	if n := sqlValue[int](t, db, `SELECT count(*) FROM (SELECT FROM public.effects WHERE consumer = $1 GROUP BY id HAVING count(*) > 1) AS o`, c.name); n != 0 {
		t.Errorf("%s: %d messages have more than one effect", c.name, n)
	}
	if n := sqlValue[int](t, db, `SELECT count(*) FROM public.effects AS e WHERE e.consumer = $1 AND NOT EXISTS (SELECT FROM message_store.messages AS m WHERE m.id = e.id)`, c.name); n != 0 {
		t.Errorf("%s: %d messages that are lost have an effect", c.name, n)
	}
}

func (c *course) rewound() (n int64) {
	for _, r := range c.runs {
		n += r.Stats().Rewound
	}
	return n
}

// A journal is what a store has logged.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}
