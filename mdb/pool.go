package mdb

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/barrier"
	"github.com/messagedb-go/messagedb/internal/doorbell"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// A Store is a Message DB, accessed through a pool of connections. Create one with
// [Connect] or [New]. It is safe for concurrent use. It starts goroutines only for
// subscriptions with [WithNotify] or [WithWorkers], for groups of writes with [WithGroupCommit],
// to ask the server about statements that get no answer, see WriteMessage, and to ask the replica of
// [WithReplica] whether it can be used.
type Store struct {
	procedures
	pool        *pgxpool.Pool
	ownsPool    bool
	bell        *doorbell.Bell
	barrier     *barrier.Barrier
	first       *firstUse
	readOnly    *readOnly
	watcher     *watcher
	ownsReplica bool

	// Whether the role may read the table, for heads and anchors: neither is set until that is
	// known.
	headed, headless atomic.Bool

	forks, missing atomic.Int64
}

// Stats are counters of a [Store], for metrics. They begin at 0 when it is created.
type Stats struct {
	// Forks counts how often a subscription found that the last message which it had read is
	// no longer in the store, see [OnFork] and [ForkError].
	Forks int64
	// Missing counts the messages that were handled and are missing, each once for every
	// subscription that had handled it.
	Missing int64
	// ReplicaReads counts the reads that the replica of [WithReplica] has served, and
	// ReplicaFallbacks those that have used the primary instead, because the replica could not be used or lacked
	// something.
	ReplicaReads, ReplicaFallbacks int64
	// ReplicaFailures counts how often reads have left the replica until it was asked again.
	ReplicaFailures int64
}

// Stats returns the counters. It does no I/O.
func (s *Store) Stats() Stats {
	stats := Stats{Forks: s.forks.Load(), Missing: s.missing.Load()}
	if r := s.replica; r != nil {
		stats.ReplicaReads, stats.ReplicaFallbacks, stats.ReplicaFailures = r.reads.Load(), r.fallbacks.Load(), r.failures.Load()
	}
	return stats
}

func (s *Store) countFork(missing int) {
	s.forks.Add(1)
	s.missing.Add(int64(missing))
}

// procedures has the methods that a Store and a Tx have in common.
type procedures struct {
	runner
	config    *storeConfig
	wrote     func(StreamName) // called after a write that has committed
	gate      *gate            // nil on a Tx
	groups    *groups          // nil without WithGroupCommit, and on a Tx
	tx        *txState         // nil on a Store
	replica   *replica         // nil without WithReplica, and on a Tx
	conflicts *conflicts       // nil without WithReplica
}

// Connect opens a pool and returns a [Store] on it, after it has checked that the server
// answers. The connection string is a URL or a list of key=value pairs, as
// pgxpool.ParseConfig takes them. Connect prepares the pool's configuration with
// [Configure], to which it passes its options of that kind. [Store.Close] closes the pool.
//
// Before it opens the pool, Connect looks, on a connection of its own, whether the installed
// functions need the schema message_store first in the search path. If they do, and it is not,
// it does what [StoreFirst] does, with the path that the session has.
func Connect(ctx context.Context, connString string, opts ...ConnectOption) (*Store, error) {
	var c connectConfig
	for _, opt := range opts {
		opt.connect(&c)
	}
	cfg, fault := parseConnString(connString)
	if fault != "" {
		return nil, connStringError(fault)
	}
	configureFor(cfg, connString, c.configure)
	var (
		path  pathState
		first string // the path that puts the schema first, if Connect sets it
		err   error
	)
	if configured := newConfigureConfig(c.configure); !configured.storeFirst || configured.pooler {
		if path, err = lookBeforeConnect(ctx, cfg); err != nil {
			return nil, err
		}
		if path.problem() != nil && !configured.pooler {
			first = storeFirst(path.path)
			parameters(cfg.ConnConfig.RuntimeParams).set("search_path", first)
		}
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("mdb: open a pool: %w", err)
	}
	opened := []*pgxpool.Pool{pool}
	if c.replica != nil {
		replica, err := openReplica(ctx, *c.replica, c.configure, first)
		if err != nil {
			pool.Close()
			return nil, err
		}
		opened = append(opened, replica)
		c.store = append(c.store, WithReplica(replica))
	}
	s, err := New(pool, c.store...)
	if err == nil {
		if pingErr := pool.Ping(ctx); pingErr != nil {
			err = explainConnect(contextError(ctx, pingErr))
		}
	}
	if err != nil {
		for _, p := range opened {
			p.Close()
		}
		return nil, err
	}
	s.ownsPool, s.ownsReplica = true, c.replica != nil
	s.first.found(path)
	return s, nil
}

