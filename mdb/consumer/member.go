package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// ErrReplaced is returned by Run if another process has taken over: one that has joined with the same instance, see
// [WithInstance], or has written to the same position stream, see [InPositionStream].
var ErrReplaced = errors.New("consumer: another process has taken over")

// The causes of the end of handlers' contexts, beside ErrLeaseLost.
var (
	errReread = errors.New("consumer: the state was read again, because what the server had confirmed may be lost")
	errMoved  = errors.New("consumer: the checkpoint was moved by somebody else")
)

const (
	// handlersEnd is how long handlers may run after their contexts have ended.
	handlersEnd = 5 * time.Second
	// busyInterval is the longest time between ticks while checkpoints move.
	busyInterval = time.Second
	// quietInterval is the longest time between ticks if not. It bounds how long it takes to
	// see changes without a notification.
	quietInterval = 2 * time.Second
	// catchUpInterval is that of CatchUp.
	catchUpInterval = 50 * time.Millisecond
	// newsDelay is how long a tick that follows a notification waits, because members that share what is free notify each other
	// several times. The balances come first.
	newsDelay = 20 * time.Millisecond
	// suspectDelay is the longest wait before a member looks whether another one is dead.
	suspectDelay = 200 * time.Millisecond
)

var (
	tickRetry = backoff.Policy{Min: 50 * time.Millisecond, Max: time.Second}
	joinRetry = backoff.Policy{Min: 100 * time.Millisecond, Max: 5 * time.Second} // also of balances and releases
	// fenceRetry is the wait after a move that the fence has rejected although the row is as it was.
	fenceRetry = backoff.Policy{Min: 100 * time.Millisecond, Max: 30 * time.Second}
)

// A handling is what a member needs of its engine.
type handling interface {
	claim(row ledger.Row, parked []ledger.Parked)
	progress() []ledger.Move
	stored(moves []ledger.Move)
	kept(moves []ledger.Move)
	refused(moves []ledger.Move, cause error)
	fenced() (refused, stale []partition)
	surrender(ps []partition)
	replay(keys []ledger.Key)
	limit(barrier *int64, paused bool)
	isBusy() bool
	drained() []ledger.Move
	drop(ps []partition, cause error)
	forget(cause error)
	inHand() map[partition]int
	checkpoints() map[partition]int64
	parked() map[partition][]ledger.Parked
	run(ctx context.Context) error
}

// A reading is what a member needs of the reader of a category.
type reading interface {
	open(openings ...opening)
	close(ps []partition)
	limit(barrier *int64, paused bool)
	wake()
	run(ctx context.Context) error
}

type memberConfig struct {
	join  ledger.JoinParams // all but the member
	fixed bool              // the number of partitions may not be changed
	drain time.Duration
	toEnd bool // for CatchUp
	// anchored says that reads begin with the anchors of checkpoints, whose positions are those of the anchors.
	anchored bool
	now      clock
	logger   *slog.Logger
	random   func(most time.Duration) time.Duration

	// do calls f with the connection of the ticks. session says which connection it is, and
	// is 0 if there is none.
	do func(ctx context.Context, f func(session int64, p protocol) error) (session int64, err error)
	// reconnect lets new connections replace those of the store's pool, which may lead to another
	// server than the ticks, and that of the ticks too if ticks is set.
	reconnect func(ticks bool)
	// fatal returns the error with which Run ends because of an error of the first join, or
	// nil if it is transient.
	fatal   func(err error) error
	engine  handling
	readers func(partitions int) map[string]reading

	observer *observer // may be nil
}

