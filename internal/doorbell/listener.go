package doorbell

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/internal/trigger"
)

const (
	pingInterval  = 20 * time.Second
	probeInterval = time.Minute
	// statementTimeout limits each statement of the goroutine, and the time that a probe
	// takes to arrive.
	statementTimeout = 5 * time.Second
	minArmRetry      = time.Millisecond

	// lastingSession is the time after which a session counts as a success, so that the
	// next attempt to connect follows without a long delay.
	lastingSession = time.Second
)

var listenRetry = backoff.Policy{Min: 50 * time.Millisecond, Max: 10 * time.Second}

var (
	errNotInstalled = errors.New("the NOTIFY trigger is not installed or not enabled; install it with schema.InstallNotify")
	errNotHeard     = errors.New("a NOTIFY through the pool does not arrive at the connection that listens; " +
		"set ListenOn to an address of the same database that bypasses any pooler")
)

// A listener has the state that only the bell's goroutine uses.
type listener struct {
	conn   *pgx.Conn
	shared map[string]bool // categories whose keys are shared

	probe     string         // the payload of a probe that has not arrived; empty: none
	probeSent chan sentProbe // has a buffer of one; another goroutine sends to it
	probeEnds time.Time      // when the probe must have arrived
	nextProbe time.Time
	nextPing  time.Time
	nextArm   time.Time
}

// A sentProbe says when a probe was sent, or why it was not.
type sentProbe struct {
	at  time.Time
	err error
}

// start starts the goroutine for the first sleeper.
func (b *Bell) start() {
	b.life.Lock()
	defer b.life.Unlock()
	if b.users++; b.users > 1 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel, b.done = cancel, make(chan struct{})
	go func() {
		defer close(b.done)
		b.listen(ctx)
	}()
}

// stop ends the goroutine after the last sleeper, and waits for it.
func (b *Bell) stop() {
	b.life.Lock()
	defer b.life.Unlock()
	if b.users--; b.users == 0 {
		b.cancel()
		<-b.done
	}
}

// listen is the goroutine: it keeps a connection until ctx ends.
func (b *Bell) listen(ctx context.Context) {
	logged := ""
	for attempt := 1; ctx.Err() == nil; attempt++ {
		begun := time.Now()
		proved, err := b.session(ctx)
		b.setListening(false)
		if ctx.Err() != nil {
			return
		}
		// A session that ends immediately counts as a failure to connect.
		if proved && time.Since(begun) > lastingSession {
			attempt, logged = 1, ""
		}
		if logged != err.Error() { // once for each reason
			logged = err.Error()
			b.config.Logger.Warn("notifications unavailable: subscriptions fall back to polling", "error", err)
		}
		if errors.Is(err, errNotInstalled) || errors.Is(err, errNotHeard) {
			_ = backoff.Sleep(ctx, b.config.Recheck)
		} else {
			_ = listenRetry.Wait(ctx, attempt)
		}
	}
}

