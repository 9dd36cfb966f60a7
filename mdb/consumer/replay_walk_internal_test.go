package consumer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// A doom ends a process, seen from the server, before or after one of its statements: all its connections break. Statements
// that only read categories, and ticks that move nothing, do not count.
type doom struct {
	name string // of its connections

	mu    sync.Mutex
	at    int  // the number of the statement, from 1
	after bool // the server has answered
	count int
	last  string // the statement at which it ended
	dead  bool
	conns []net.Conn
}

var errDead = errors.New("the process has ended")

func (d *doom) attach(cfg *pgxpool.Config) {
	cfg.ConnConfig.Tracer = d
	cfg.ConnConfig.RuntimeParams["application_name"] = d.name
	cfg.ConnConfig.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.dead {
			_ = conn.Close()
			return conn, errDead
		}
		d.conns = append(d.conns, conn)
		return conn, nil
	}
}

func (d *doom) isDead() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dead
}

type doomKey struct{}

// begin counts a statement, and ends the process if this is the one before which it does.
func (d *doom) begin(ctx context.Context, sql string, counts bool) context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !counts || d.dead {
		return ctx
	}
	if d.count++; d.count != d.at {
		return ctx
	}
	d.last = sql
	if !d.after {
		d.die()
	}
	return context.WithValue(ctx, doomKey{}, true)
}

func (d *doom) end(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ctx.Value(doomKey{}) != nil && d.after {
		d.die()
	}
}

func (d *doom) die() {
	d.dead = true
	for _, c := range d.conns {
		_ = c.Close()
	}
}

func (d *doom) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	counts := !strings.Contains(q.SQL, "message_store.") && !strings.Contains(q.SQL, "get_category_messages") && !strings.HasPrefix(q.SQL, "SHOW")
	if strings.Contains(q.SQL, "message_store_consumers.tick") {
		moves, ok := q.Args[5].([]int32)
		counts = ok && len(moves) > 0
	}
	return d.begin(ctx, q.SQL, counts)
}

func (d *doom) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) { d.end(ctx) }

func (d *doom) TraceBatchStart(ctx context.Context, _ *pgx.Conn, b pgx.TraceBatchStartData) context.Context {
	return d.begin(ctx, b.Batch.QueuedQueries[0].SQL, true)
}
func (d *doom) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (d *doom) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchEndData) {
	d.end(ctx)
}

// A replayWalk runs a consumer that parks, passes, flushes, replays and continues live, and ends at a statement. Another process
// of the same instance continues then.
type replayWalk struct {
	*testing.T

	observer *pgxpool.Pool
	store    *mdb.Store // of the observer
	category mdb.Category
	form     string

	mu     sync.Mutex
	healed bool
	want   []string // IDs of the messages of the key, in order
	all    []string
}

func (w *replayWalk) handlers(d *doom) Handler {
	failing := func(m mdb.Message) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		switch {
		case d.isDead():
			return errDead
		case !w.healed && m.Stream == w.category.Stream("1") && m.Position == 0:
			return Permanent(errBroken)
		}
		return nil
	}
	if w.form != "Each" {
		return txHandlers(insertLog, failing)[w.form]
	}
	return Each(func(ctx context.Context, m mdb.Message) error {
		if err := failing(m); err != nil {
			return err
		}
		_, err := w.observer.Exec(context.WithoutCancel(ctx), insertLog, m.ID.String())
		return err
	})
}

// start runs the consumer.
func (w *replayWalk) start(d *doom) (wait func()) {
	w.Helper()
	pool := newPool(w, database(w), d.attach)
	store, err := mdb.New(pool)
	if err != nil {
		w.Fatal(err)
	}
	c, err := New(store, string(w.category), w.category, w.handlers(d), WithInstance("one"), WithLease(10*time.Second), // a slow machine must not end it
		WithPartitions(1), WithWorkers(2), WithDrainTimeout(0))
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(w.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := c.Run(ctx); !errors.Is(err, errDead) && !errors.Is(err, ErrReplaced) {
			w.Errorf("Run returns %v", err)
		}
	}()
	return func() {
		cancel(errDead)
		<-ended
	}
}

func (w *replayWalk) write(key bool, streams ...string) {
	w.Helper()
	for _, s := range streams {
		m := mdb.NewMessage("Happened", nil)
		if _, err := w.store.WriteMessage(w.Context(), w.category.Stream(s), m); err != nil {
			w.Fatal(err)
		}
		w.all = append(w.all, m.ID.String())
		if key {
			w.want = append(w.want, m.ID.String())
		}
	}
}