// A member is one run of a consumer. Its methods are called by the goroutine of run, unless
// they say otherwise.
//
// # What a member believes
//
// It believes that what the server has confirmed is still there, until there is a doubt: a
// statement has failed without an answer, the connection is another one, the timeline is
// another one, or a reader has found that messages are lost. Then the server may have failed
// over to a standby without the last transactions, or was restored. So the member ends the
// handlers, forgets everything that it knows of its partitions, gets new epochs for them, reads their checkpoints and
// what is parked, and continues from there. The new epochs end what may still wait in a session that was lost: a stream
// that it parked later would be parked without the member's knowledge. Messages that are still there do not show whether
// checkpoints are, nor the other way round. Until then no handler is called and no checkpoint is moved:
// what is parked may be lost although a checkpoint is where the member knows it.
//
// If the fence rejects moves again and again although the checkpoint stays where it is, the ticks and the
// pool lead to different servers, or the message is not in the store. The member waits before it continues
// with the partition, and both get new connections.
type member struct {
	memberConfig

	lease  *lease
	self   atomic.Pointer[ledger.Member] // read by others
	next   uuid.UUID                     // the ID of the member that is about to join, also if that is repeated
	joined time.Time                     // when self has joined, by the clock of the server
	name   atomic.Pointer[string]        // of the consumer, which can be renamed; read by others
	counts counts

	woken   chan struct{} // contains a value if one of the following may have changed
	rung    atomic.Bool   // there was a notification: balance, and tick
	rewound atomic.Bool   // a reader has found that messages are lost

	engineEnds, readerEnds chan error
	endEngine, endReaders  context.CancelCauseFunc
	running                []<-chan struct{} // the goroutines of readers
	reads                  map[string]reading
	partitions             int       // of the consumer, for which there are readers
	layout                 int64     // likewise
	paused                 bool      // no handler may be called
	barrier                *int64    // none may be called for a message after it; nil: no limit
	resizing               bool      // handlers are running that were called for another number of partitions
	remindAt               time.Time // when that is logged; zero: not again

	session  int64       // of the connection that has answered last; 0: none
	timeline string      // of the server; empty: not known
	past     string      // the last one that was known
	doubt    error       // why what is known may be wrong; nil: there is no doubt
	doubtful atomic.Bool // there is a doubt; read by others
	diverged bool        // there is a doubt, because the timeline is another one or messages are lost
	answered int64       // the session of the last tick with an answer
	ticked   bool        // the last tick was answered, or the join
	evicted  bool        // the member is deleted, or has never joined
	rejoined bool        // it has joined again, and has not read its rows since
	lapsed   bool        // the lease has ended, and everything is forgotten
	failures int         // ticks or joins in a row
	lastBeat time.Time
	nextTick time.Time

	changes   int64
	balanceAt time.Time // when the share and the rows are looked at; zero: no reason to
	releaseAt time.Time // when partitions may be released
	rejected  int       // balances and releases in a row that the server has not executed
	astray    bool      // the ticks and the pool seem to lead to different servers

	held    map[partition]ledger.Row  // of which messages are handled
	before  map[partition]ledger.Row  // what was held before it was forgotten, to be compared
	fences  map[partition]fenced      // the last time that the fence has rejected something of it
	leaving map[int]bool              // numbers of partitions that are to be released
	drained map[partition]ledger.Move // what is to be released

	targets []int64          // of CatchUp, by category
	begun   map[string]int64 // where the process has first seen the categories' checkpoints, at least

	stopping bool
	result   error     // of run, once it is stopping
	cause    error     // with which handlers' contexts end
	left     bool      // by replacement, so that there is nothing to leave
	stopAt   time.Time // when the handlers' contexts end
	leaveAt  time.Time // when it is left although handlers are running; zero: their contexts have not ended
}

func newMember(c memberConfig) *member {
	m := &member{
		memberConfig: c,
		lease:        &lease{length: c.join.Lease, now: c.now},
		woken:        make(chan struct{}, 1),
		engineEnds:   make(chan error, 1),
		readerEnds:   make(chan error, len(c.join.Categories)),
		held:         make(map[partition]ledger.Row),
		before:       make(map[partition]ledger.Row),
		fences:       make(map[partition]fenced),
		begun:        make(map[string]int64),
		leaving:      make(map[int]bool),
		drained:      make(map[partition]ledger.Move),
		evicted:      true,
	}
	name := c.join.Name
	m.name.Store(&name)
	return m
}

// changed wakes the member. It may be called by any goroutine, and does not block.
func (m *member) changed() {
	select {
	case m.woken <- struct{}{}:
	default:
	}
}

// ring lets the member balance immediately, and tick soon. It may be called by any goroutine.
func (m *member) ring() {
	m.rung.Store(true)
	m.changed()
}

// forked is called by readers that have found that messages are lost.
func (m *member) forked() {
	m.rewound.Store(true)
	m.changed()
}