// session opens the connection, proves that it receives notifications, and serves the
// categories until it is lost.
func (b *Bell) session(ctx context.Context) (proved bool, err error) {
	l := &b.listener
	if l.conn, err = b.config.Connect(ctx); err != nil {
		return false, fmt.Errorf("connect to listen: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = l.conn.Close(ctx)
	}()
	l.shared, l.probe = make(map[string]bool), ""
	l.nextPing = time.Now().Add(pingInterval)
	if err := l.exec(ctx, "LISTEN "+pgx.Identifier{trigger.Channel}.Sanitize()); err != nil {
		return false, err
	}
	var enabled bool
	var capacity int64
	const look = `SELECT ` + trigger.Enabled + `,
	current_setting('max_locks_per_transaction')::bigint * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint)`
	if err := l.conn.QueryRow(ctx, look, pgx.QueryExecModeSimpleProtocol).Scan(&enabled, &capacity); err != nil {
		return false, err
	}
	if !enabled {
		return false, errNotInstalled
	}
	b.sendProbe(ctx)
	for {
		if err := b.serve(ctx, &proved, capacity); err != nil {
			return proved, err
		}
	}
}

// serve does the next thing that is due. If nothing is, it waits for a notification, for a
// time at which something is due, or for wake.
func (b *Bell) serve(ctx context.Context, proved *bool, capacity int64) error {
	l := &b.listener
	now := time.Now()
	if err := l.checkProbe(now, *proved); err != nil {
		return err
	}
	unlock, arm, next := b.plan(now)
	switch {
	case len(unlock) > 0:
		return l.unlock(ctx, unlock)
	case len(arm) > 0 && !l.nextArm.After(now):
		if n := int64(len(l.shared) + len(arm)); n > capacity/4 && int64(len(l.shared)) <= capacity/4 {
			b.config.Logger.Warn("subscriptions use much of the server's lock table", "categories", n, "locks", capacity, "remedy", "raise max_locks_per_transaction")
		}
		granted, err := l.arm(ctx, arm)
		if err != nil {
			return err
		}
		b.armed(arm, granted)
		// Some may be due again already. Notifications get as much time as arming took.
		end := time.Now()
		l.nextArm = end.Add(end.Sub(now))
		return nil
	case now.After(l.nextPing):
		l.nextPing = now.Add(pingInterval)
		return l.exec(ctx, "-- ping")
	case *proved && now.After(l.nextProbe) && l.probe == "":
		b.sendProbe(ctx)
	}
	if len(arm) > 0 {
		next = l.nextArm
	}
	for _, t := range []time.Time{l.nextPing, l.probeEnds} {
		if t.After(now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	payload, err := b.waitForNotification(ctx, next)
	switch {
	case err != nil || payload == nil:
		return err
	case l.probe != "" && *payload == l.probe:
		l.probe, l.probeEnds = "", time.Time{}
		if !*proved {
			*proved = true
			b.setListening(true)
		}
	case !strings.HasPrefix(*payload, probePrefix):
		b.onNotification(*payload)
	}
	return nil
}

// No name of a stream starts with probePrefix, because an empty category is rejected.
const probePrefix = "-probe-"

// waitForNotification returns a notification's payload, or nil at next, or when wake is
// called.
func (b *Bell) waitForNotification(ctx context.Context, next time.Time) (*string, error) {
	waiting, cancel := context.WithDeadline(ctx, next)
	defer cancel()
	b.mu.Lock()
	woken := b.woken
	b.woken, b.interrupt = false, cancel
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.interrupt = nil
		b.mu.Unlock()
	}()
	if woken {
		return nil, nil
	}
	n, err := b.listener.conn.WaitForNotification(waiting)
	switch {
	case err == nil && n != nil:
		return &n.Payload, nil
	case waiting.Err() != nil && ctx.Err() == nil && !b.listener.conn.IsClosed():
		return nil, nil
	}
	return nil, err
}

// plan returns the categories whose keys must be unlocked, those whose keys must be shared,
// and when to ask again. Keys must be unlocked first: a category that is wanted again counts
// as armed only from when its key is shared again.
func (b *Bell) plan(now time.Time) (unlock, arm []string, next time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name := range b.listener.shared {
		if c := b.categories[name]; c == nil || c.state != stateArmed {
			unlock = append(unlock, name)
		}
	}
	for name, c := range b.categories {
		switch {
		case !c.wanted || c.state != stateCooling:
		case !c.nextTry.After(now):
			arm = append(arm, name)
		case next.IsZero() || c.nextTry.Before(next):
			next = c.nextTry
		}
	}
	return unlock, arm, next
}

// armed records the result of arm: each key is shared, or a writer has it.
func (b *Bell) armed(categories []string, granted []bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for i, name := range categories {
		c := b.categories[name]
		if c == nil || !c.wanted { // its last subscription has ended meanwhile
			continue
		}
		if granted[i] {
			c.state, c.wanted = stateArmed, false
			c.epoch++
			c.unrung = time.Time{}
			c.ringAll() // they must read before they sleep
			continue
		}
		retry := min(minArmRetry<<min(c.refused, 20), max(c.pollDelay, minArmRetry))
		c.refused++
		c.nextTry = now.Add(retry)
	}
}

// arm tries to share the categories' keys, and reports for each whether it succeeded.
func (l *listener) arm(ctx context.Context, categories []string) ([]bool, error) {
	var granted []bool
	const sql = `SELECT array_agg(pg_try_advisory_lock_shared($1, hashtext(category)) ORDER BY index)
FROM unnest($2::text[]) WITH ORDINALITY AS c(category, index)`
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	if err := l.conn.QueryRow(ctx, sql, trigger.Key, categories).Scan(&granted); err != nil {
		return nil, fmt.Errorf("share keys: %w", err)
	}
	if len(granted) != len(categories) {
		return nil, fmt.Errorf("share keys: got %d results for %d categories", len(granted), len(categories))
	}
	for i, category := range categories {
		if granted[i] {
			l.shared[category] = true
		}
	}
	return granted, nil
}

// unlock unlocks the categories' keys.
func (l *listener) unlock(ctx context.Context, categories []string) error {
	const sql = `SELECT count(pg_advisory_unlock_shared($1, hashtext(category))) FROM unnest($2::text[]) AS category`
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	if _, err := l.conn.Exec(ctx, sql, trigger.Key, categories); err != nil {
		return fmt.Errorf("unlock keys: %w", err)
	}
	for _, category := range categories {
		delete(l.shared, category)
	}
	return nil
}

func (l *listener) exec(ctx context.Context, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	_, err := l.conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	return err
}