// until waits until a condition is true, or the process is dead, which it reports.
func (w *replayWalk) until(d *doom, what, sql string, args ...any) (dead bool) {
	w.Helper()
	for begun := time.Now(); !value[bool](w, w.observer, sql, args...); time.Sleep(5 * time.Millisecond) {
		if d.isDead() {
			return true
		}
		if time.Since(begun) > time.Minute {
			w.Fatalf("%s does not happen", what)
		}
	}
	return d.isDead()
}

const (
	countParked = `FROM message_store_consumers.parked AS p JOIN message_store_consumers.consumers AS c ON c.id = p.consumer WHERE c.name = $1`
	allLogged   = `SELECT NOT EXISTS (SELECT FROM unnest($1::text[]) AS w(id) WHERE NOT EXISTS (SELECT FROM public.log AS l WHERE l.message::text = w.id))`
)

// script does what the first process lives through, as far as it does.
func (w *replayWalk) script(d *doom) {
	w.Helper()
	name := string(w.category)
	if w.until(d, "the parking of both streams", `SELECT count(*) = 2 `+countParked, name) || w.until(d, "the other key", allLogged, w.all[len(w.all)-2:]) {
		return
	}
	w.mu.Lock()
	w.healed = true
	w.mu.Unlock()
	w.write(true, "1", "1+b")
	w.replay()
	if w.until(d, "the replay", `SELECT count(*) = 0 `+countParked, name) {
		return
	}
	w.write(true, "1+b", "1")
	w.until(d, "the live flow", allLogged, w.all)
}

func (w *replayWalk) replay() {
	w.Helper()
	c, err := New(w.store, string(w.category), w.category, w.handlers(&doom{}))
	if err == nil {
		err = c.Replay(w.Context())
	}
	if err != nil {
		w.Fatal(err)
	}
}

// run returns how many statements there were, or at which one the process ended.
func (w *replayWalk) run(d *doom) {
	w.Helper()
	w.write(true, "1", "1+b", "1")
	w.write(false, "2", "2")
	wait := w.start(d)
	w.script(d)
	w.mu.Lock()
	w.healed = true
	w.mu.Unlock()
	successor := &doom{}
	if d.isDead() {
		// A statement that the server has received may still park a message, which a replay must not precede.
		w.until(successor, "the end of the statements", `SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1)`, d.name)
		w.write(true, "1", "1+b")
		waitNext := w.start(successor)
		defer waitNext()
		if value[bool](w, w.observer, `SELECT EXISTS (SELECT FROM message_store_consumers.consumers WHERE name = $1)`, string(w.category)) {
			w.replay()
		}
	} else {
		successor = d
	}
	w.until(successor, "the end", allLogged, w.all)
	w.until(successor, "the end of the parking", `SELECT count(*) = 0 `+countParked, string(w.category))
	wait()
	rows, _ := w.observer.Query(w.Context(), `SELECT message::text FROM public.log WHERE message::text = ANY ($1) ORDER BY n`, w.all)
	log, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		w.Fatal(err)
	}
	if w.form != "Each" && len(log) != len(w.all) {
		w.Errorf("dead %t before or after (%t) %q: %d effects of %d messages", d.dead, d.after, d.last, len(log), len(w.all))
	}
	var order []string // of the first effects of the key
	times := make(map[string]int)
	for _, id := range log {
		if times[id]++; times[id] == 1 && slices.Contains(w.want, id) {
			order = append(order, id)
		}
		if times[id] > 2 {
			w.Errorf("at %q: a message is handled %d times", d.last, times[id])
		}
	}
	if !slices.Equal(order, w.want) {
		w.Errorf("dead %t before or after (%t) %q: got %v, want %v", d.dead, d.after, d.last, order, w.want)
	}
}

// TestReplayWalk ends a process before and after each of its statements while a stream is parked, the checkpoint
// passes it, and it is replayed and becomes live again. It checks that another process continues in order, that
// nothing is lost, and that transactions have their effects once.
func TestReplayWalk(t *testing.T) {
	t.Parallel()
	for _, form := range []string{"Each", "EachTx", "BatchTx", "EachQueued"} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			walk := func(t *testing.T, at int, after bool) int {
				t.Helper()
				category := mdbtest.Category("walk")
				w := &replayWalk{T: t, observer: newPool(t, database(t)), category: category, form: form}
				var err error
				if w.store, err = mdb.New(w.observer); err != nil {
					t.Fatal(err)
				}
				d := &doom{name: string(category), at: at, after: after}
				w.run(d)
				return d.count
			}
			n := walk(t, 0, false)
			step := 12
			switch {
			case allWalks():
				step = 1
			case testing.Short():
				step = 24
			}
			for at := 1; at <= n+1; at += step {
				for _, after := range []bool{false, true} {
					t.Run(fmt.Sprint(at, after), func(t *testing.T) {
						t.Parallel()
						walk(t, at, after)
					})
				}
			}
			t.Logf("%d statements", n)
		})
	}
}
