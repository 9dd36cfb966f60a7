package doorbell

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// A database is a model of a server with the trigger, for the connections of bells. Time is
// that of synctest.
type database struct {
	mu       sync.Mutex
	conns    map[*fakeConn]bool
	busy     map[string]bool // categories whose keys a writer has
	missing  bool            // the trigger
	always   bool            // the trigger fires for replicated rows
	ascii    bool            // the encoding is not UTF-8
	deaf     bool            // notifications get lost
	refuses  error           // connections
	capacity int             // of the lock table
	foreign  int             // locks that are no keys
	latency  time.Duration   // of each statement

	counters
}

// counters count what the connections of bells have done. Tests read them with counts.
type counters struct {
	connects, looks, shares int
	most                    int // locks at the same time
}

func newDatabase() *database {
	return &database{conns: make(map[*fakeConn]bool), busy: make(map[string]bool), capacity: 6400}
}

// bell returns a bell on the database, whose log is written to log.
func (db *database) bell(log *strings.Builder) *Bell {
	b := newBell(100)
	if log != nil {
		b.config.Logger = slog.New(slog.NewTextHandler(log, nil))
	}
	b.config.Fallback = time.Hour
	b.shards[0].connect = db.connect
	b.config.Notify = func(_ context.Context, _ int, payload string) (time.Time, error) {
		db.notify(payload)
		return time.Now(), nil
	}
	return b
}

func (db *database) connect(context.Context) (server, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.connects++
	if db.refuses != nil {
		return nil, db.refuses
	}
	c := &fakeConn{db: db, keys: make(map[string]bool), payloads: make(chan string, 10_000), killed: make(chan struct{})}
	db.conns[c] = true
	return c, nil
}

func (db *database) notify(payload string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for c := range db.conns {
		if c.listens && !db.deaf {
			c.payloads <- payload
		}
	}
}

// write writes to a stream of the category, and reports whether it rang.
func (db *database) write(category string) (rings bool) {
	db.mu.Lock()
	for c := range db.conns {
		rings = rings || c.keys[category]
	}
	rings = rings && !db.missing
	db.mu.Unlock()
	if rings {
		db.notify(category + "-1")
	}
	return rings
}

func (db *database) kill() {
	db.mu.Lock()
	defer db.mu.Unlock()
	for c := range db.conns {
		close(c.killed)
	}
}

// keys returns the number of keys of all connections. db.mu is held.
func (db *database) keys() (keys int) {
	for c := range db.conns {
		keys += len(c.keys)
	}
	return keys
}

func (db *database) get(f func() int) int {
	db.mu.Lock()
	defer db.mu.Unlock()
	return f()
}

func (db *database) counts() counters {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.counters
}

func (db *database) set(f func()) {
	db.mu.Lock()
	defer db.mu.Unlock()
	f()
}

type fakeConn struct {
	db       *database
	keys     map[string]bool
	listens  bool
	payloads chan string
	killed   chan struct{}
}

var errKilled = errors.New("terminated")

// statement takes the database's latency, and fails if the connection was killed.
func (c *fakeConn) statement(ctx context.Context, do func() error) error {
	_ = backoff.Sleep(ctx, c.db.latency)
	select {
	case <-c.killed:
		return errKilled
	default:
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.db.mu.Lock()
	defer c.db.mu.Unlock()
	return do()
}

func (c *fakeConn) listen(ctx context.Context) error {
	return c.statement(ctx, func() error {
		c.listens = true
		return nil
	})
}

func (c *fakeConn) look(ctx context.Context) (f facts, err error) {
	err = c.statement(ctx, func() error {
		db := c.db
		db.looks++
		f = facts{enabled: !db.missing, always: db.always, utf8: !db.ascii, locks: lockTable{capacity: db.capacity, foreign: db.foreign}}
		for other := range db.conns {
			if other != c && len(other.keys) > 0 {
				f.locks.bells++
				f.locks.others += len(other.keys)
			}
		}
		return nil
	})
	return f, err
}

func (c *fakeConn) share(ctx context.Context, categories []string) (granted []bool, err error) {
	err = c.statement(ctx, func() error {
		c.db.shares++
		for _, category := range categories {
			if c.keys[category] {
				panic("shared twice: " + category)
			}
			if !c.db.busy[category] {
				if c.db.foreign+c.db.keys() >= c.db.capacity {
					return &pgconn.PgError{Code: "53200", Message: "out of shared memory"}
				}
				c.keys[category] = true
			}
			granted = append(granted, !c.db.busy[category])
		}
		c.db.most = max(c.db.most, c.db.foreign+c.db.keys())
		return nil
	})
	return granted, err
}

func (c *fakeConn) unlock(ctx context.Context, categories []string) error {
	return c.statement(ctx, func() error {
		for _, category := range categories {
			if !c.keys[category] {
				panic("not shared: " + category)
			}
			delete(c.keys, category)
		}
		return nil
	})
}

func (c *fakeConn) wait(ctx, until context.Context) (*string, error) {
	select {
	case payload := <-c.payloads:
		return &payload, nil
	default:
	}
	select {
	case payload := <-c.payloads:
		return &payload, nil
	case <-c.killed:
		return nil, errKilled
	case <-until.Done():
		return nil, ctx.Err()
	}
}

func (c *fakeConn) close(context.Context) {
	c.db.mu.Lock()
	defer c.db.mu.Unlock()
	delete(c.db.conns, c)
}

// A loop is what a subscription does, and counts its reads.
type loop struct {
	*Sleeper
	t     *testing.T
	reads chan int // messages to be found by a read, at most one
	done  chan struct{}
	end   context.CancelFunc
}

// subscribe starts a subscription whose strategy is a poll every second.
func subscribe(t *testing.T, b *Bell, name string) *loop {
	t.Helper()
	return subscribeEvery(t, b, name, time.Second)
}

// subscribeEvery starts a subscription whose strategy is a poll in each interval.
func subscribeEvery(t *testing.T, b *Bell, name string, interval time.Duration) *loop {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	l := &loop{Sleeper: b.on(name), t: t, reads: make(chan int, 1), done: make(chan struct{}), end: end}
	go func() {
		defer close(l.done)
		defer l.Close()
		for ctx.Err() == nil {
			l.BeforeRead()
			found := 0
			select {
			case found = <-l.reads:
			default:
			}
			_ = l.Sleep(ctx, interval, found, nil, nil)
		}
	}()
	return l
}

func (l *loop) stop() {
	l.end()
	<-l.done
}

// pass lets time pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func wantStats(t *testing.T, what string, b *Bell, want Stats) {
	t.Helper()
	got := b.Stats()
	got.Notifications, got.Reads = want.Notifications, want.Reads
	if got != want {
		t.Errorf("%s: got %+v, want %+v", what, got, want)
	}
}

// run runs a test of bells on a model database.
func run(t *testing.T, test func(t *testing.T, db *database)) {
	t.Helper()
	pgtest.NeedNoServer(t)
	synctest.Test(t, func(t *testing.T) { test(t, newDatabase()) })
}

// subscribeAll starts a subscription to each of the categories a0, a1, … and stops them at
// the end of the test.
func subscribeAll(t *testing.T, b *Bell, prefix string, n int) map[string]*loop {
	t.Helper()
	loops := make(map[string]*loop)
	for i := range n {
		name := fmt.Sprint(prefix, i)
		loops[name] = subscribe(t, b, name)
	}
	return loops
}

func stopAll(loops map[string]*loop) {
	for l := range maps.Values(loops) {
		l.end()
	}
	for l := range maps.Values(loops) {
		<-l.done
	}
}