// run joins the consumer and works until ctx ends, or an error ends it. It returns after all
// goroutines that it has started.
func (m *member) run(ctx context.Context) error {
	for m.evicted {
		err := m.enter(ctx)
		if err == nil {
			break
		}
		if fatal := m.fatal(err); fatal != nil {
			return fatal
		}
		if m.fails(err); m.failures == 1 {
			m.logger.Warn("a consumer could not join, and retries", m.attrs("error", err)...)
		}
		if joinRetry.Wait(ctx, m.failures) != nil {
			return context.Cause(ctx)
		}
	}
	engineCtx, endEngine := context.WithCancelCause(context.WithoutCancel(ctx))
	m.endEngine = endEngine
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := errHandlerEnds
		defer func() { m.engineEnds <- err }()
		err = m.engine.run(engineCtx)
	}()
	// Nothing goes on after this goroutine either if a function such as a logger panics in it, or ends it.
	defer func() { <-ended }()
	defer endEngine(nil)
	defer m.stopReaders()
	m.startReaders(ctx)
	m.loop(ctx)
	return m.result
}

var errHandlerEnds = errors.New("consumer: a callback has ended a goroutine of the consumer")

// startReaders starts the readers for the number of partitions.
func (m *member) startReaders(ctx context.Context) {
	m.stopReaders()
	ctx, m.endReaders = context.WithCancelCause(context.WithoutCancel(ctx))
	m.reads = m.readers(m.partitions)
	for _, r := range m.reads {
		r.limit(m.barrier, m.paused)
		done := make(chan struct{})
		m.running = append(m.running, done)
		go func() {
			err := errHandlerEnds
			defer close(done)
			defer func() {
				if context.Cause(ctx) != errReadersEnd { //nolint:errorlint // it is that value
					m.readerEnds <- err
				}
			}()
			err = r.run(ctx)
		}()
	}
}

var errReadersEnd = errors.New("the readers end")

// stopReaders ends the readers, and waits for them.
func (m *member) stopReaders() {
	if m.endReaders != nil {
		m.endReaders(errReadersEnd)
	}
	for _, done := range m.running {
		<-done
	}
	m.running = nil
}

// loop does what is due until the member has left.
func (m *member) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	ended, engineEnds := ctx.Done(), m.engineEnds
	for {
		select {
		case <-timer.C:
		case <-m.woken:
		case <-ended:
			ended = nil
			m.stop(context.Cause(ctx), context.Cause(ctx))
		case err := <-engineEnds:
			engineEnds = nil
			m.stop(err, err)
		case err := <-m.readerEnds:
			m.stop(err, err)
		}
		m.step(ctx)
		m.observer.stepped(m.owned(), len(m.before) == 0 && m.doubt == nil, m.engine.checkpoints)
		if m.stopping && m.finished(engineEnds == nil) {
			m.leave(ctx)
			m.endEngine(m.cause)
			if engineEnds != nil {
				m.waitForHandlers(engineEnds)
			}
			return
		}
		timer.Reset(max(m.untilNext(), 0))
	}
}

// untilNext returns how long nothing is due.
func (m *member) untilNext() time.Duration {
	next := time.Hour
	if !m.evicted || !m.stopping {
		next = time.Until(m.nextTick)
	}
	if !m.balanceAt.IsZero() && !m.stopping && m.ticked && !m.resizing {
		next = min(next, time.Until(m.balanceAt))
	}
	if len(m.leaving) > 0 && m.ticked && time.Until(m.releaseAt) > 0 {
		next = min(next, time.Until(m.releaseAt))
	}
	if !m.lapsed && !m.evicted {
		next = min(next, m.lease.left())
	}
	if m.stopping {
		if m.leaveAt.IsZero() {
			next = min(next, time.Until(m.stopAt))
		} else {
			next = min(next, time.Until(m.leaveAt))
		}
	}
	return next
}

// tickBy lets the member tick at the given time, at the latest.
func (m *member) tickBy(at time.Time) {
	if at.Before(m.nextTick) {
		m.nextTick = at
	}
}

