package mdb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The bell's goroutine owns the connection that listens and shares keys. Nobody
// writes on it: a session is never refused a lock because of its own, so its
// writes would not ring.

const (
	pingInterval  = 20 * time.Second
	probeInterval = time.Minute
	probePatience = 5 * time.Second

	lastingSession = time.Second
)

var listenRetry = RetryPolicy{MinDelay: 50 * time.Millisecond, MaxDelay: 10 * time.Second}

// A listener is what only the bell's goroutine touches.
type listener struct {
	pool *pgxpool.Pool
	conn *pgx.Conn
	held map[string]bool // categories whose keys are shared

	probe     string // payload that is on its way, if any
	probeSent chan sentProbe
	probeEnds time.Time
	nextProbe time.Time
	nextPing  time.Time
	nextArm   time.Time
}

// A sentProbe tells when a probe was sent, or why it was not.
type sentProbe struct {
	at  time.Time
	err error
}

// start runs the goroutine if it does not run yet.
func (b *bell) start() {
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

// stop ends the goroutine with the last subscription.
func (b *bell) stop() {
	b.life.Lock()
	defer b.life.Unlock()
	if b.users--; b.users == 0 {
		b.cancel()
		<-b.done
	}
}

// listen keeps a connection until ctx ends.
func (b *bell) listen(ctx context.Context) {
	said := ""
	for attempt := 1; ctx.Err() == nil; attempt++ {
		begun := time.Now()
		heard, err := b.session(ctx)
		b.hear(false)
		if ctx.Err() != nil {
			return
		}
		// One that ends at once is no better than one that does not begin.
		if heard && time.Since(begun) > lastingSession {
			attempt, said = 1, ""
		}
		if said != err.Error() { // once for each reason
			said = err.Error()
			b.config.logger.Warn("the NOTIFY trigger wakes no subscription of this store, which go on polling", "error", scrub(err))
		}
		if errors.As(err, new(*SetupError)) {
			pause(ctx, b.config.recheck)
		} else {
			_ = listenRetry.wait(ctx, attempt)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// session opens the connection, proves that it hears, and serves the rooms until it
// is lost.
func (b *bell) session(ctx context.Context) (heard bool, err error) {
	l := &b.listener
	if l.conn, err = l.connect(ctx, b.config.listenOn); err != nil {
		return false, fmt.Errorf("connect to listen: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = l.conn.Close(ctx)
	}()
	l.held, l.probe = make(map[string]bool), ""
	l.nextPing = time.Now().Add(pingInterval)
	if err := l.exec(ctx, "LISTEN "+pgx.Identifier{notifyChannel}.Sanitize()); err != nil {
		return false, err
	}
	var installed bool
	var capacity int64
	const look = `SELECT EXISTS (SELECT FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
		WHERE n.nspname = 'message_store' AND c.relname = 'messages' AND t.tgname = 'message_store_notify' AND t.tgenabled IN ('O', 'A')),
	current_setting('max_locks_per_transaction')::bigint * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint)`
	if err := l.conn.QueryRow(ctx, look, pgx.QueryExecModeSimpleProtocol).Scan(&installed, &capacity); err != nil {
		return false, err
	}
	if !installed {
		return false, &SetupError{Problem: "the NOTIFY trigger is not installed or not enabled", Remedy: "install it by schema.InstallNotify"}
	}
	l.sendProbe(ctx)
	for {
		if err := b.serve(ctx, &heard, capacity); err != nil {
			return heard, err
		}
	}
}

// serve does what there is to do, or waits for a ring or a poke.
func (b *bell) serve(ctx context.Context, heard *bool, capacity int64) error {
	l := &b.listener
	now := time.Now()
	if err := l.checkProbe(now, *heard); err != nil {
		return err
	}
	unlock, arm, next := b.plan(now)
	switch {
	case len(unlock) > 0:
		return l.unlock(ctx, unlock)
	case len(arm) > 0 && !l.nextArm.After(now):
		if n := int64(len(l.held) + len(arm)); n > capacity/4 && int64(len(l.held)) <= capacity/4 {
			b.config.logger.Warn("subscriptions share many keys of the server's lock table", "categories", n, "locks", capacity, "remedy", "raise max_locks_per_transaction")
		}
		granted, err := l.arm(ctx, arm)
		if err != nil {
			return err
		}
		b.armed(arm, granted)
		// Some may be due again already: as much time belongs to the rings.
		end := time.Now()
		l.nextArm = end.Add(end.Sub(now))
		return nil
	case now.After(l.nextPing):
		l.nextPing = now.Add(pingInterval)
		return l.exec(ctx, "-- ping")
	case *heard && now.After(l.nextProbe) && l.probe == "":
		l.sendProbe(ctx)
	}
	if len(arm) > 0 {
		next = l.nextArm
	}
	for _, t := range []time.Time{l.nextPing, l.probeEnds} {
		if t.After(now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	payload, err := b.waitForRing(ctx, next)
	switch {
	case err != nil || payload == nil:
		return err
	case l.probe != "" && *payload == l.probe:
		l.probe, l.probeEnds = "", time.Time{}
		if !*heard {
			*heard = true
			b.hear(true)
		}
	case !strings.HasPrefix(*payload, probePrefix):
		b.heard(*payload)
	}
	return nil
}

// probePrefix begins no stream's name: this package refuses an empty category.
const probePrefix = "-probe-"

// waitForRing returns a notification's payload, or none if next comes before, or
// somebody pokes.
func (b *bell) waitForRing(ctx context.Context, next time.Time) (*string, error) {
	waiting, cancel := context.WithDeadline(ctx, next)
	defer cancel()
	b.mu.Lock()
	poked := b.poked
	b.poked, b.interrupt = false, cancel
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.interrupt = nil
		b.mu.Unlock()
	}()
	if poked {
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

// plan returns the categories whose keys are to be given up and to be shared, and
// when it is to be asked again. What is given up comes first: a key that is wanted
// again is shared anew, and counts from then on.
func (b *bell) plan(now time.Time) (unlock, arm []string, next time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for category := range b.listener.held {
		if r := b.rooms[category]; r == nil || r.state != stateArmed {
			unlock = append(unlock, category)
		}
	}
	for category, r := range b.rooms {
		switch {
		case !r.wanted || r.state != stateCooling:
		case !r.nextTry.After(now):
			arm = append(arm, category)
		case next.IsZero() || r.nextTry.Before(next):
			next = r.nextTry
		}
	}
	return unlock, arm, next
}

// armed enters the server's answers: a key is shared, or a writer has it.
func (b *bell) armed(categories []string, granted []bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for i, category := range categories {
		r := b.rooms[category]
		if r == nil || !r.wanted { // its last subscription has ended meanwhile
			continue
		}
		if granted[i] {
			r.state, r.wanted = stateArmed, false
			r.epoch++
			r.unrung = time.Time{}
			r.signalAll() // to read before they sleep
			continue
		}
		retry := min(minArmRetry<<min(r.refused, 20), max(r.patience, minArmRetry))
		r.refused++
		r.nextTry = now.Add(retry)
	}
}

func (l *listener) arm(ctx context.Context, categories []string) ([]bool, error) {
	var granted []bool
	const sql = `SELECT array_agg(pg_try_advisory_lock_shared($1, hashtext(category)) ORDER BY index)
FROM unnest($2::text[]) WITH ORDINALITY AS c(category, index)`
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	if err := l.conn.QueryRow(ctx, sql, notifyKey, categories).Scan(&granted); err != nil {
		return nil, fmt.Errorf("share keys: %w", err)
	}
	if len(granted) != len(categories) {
		return nil, fmt.Errorf("share keys: %d answers for %d categories", len(granted), len(categories))
	}
	for i, category := range categories {
		if granted[i] {
			l.held[category] = true
		}
	}
	return granted, nil
}

func (l *listener) unlock(ctx context.Context, categories []string) error {
	const sql = `SELECT count(pg_advisory_unlock_shared($1, hashtext(category))) FROM unnest($2::text[]) AS category`
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	if _, err := l.conn.Exec(ctx, sql, notifyKey, categories); err != nil {
		return fmt.Errorf("give keys up: %w", err)
	}
	for _, category := range categories {
		delete(l.held, category)
	}
	return nil
}

func (l *listener) exec(ctx context.Context, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	_, err := l.conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	return err
}

// sendProbe notifies through the pool, where writes come from: what arrives proves
// that the connection is to the same database, that there is no pooler between, and
// that the server is a primary.
func (l *listener) sendProbe(ctx context.Context) {
	l.probe = probePrefix + uuid.NewString()
	l.probeSent = make(chan sentProbe, 1)
	l.probeEnds = time.Now().Add(probePatience)
	l.nextProbe = time.Now().Add(probeInterval + rand.N(probeInterval/4))
	payload, sent, pool := l.probe, l.probeSent, l.pool
	// Whether the pool has a connection to spare is not for the bell to wait for.
	go func() {
		ctx, cancel := context.WithTimeout(ctx, probePatience)
		defer cancel()
		conn, err := acquire(ctx, pool)
		if err != nil {
			sent <- sentProbe{err: err}
			return
		}
		defer conn.Release()
		at := time.Now()
		_, err = conn.Exec(ctx, "SELECT pg_catalog.pg_notify($1, $2)", pgx.QueryExecModeExec, notifyChannel, payload)
		sent <- sentProbe{at, err}
	}()
}

// checkProbe fails when a probe was sent and has not arrived. What the pool had no
// connection for proves nothing: it leaves proved what was proved before.
func (l *listener) checkProbe(now time.Time, heard bool) error {
	if l.probe == "" || now.Before(l.probeEnds) {
		return nil
	}
	sent := sentProbe{err: &acquireError{context.DeadlineExceeded}}
	select {
	case sent = <-l.probeSent:
	default:
	}
	busy := errors.As(sent.err, new(*acquireError)) && errors.Is(sent.err, context.DeadlineExceeded)
	switch {
	case busy && heard:
		l.probe, l.probeEnds = "", time.Time{}
		return nil
	case busy:
		return errors.New("the pool had no connection to spare for a NOTIFY")
	case sent.err != nil:
		return fmt.Errorf("notify through the pool: %w", sent.err)
	}
	if ends := sent.at.Add(probePatience); now.Before(ends) {
		l.probeEnds = ends
		l.probeSent <- sent
		return nil
	}
	return &SetupError{
		Problem: "a NOTIFY through the pool does not arrive at the connection that listens",
		Remedy:  "let ListenOn lead to the same database directly, past any pooler",
	}
}

// connect opens the connection with the pool's configuration, or on an address of
// its own.
func (l *listener) connect(ctx context.Context, address string) (*pgx.Conn, error) {
	pool := l.pool.Config()
	cfg := pool.ConnConfig
	if address != "" {
		var err error
		if cfg, err = pgx.ParseConfig(address); err != nil {
			return nil, connStringError(address, err)
		}
	} else if pool.BeforeConnect != nil {
		if err := pool.BeforeConnect(ctx, cfg); err != nil {
			return nil, err
		}
	}
	cfg.OnNotification = nil
	cfg.Tracer = nil
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	cfg.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.DeadlineContextWatcherHandler{Conn: conn.Conn()}
	}
	params := maps.Clone(cfg.RuntimeParams) // which a hook of the pool's may share
	if params == nil {
		params = make(map[string]string)
	}
	cfg.RuntimeParams = params
	name := params["application_name"]
	params["application_name"] = strings.TrimSpace(name + " message_store notify")
	// No object of the user's may take the place of one of the server's.
	params["search_path"] = "pg_catalog, pg_temp"
	// A process that is stopped or cut off would make every writer ring for it.
	params["idle_session_timeout"] = "60000"
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = probePatience
	}
	return pgx.ConnectConfig(ctx, cfg)
}
