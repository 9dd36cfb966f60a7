package mdb

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// silenceLimit is how long a statement may be without a byte from the server before the
	// store asks about it.
	silenceLimit = 10 * time.Second
	// silenceTicks is how often the store looks at its statements within that time.
	silenceTicks = 10
	// silenceGrowth is the most that the time grows to while the answer is to wait.
	silenceGrowth = 16
)

// A watcher finds statements of a store that get no answer. It then asks the server, on a
// connection of its own, whether it still executes them, and gives up the connections of
// those that it does not.
//
// A statement costs it two short critical sections and nothing else: no timer, no goroutine
// and no reading of the clock. While there are statements, a timer looks at the list of
// them. It sees whether bytes have moved since the last time by a counter of the connection.
type watcher struct {
	pool   *pgxpool.Pool
	logger *slog.Logger

	// question asks about sessions by their pids. Tests replace it.
	question func(ctx context.Context, pids []int32) reply

	mu      sync.Mutex // guards the rest, and the calls that are listed
	limit   time.Duration
	calls   []*call
	timer   *time.Timer // nil until the first statement
	ticking bool
	asking  bool // one question at a time
}

// A call is what is known of a connection while it executes a statement. Each connection has
// one, which its statements use in turn. Its lock is that of its watcher, so stores that share
// a pool do not share it.
type call struct {
	watcher  *watcher
	pg       *pgconn.PgConn
	pid      uint32
	standby  bool // whether the server was a standby when it accepted the connection
	opened   time.Time
	observed *observedConn // nil if Configure has not prepared the pool
	lowest   interface{ Close() error }

	index    int    // in the list
	number   uint64 // of the statement
	moved    uint64 // when it was last seen
	since    time.Time
	patience time.Duration // since then; 0: it was not seen yet
	givenUp  string        // why; empty: it was not
	paused   bool          // whether it is not known to execute anything
}

const callKey = "github.com/messagedb-go/messagedb/mdb call"

// callOf returns the call of a connection. What it does not know yet is read in the
// goroutine of a statement.
func (w *watcher) callOf(pg *pgconn.PgConn) *call {
	data := pg.CustomData()
	if c, ok := data[callKey].(*call); ok && c.watcher == w {
		return c
	}
	c := &call{watcher: w, pg: pg, pid: pg.PID(), standby: pg.ParameterStatus("in_hot_standby") == "on", opened: time.Now()}
	c.observed, c.lowest = observed(pg.Conn())
	data[callKey] = c
	return c
}

func newWatcher(pool *pgxpool.Pool, logger *slog.Logger) *watcher {
	return &watcher{
		pool: pool, logger: logger, limit: silenceLimit,
		question: func(ctx context.Context, pids []int32) reply { return askServer(ctx, pool, pids) },
	}
}

// begin watches a connection until end is called with the result.
func (w *watcher) begin(conn *pgx.Conn) *call {
	c := w.callOf(conn.PgConn())
	w.add(c)
	return c
}

func (w *watcher) add(c *call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.number++
	c.patience, c.givenUp, c.paused = 0, "", false
	c.index = len(w.calls)
	w.calls = append(w.calls, c)
	if !w.ticking {
		w.ticking = true
		if tick := w.limit / silenceTicks; w.timer == nil {
			w.timer = time.AfterFunc(tick, w.tick)
		} else {
			w.timer.Reset(tick)
		}
	}
}

// pause says whether the caller of a transaction may now compute. A connection that Configure
// has prepared shows by itself whether it waits for the server.
func (w *watcher) pause(c *call, paused bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.paused = paused
}

// end returns the error of what was watched, with the reason if the connection was given up.
func (w *watcher) end(ctx context.Context, c *call, err error) error {
	gaveUp, err := w.remove(c, err)
	if gaveUp {
		// The answer may have arrived just before. The pool must not keep a connection that no statement can use.
		_ = c.pg.Close(context.WithoutCancel(ctx))
	}
	return err
}

// watch watches the connection while f runs.
func (w *watcher) watch(ctx context.Context, conn *pgx.Conn, f func() error) (err error) {
	c := w.begin(conn)
	defer func() { err = w.end(ctx, c, err) }()
	return f()
}

func (w *watcher) remove(c *call, err error) (gaveUp bool, _ error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := len(w.calls) - 1
	w.calls[c.index] = w.calls[last]
	w.calls[c.index].index = c.index
	w.calls[last] = nil
	w.calls = w.calls[:last]
	return c.givenUp != "", c.explain(err)
}

