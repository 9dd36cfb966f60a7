package doorbell

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/internal/trigger"
)

const (
	probeInterval = time.Minute
	// statementTimeout limits each statement of the goroutine, and the time that a probe
	// takes to arrive.
	statementTimeout = 5 * time.Second
	// stopTimeout limits how long the last subscription waits for the goroutine, which calls
	// hooks of the pool and a logger.
	stopTimeout = time.Second

	minArmRetry = time.Millisecond
	maxArmRetry = time.Second

	// lastingSession is the time after which a session counts as a success, so that the
	// next attempt to connect follows without a long delay.
	lastingSession = time.Second
)

var listenRetry = backoff.Policy{Min: 50 * time.Millisecond, Max: 10 * time.Second}

var (
	errNotInstalled = errors.New("the NOTIFY trigger is not installed or not enabled; install it with schema.InstallNotify")
	errNotHeard     = errors.New("a NOTIFY through the pool does not arrive at the connection that listens; " +
		"set ListenOn to an address of the same database that bypasses any pooler")
	errOnProxy   = errors.New("the connection that listens is to a database of PL/Proxy, which has no messages; set ListenOn to the addresses of the shards, in the order of their numbers")
	errTableFull = errors.New("the server's lock table is full; raise max_locks_per_transaction")
)

// A listener has the state that only the shard's goroutine uses.
type listener struct {
	server server
	shared map[string]bool // categories whose keys are shared
	room   room            // for more of them

	enabled bool // the trigger is there
	proved  bool // a probe has arrived since

	probe     string         // the payload of a probe that has not arrived; empty: none
	probeSent chan sentProbe // has a buffer of one; another goroutine sends to it
	probeEnds time.Time      // when the probe must have arrived
	nextProbe time.Time
	nextLook  time.Time
	nextArm   time.Time

	logged string // the last reason why notifications are unavailable
}

// A sentProbe says when a probe was sent, or why it was not.
type sentProbe struct {
	at  time.Time
	err error
}

// listen is the goroutine: it keeps a connection until ctx ends.
func (s *shard) listen(ctx context.Context) {
	b, l := s.bell, &s.listener
	l.logged = ""
	for attempt := 1; ctx.Err() == nil; attempt++ {
		begun := time.Now()
		err := s.session(ctx)
		if panicked := s.lose(); panicked != nil {
			err = panicked
		}
		if ctx.Err() != nil {
			return
		}
		// A session that ends immediately counts as a failure to connect.
		if l.proved && time.Since(begun) > lastingSession {
			attempt, l.logged = 1, ""
		}
		s.unavailable(err)
		switch {
		case errors.Is(err, errTableFull):
			l.room.full(len(l.shared), time.Now(), b.config.Recheck)
			fallthrough
		case errors.Is(err, errNotHeard):
			_ = backoff.Sleep(ctx, b.config.Recheck)
		default:
			_ = listenRetry.Wait(ctx, attempt)
		}
	}
}

// lose is called when the connection is lost. Its error is a panic of Config.Listening.
func (s *shard) lose() (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{v, debug.Stack()}
		}
	}()
	s.setListening(false)
	return nil
}

// unavailable logs why there are no notifications, once for each reason.
func (s *shard) unavailable(err error) {
	if l := &s.listener; l.logged != err.Error() {
		l.logged = err.Error()
		logUnavailable(s.logger(), err)
	}
}

// logger returns a logger that says which shard it is, if there are several.
func (s *shard) logger() *slog.Logger {
	if len(s.bell.shards) == 1 {
		return s.bell.config.Logger
	}
	return s.bell.config.Logger.With("shard", s.number)
}

func logUnavailable(logger *slog.Logger, err error) {
	attrs := []any{"error", err}
	if panicked := (*panicError)(nil); errors.As(err, &panicked) {
		attrs = append(attrs, "stack", string(panicked.stack))
	}
	logger.Warn("notifications unavailable: subscriptions fall back to polling", attrs...)
}