// step does everything that is due.
func (m *member) step(ctx context.Context) {
	m.checkLease()
	m.collect()
	now := time.Now()
	if m.rung.Swap(false) {
		m.lastBeat = time.Time{}
		m.tickBy(now.Add(newsDelay))
		m.balanceBy(now) // usually somebody has joined, left or released something
	}
	if m.evicted {
		if !m.stopping && !now.Before(m.nextTick) {
			m.rejoin(ctx)
		}
		if m.evicted {
			return
		}
	}
	balances := func() bool {
		return !m.stopping && !m.resizing && (m.doubt != nil || !m.balanceAt.IsZero() && !time.Now().Before(m.balanceAt))
	}
	if m.ticked && m.doubt != nil && balances() { // a tick says before whether history is the same
		m.nextTick, m.lastBeat = now, time.Time{}
	}
	if !time.Now().Before(m.nextTick) {
		m.tick(ctx)
	}
	if !m.ticked || m.evicted {
		return
	}
	if balances() {
		m.balance(ctx)
	}
	if m.stopping && m.doubt != nil {
		m.look(ctx)
	}
	if m.doubt == nil {
		m.release(ctx)
	}
}

// interval returns the time between ticks while checkpoints move.
func (m *member) interval() time.Duration {
	d := min(busyInterval, m.lease.length/5)
	if m.toEnd {
		d = min(d, catchUpInterval)
	}
	return d
}

// checkLease ends the handlers if the lease has ended.
func (m *member) checkLease() {
	if m.lapsed || m.evicted || m.lease.left() > 0 {
		return
	}
	m.lapsed = true
	m.counts.losses.Add(1)
	m.logger.Warn("a consumer could not renew its lease in time: its handlers end", m.attrs()...)
	m.forget(ErrLeaseLost)
	m.suspect(ErrLeaseLost)
}

// collect asks the engine what has changed, and the readers to look for room.
func (m *member) collect() {
	for _, r := range m.reads {
		r.wake()
	}
	if m.rewound.Swap(false) {
		m.counts.forks.Add(1)
		m.suspect(errReread)
		m.diverged = true
	}
	for _, mv := range m.engine.drained() {
		m.drained[mv.Partition] = mv
	}
	refused, stale := m.engine.fenced()
	m.fence(refused)
	m.reread(stale)
	m.resizing = m.resizing && m.engine.isBusy()
	m.remind()
	if m.stopping {
		m.engine.drop(append(refused, stale...), errMoved)
	}
}