// lookBeforeConnect looks at the search path on a connection of its own. A server that
// cannot be asked leaves the state empty.
func lookBeforeConnect(ctx context.Context, cfg *pgxpool.Config) (pathState, error) {
	conn, err := pgx.ConnectConfig(ctx, cfg.ConnConfig.Copy())
	if err != nil {
		return pathState{}, explainConnect(contextError(ctx, err))
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing depends on it
	path, err := lookAtPath(ctx, conn, lookMode(cfg.ConnConfig.DefaultQueryExecMode)...)
	if err != nil && !cannotLook(err) {
		return pathState{}, explain("look at the search path", contextError(ctx, err))
	}
	return path, nil
}

// explainConnect returns the error of a connection that was not opened.
func explainConnect(err error) error {
	if setup := explainSetup(err); setup != nil && isConnectError(err) {
		return setup
	}
	return fmt.Errorf("mdb: %w", err)
}

// New returns a [Store] on the caller's pool, which [Store.Close] does not close. It does no
// I/O. Prepare the pool's configuration with [Configure].
//
// Without Configure, set its start-up parameters on the role. Its functions have no
// replacement: a write whose wait for a synchronous standby is cancelled is then reported as
// done; the ten seconds that WriteMessage describes count from the start of the statement; and
// pgx sends a cancel request for a statement whose connection the store gives up.
//
// The first call of the store makes one more round trip: it checks that the installed functions
// find Message DB's table and functions with the search path of the connection. If they do not,
// the call fails with a [*SetupError], before anything is written.
//
// New rejects a pool whose exec mode requires a cache that is turned off, with an
// [*ArgumentError].
func New(pool *pgxpool.Pool, opts ...StoreOption) (*Store, error) {
	config := storeConfig{
		maxSize: DefaultMaxMessageSize,
		logger:  slog.New(slog.DiscardHandler),
		polling: poll.Backoff(10*time.Millisecond, time.Second, 2),
		notify:  notifyConfig{fallback: DefaultNotifyFallback, maxNotifications: DefaultMaxNotifications, recheck: defaultRecheck},
	}
	var conn *pgx.ConnConfig
	if pool == nil {
		config.faults.add("pool", "nil", "a *pgxpool.Pool")
	} else {
		conn = pool.Config().ConnConfig
		config.faults.caches(conn)
		if fault := connStringFault(conn.ConnString()); fault != "" {
			config.faults.add("pool", "a connection string that is ambiguous: "+fault, "one that is not")
		}
	}
	for _, opt := range opts {
		opt.store(&config)
	}
	if pool != nil && config.replica == pool {
		config.faults.add("replica", "the store's own pool", "a pool to a standby")
	}
	if err := config.faults.err(); err != nil {
		return nil, err
	}
	config.retry = config.retry.withDefaults()
	config.execMode = conn.DefaultQueryExecMode
	watcher := newWatcher(pool, config.logger)
	first := &firstUse{config: conn, direct: config.direct, replica: config.replica != nil, watcher: watcher}
	gate, readOnly := new(gate), &readOnly{pool: pool, logger: config.logger}
	runner := &poolRunner{pool: pool, mode: config.execMode, first: first, watcher: watcher, gate: gate, readOnly: readOnly}
	bell := newBell(pool, first, &config)
	wrote := func(stream StreamName) {
		readOnly.wrote()
		bell.Wrote(string(stream))
	}
	s := &Store{
		procedures: procedures{runner: runner, config: &config, wrote: wrote, gate: gate},
		pool:       pool, bell: bell, first: first, watcher: watcher, readOnly: readOnly,
	}
	if config.group {
		s.groups = newGroups(&s.procedures)
	}
	if config.replica != nil {
		s.conflicts, s.replica = new(conflicts), newReplica(s, &config)
	}
	s.barrier = barrier.New(barrierServer{&s.procedures}, config.logger)
	return s, nil
}

// Pool returns the pool that the store uses.
func (s *Store) Pool() *pgxpool.Pool { return s.pool }

// Close closes the pools that [Connect] opened, and waits until all their connections are
// released. With [WithGroupCommit], it waits for groups of writes that are under way first. It
// may be called more than once.
func (s *Store) Close() {
	if s.groups != nil {
		s.groups.wait()
	}
	if s.replica != nil {
		s.replica.close()
	}
	if s.ownsReplica {
		s.replica.store.pool.Close()
	}
	if s.ownsPool {
		s.pool.Close()
	}
}