// A panicError is a panic of a hook of the pool.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprint("panic: ", e.value) }

// session opens the connection, and serves the categories until it is lost.
func (s *shard) session(ctx context.Context) (err error) {
	b, l := s.bell, &s.listener
	l.shared, l.enabled, l.proved, l.probe, l.nextLook = make(map[string]bool), false, false, "", time.Time{}
	// Hooks of the pool run in this goroutine.
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{v, debug.Stack()}
		}
		if lockTableFull(err) {
			err = fmt.Errorf("%w: %w", errTableFull, err)
		}
	}()
	if l.server, err = s.connect(ctx); err != nil {
		return fmt.Errorf("connect to listen: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		l.server.close(ctx)
	}()
	if err := l.server.listen(ctx); err != nil {
		return err
	}
	b.tell("")
	for {
		if err := s.serve(ctx); err != nil {
			return err
		}
	}
}

// serve does the next thing that is due. If nothing is, it waits for a notification, for a
// time at which something is due, or for wake.
func (s *shard) serve(ctx context.Context) error {
	b, l := s.bell, &s.listener
	now := time.Now()
	if err := l.checkProbe(now, l.proved); err != nil {
		return s.whyNotHeard(err)
	}
	b.mu.Lock()
	unrung := s.unrung
	s.unrung = nil
	b.mu.Unlock()
	if len(unrung) > 0 || !now.Before(l.nextLook) {
		return s.look(ctx, unrung)
	}
	unlock, wanted, next := s.plan(now)
	switch {
	case len(unlock) > 0:
		if err := l.server.unlock(ctx, unlock); err != nil {
			return err
		}
		for _, category := range unlock {
			delete(l.shared, category)
		}
		return nil
	case len(wanted) > 0 && !l.nextArm.After(now):
		return s.arm(ctx, wanted)
	case l.proved && now.After(l.nextProbe) && l.probe == "":
		s.sendProbe(ctx)
	}
	if len(wanted) > 0 {
		next = l.nextArm
	}
	for _, t := range []time.Time{l.nextLook, l.probeEnds} {
		if t.After(now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	payload, err := s.waitForNotification(ctx, next)
	switch {
	case err != nil || payload == nil:
		return err
	case *payload == trigger.Changed:
		l.nextLook = time.Now()
	case l.probe != "" && *payload == l.probe:
		l.probe, l.probeEnds = "", time.Time{}
		if !l.proved {
			l.proved = true
			b.learn()
			s.setListening(true)
		}
	case *payload == trigger.Placement:
		b.askShards()
	case strings.HasPrefix(*payload, probePrefix):
		s.hear(*payload)
	case !strings.HasPrefix(*payload, trigger.NoStream):
		s.onNotification(*payload)
	}
	return nil
}

// look asks the server what the bell cannot know otherwise: whether the trigger is there,
// and for how many keys there is room. unrung are categories that were disabled.
func (s *shard) look(ctx context.Context, unrung []string) error {
	b, l := s.bell, &s.listener
	facts, err := l.server.look(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	l.nextLook = now.Add(lookInterval)
	l.room.update(facts.locks, len(l.shared), now, b.config.Recheck)
	b.mu.Lock()
	s.utf8 = facts.utf8
	b.mu.Unlock()
	was := l.enabled
	l.enabled = facts.enabled
	switch {
	case !facts.enabled:
		l.nextLook = now.Add(min(lookInterval, b.config.Recheck))
		l.proved, l.probe, l.probeEnds = false, "", time.Time{}
		s.setListening(false)
		s.forgive(unrung)
		if facts.proxy {
			s.unavailable(errOnProxy)
		} else {
			s.unavailable(errNotInstalled)
		}
	case !was:
		s.sendProbe(ctx)
	case len(unrung) > 0:
		remedy := "ALTER TABLE message_store.messages ENABLE ALWAYS TRIGGER " + trigger.Name +
			", if replication writes the messages, or sessions with session_replication_role = replica"
		if facts.always {
			remedy = "find out which writer inserts messages in a session whose NOTIFY does not arrive"
		}
		logger := s.logger()
		logger.Warn("messages arrive without a notification, although the trigger is enabled: polling for a while",
			"category", unrung[0], "categories", len(unrung), "remedy", remedy)
	}
	if s.shed(now, l.room.bound()) {
		s.warnOfRoom()
	}
	return nil
}

// arm shares keys of the wanted categories, as many as there is room for.
func (s *shard) arm(ctx context.Context, wanted []string) error {
	l := &s.listener
	begun := time.Now()
	if l.room.stale(len(l.shared), begun) {
		return s.look(ctx, nil)
	}
	arm, crowded := s.admit(begun, wanted, l.room.free(len(l.shared)), l.room.step)
	if crowded {
		s.warnOfRoom()
	}
	if len(arm) == 0 {
		return nil
	}
	granted, err := l.server.share(ctx, arm)
	if err != nil {
		return err
	}
	for i, category := range arm {
		if granted[i] {
			l.shared[category] = true
			l.room.step--
		}
	}
	s.armed(arm, granted)
	// Some may be due again already. Notifications get as much time as arming took.
	end := time.Now()
	l.nextArm = end.Add(end.Sub(begun))
	return nil
}

// warnOfRoom logs once that there are too many categories.
func (s *shard) warnOfRoom() {
	l := &s.listener
	if l.room.warned {
		return
	}
	l.room.warned = true
	t := l.room.table
	logger := s.logger()
	logger.Warn("too many categories for the server's lock table: some are polled",
		slog.Int("categories", s.bell.ShardStats()[s.number].all()), slog.Int("limit", l.room.bound()), slog.Int("locks", t.capacity),
		slog.Int("used_by_others", t.foreign+t.others), slog.String("remedy", "raise max_locks_per_transaction"))
}

// waitForNotification returns a notification's payload, or nil at next, or when wake is
// called.
func (s *shard) waitForNotification(ctx context.Context, next time.Time) (*string, error) {
	b := s.bell
	waiting, cancel := context.WithDeadline(ctx, next)
	defer cancel()
	b.mu.Lock()
	woken := s.woken
	s.woken, s.interrupt = false, cancel
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		s.interrupt = nil
		b.mu.Unlock()
	}()
	if woken {
		return nil, nil
	}
	return s.listener.server.wait(ctx, waiting)
}

// plan returns the categories whose keys must be unlocked, those that want their keys to be
// shared, and when to ask again. Keys must be unlocked first: a category that is wanted again
// counts as armed only from when its key is shared again.
func (s *shard) plan(now time.Time) (unlock, wanted []string, next time.Time) {
	b := s.bell
	b.mu.Lock()
	defer b.mu.Unlock()
	for name := range s.listener.shared {
		if c := b.categories[name]; c == nil || c.shard != s || c.state != stateArmed {
			unlock = append(unlock, name)
		}
	}
	for name, c := range b.categories {
		switch {
		case c.shard != s || !c.wanted || c.state != stateCooling:
		case !c.nextTry.After(now):
			wanted = append(wanted, name)
		case next.IsZero() || c.nextTry.Before(next):
			next = c.nextTry
		}
	}
	return unlock, wanted, next
}

// armed records the result of share: each key is shared, or a writer has it.
func (s *shard) armed(categories []string, granted []bool) {
	b := s.bell
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for i, name := range categories {
		c := b.categories[name]
		if c == nil || c.shard != s || !c.wanted { // its last subscription has ended meanwhile, or it has moved
			continue
		}
		if granted[i] {
			c.state, c.wanted = stateArmed, false
			c.epoch++
			c.unrung, c.used = time.Time{}, now
			c.ringAll() // they must read before they sleep
			continue
		}
		retry := min(minArmRetry<<min(c.refused, 20), max(c.pollDelay, minArmRetry), maxArmRetry)
		c.refused++
		c.nextTry = now.Add(retry)
	}
}