// send sends statements to the server. The end of ctx does not interrupt them, because the
// connection is used by other consumers too, and would be closed. The end of the lease does,
// because handlers must end then.
func (m *member) send(ctx context.Context, f func(ctx context.Context, p protocol) error) error {
	patience := min(max(m.lease.length*3/10, minPatience), maxPatience)
	if !m.evicted && !m.lapsed {
		patience = min(patience, m.lease.left())
	}
	if patience <= 0 {
		return ErrLeaseLost
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	session, err := m.do(ctx, func(session int64, p protocol) error {
		if session != m.session {
			if m.session != 0 {
				m.suspect(errReread)
			}
			m.session = session
		}
		return f(ctx, p)
	})
	if err != nil && session != 0 && !isAnswer(err) {
		m.suspect(errReread)
	}
	return err
}

// How long an answer is waited for, at least and at most.
const (
	minPatience = 300 * time.Millisecond
	maxPatience = 5 * time.Second
)

// tick renews the lease and moves checkpoints, unless there is no reason to.
func (m *member) tick(ctx context.Context) {
	var moves []ledger.Move
	if m.doubt == nil {
		moves = m.engine.progress()
	}
	m.nextTick = time.Now().Add(m.interval())
	quiet := min(quietInterval, m.lease.length/5)
	if m.toEnd {
		quiet = min(quiet, 4*catchUpInterval)
	}
	if due := m.lastBeat.Add(quiet); len(moves) == 0 && m.ticked && m.doubt == nil && time.Now().Before(due) {
		if due.Before(m.nextTick) {
			m.nextTick = due
		}
		return
	}
	var t ledger.Tick
	sent := m.now()
	m.lastBeat = time.Now()
	err := m.send(ctx, func(ctx context.Context, p protocol) (err error) {
		if m.doubt != nil { // another connection
			m.engine.kept(moves)
			moves = nil
		}
		t, err = p.beat(ctx, *m.self.Load(), "", moves)
		return err
	})
	m.counts.ticks.Add(1)
	if err != nil {
		m.engine.kept(moves) // if they were made nevertheless, the fence refuses them the next time
		m.ticked = false
		m.fails(err)
		if m.failures == 1 {
			m.logger.Warn("a tick of a consumer failed, and is retried", m.attrs("error", err)...)
		}
		m.nextTick = time.Now().Add(min(tickRetry.Delay(m.failures), m.interval()))
		return
	}
	m.ticked, m.failures = true, 0
	if !t.Alive {
		m.die(t)
		return
	}
	m.counts.margin(m.lease.left())
	m.lease.renew(sent)
	m.lapsed = false
	m.see(t.Timeline)
	m.settle(moves, t)
	m.rename(t.Name)
	m.obey(t.Barrier, t.Paused)
	m.resize(ctx, t.Partitions, t.Layout)
	if t.Due && !t.Paused && !m.stopping && m.doubt == nil {
		m.replay(ctx)
	}
	if now := time.Now(); t.Changes != m.changes {
		m.changes, m.balanceAt = t.Changes, now
	} else if t.Suspects && m.balanceAt.IsZero() {
		m.balanceAt = now.Add(m.random(suspectDelay))
	}
	if m.toEnd && !m.stopping && m.doubt == nil {
		m.checkTargets(ctx)
	}
}

// fails counts a failure of a statement that is retried.
func (m *member) fails(err error) {
	m.failures++
	m.observer.retried("", m.failures, err)
}

// replay lets the engine replay what is due. If that fails, the next tick says it again.
func (m *member) replay(ctx context.Context) {
	var keys []ledger.Key
	err := m.send(ctx, func(ctx context.Context, p protocol) (err error) {
		keys, err = p.due(ctx, *m.self.Load())
		return err
	})
	if err == nil && m.doubt == nil {
		m.engine.replay(keys)
	}
}

// settle tells the engine what became of the moves.
func (m *member) settle(moves []ledger.Move, t ledger.Tick) {
	pick := func(indexes []int) []ledger.Move {
		picked := make([]ledger.Move, 0, len(indexes))
		for _, i := range indexes {
			picked = append(picked, moves[i])
		}
		return picked
	}
	moved, refused := pick(t.Moved), pick(t.Refused)
	m.engine.stored(moved)
	m.engine.kept(pick(t.Skipped))
	if len(refused) == 0 {
		return
	}
	ps := make([]partition, 0, len(refused))
	for _, mv := range refused {
		ps = append(ps, mv.Partition)
	}
	m.fence(ps)
	m.engine.refused(refused, errMoved)
}

// die forgets everything, because the member was deleted.
func (m *member) die(t ledger.Tick) {
	m.evicted, m.lapsed, m.ticked = true, false, false
	m.lease.end()
	m.nextTick, m.balanceAt = time.Now(), time.Time{}
	cause := ErrLeaseLost
	switch {
	case t.Replaced && (t.Later || t.Timeline == m.past): // in another history, it may be the member that this one has replaced
		m.logger.Warn("a consumer ends, because another process has taken over", m.attrs()...)
		cause = ErrReplaced
	case m.isDeleted(t):
		m.logger.Warn("a consumer ends, because it was deleted", m.attrs()...)
		cause = ErrDeleted
	default:
		m.logger.Warn("a consumer is no longer a member, because its lease had ended or a failover has lost it: it joins again", m.attrs()...)
	}
	m.forget(cause)
	m.counts.losses.Add(1)
	if cause != ErrLeaseLost { //nolint:errorlint // it is that value
		m.left = true
		m.stop(cause, cause)
	}
}

// checkTargets ends CatchUp if everything is done with.
func (m *member) checkTargets(ctx context.Context) {
	var reached bool
	err := m.send(ctx, func(ctx context.Context, p protocol) (err error) {
		reached, err = p.reached(ctx, m.self.Load().Consumer, m.join.Categories, m.targets)
		return err
	})
	switch {
	case err == nil && reached:
		m.stop(nil, errCaughtUp)
	case err != nil && isAnswer(err) && !mdb.IsTransient(err):
		err = fmt.Errorf("consumer: look whether everything is handled: %w", err)
		m.stop(err, err)
	}
}

var errCaughtUp = errors.New("consumer: everything is handled")

// attrs returns the attributes of a log line.
func (m *member) attrs(more ...any) []any {
	attrs := []any{"consumer", *m.name.Load()}
	if m.join.Instance != "" {
		attrs = append(attrs, "instance", m.join.Instance)
	}
	return append(attrs, more...)
}