// explain adds the reason to err if the connection was given up. An error of the server is
// the statement's answer.
func (c *call) explain(err error) error {
	if err == nil || c.givenUp == "" || errors.As(err, new(*pgconn.PgError)) || errors.As(err, new(*silenceError)) {
		return err
	}
	return &silenceError{c.givenUp, err}
}

// explain is the method of the same name of a call that may not have ended.
func (w *watcher) explain(c *call, err error) error {
	if w == nil || c == nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return c.explain(err)
}

// A silenceError is the error of a statement whose connection was given up.
type silenceError struct {
	reason string
	err    error
}

func (e *silenceError) Error() string {
	return "no answer, and " + e.reason + ", so the connection was given up: " + e.err.Error()
}
func (e *silenceError) Unwrap() error { return e.err }

// tick looks at the statements, and asks about those that wait in silence.
func (w *watcher) tick() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.calls) == 0 {
		w.ticking = false
		return
	}
	w.timer.Reset(w.limit / silenceTicks)
	due := false
	for now, i := time.Now(), 0; i < len(w.calls); i++ {
		c := w.calls[i]
		c.look(now, w.limit)
		due = due || c.due(now)
	}
	if due && !w.asking {
		w.asking = true
		go w.ask()
	}
}

// look notes whether bytes have moved since it was last called. Without Configure it cannot
// see that. Between two of its reads and writes, a statement does not wait for the server.
func (c *call) look(now time.Time, limit time.Duration) {
	moved, waits := c.moved, !c.paused
	if c.observed != nil {
		moved, waits = c.observed.moved.Load(), c.observed.waiting.Load() > 0
	}
	if c.patience == 0 || moved != c.moved || !waits {
		c.moved, c.since, c.patience = moved, now, limit
	}
}

func (c *call) due(now time.Time) bool {
	return c.patience > 0 && c.givenUp == "" && now.Sub(c.since) >= c.patience
}

// A suspected is a call at the time of a question.
type suspected struct {
	*call
	number uint64
}

// ask asks the server about all statements that wait in silence.
func (w *watcher) ask() {
	w.mu.Lock()
	var suspects []suspected
	for now, i := time.Now(), 0; i < len(w.calls); i++ {
		if c := w.calls[i]; c.due(now) {
			suspects = append(suspects, suspected{c, c.number})
		}
	}
	w.mu.Unlock()
	pids := make([]int32, len(suspects))
	for i, s := range suspects {
		pids[i] = int32(s.pid)
	}
	a := reply{err: errQuestionExits, unasked: true}
	defer func() { w.judge(suspects, &a) }() // also if a hook of the pool ends the goroutine: otherwise nothing is asked any more
	a = w.question(context.Background(), pids)
}

// judge does what follows from the answer, for those statements that still wait.
func (w *watcher) judge(suspects []suspected, a *reply) {
	w.mu.Lock()
	now, waiting, given, reason := time.Now(), 0, 0, ""
	for _, s := range suspects {
		if s.number != s.call.number || !w.has(s.call) {
			continue
		}
		if s.look(now, w.limit); !s.due(now) {
			continue
		}
		s.givenUp = a.verdict(s.call, now)
		if s.givenUp == "" {
			s.since, s.patience = now, min(2*s.patience, silenceGrowth*w.limit)
			waiting++
			continue
		}
		given, reason = given+1, s.givenUp
		s.close()
	}
	w.asking = false
	w.mu.Unlock()
	if waiting > 0 {
		w.logger.Debug("statements without an answer: the server executes them, so they wait on", "statements", waiting)
	}
	if given > 0 {
		w.logger.Warn("statements without an answer: their connections were given up", "connections", given, "reason", reason)
		w.suspect()
	}
}

// suspect replaces the pool's connections: the idle ones may be dead too, and each would
// have to wait in silence. If none is idle, the pool may just be busy. The pool may be shared
// with the rest of the program, so a warning says why its connections were closed.
func (w *watcher) suspect() {
	if idle := w.pool.Stat().IdleConns(); idle > 0 {
		w.logger.Warn("connections may be dead: replacing the pool's connections", "connections", idle)
		w.pool.Reset()
	}
}

func (w *watcher) has(c *call) bool { return c.index < len(w.calls) && w.calls[c.index] == c }

// close closes the connection below everything else, so that nothing is written to it, and
// nothing waits for the server.
func (c *call) close() {
	if c.observed != nil {
		c.observed.givenUp.Store(true)
	}
	_ = c.lowest.Close()
}
