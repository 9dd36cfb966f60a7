package mdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/messagedb-go/messagedb/internal/backoff"
)

// A replica is what a store knows about the server of [WithReplica].
type replica struct {
	store    *Store // reads there
	primary  *Store
	logger   *slog.Logger
	patience time.Duration // duePatience, except in tests

	serves    atomic.Bool // reads use it
	joins     atomic.Bool // it is asked whether it has what the primary has
	reads     atomic.Int64
	fallbacks atomic.Int64
	failures  atomic.Int64

	running sync.WaitGroup  // questions
	life    context.Context //nolint:containedctx // of the questions
	end     context.CancelFunc

	mu       sync.Mutex
	asked    bool
	asking   bool // one question at a time
	left     bool // reads have left it, which is logged
	failed   int  // questions in a row
	next     time.Time
	returned time.Time // when reads have begun to use it
}

// replicaRetry says when a replica that reads have left is asked again.
var replicaRetry = backoff.Policy{Min: 100 * time.Millisecond, Max: 10 * time.Second}

// suspectAgain is how long a replica is not asked again that has not answered in the time of a call.
const suspectAgain = time.Second

func newReplica(primary *Store, config *storeConfig) *replica {
	r := &replica{primary: primary, logger: config.logger, patience: duePatience}
	r.life, r.end = context.WithCancel(context.Background())
	pool := config.replica
	conn := pool.Config().ConnConfig
	watcher := newWatcher(pool, config.logger)
	first := &firstUse{config: conn, direct: config.direct, replica: true, watcher: watcher}
	readOnly := &readOnly{pool: pool, logger: config.logger}
	runner := &poolRunner{pool: pool, mode: conn.DefaultQueryExecMode, first: first, watcher: watcher, readOnly: readOnly, standby: true}
	r.store = &Store{procedures: procedures{runner: runner, config: config}, pool: pool, first: first, watcher: watcher, readOnly: readOnly}
	return r
}

// close ends the questions that are under way.
func (r *replica) close() {
	r.mu.Lock()
	r.end() // no question begins after it
	r.mu.Unlock()
	r.running.Wait()
}

// serving reports whether reads use the replica. The first call waits until it is known.
func (r *replica) serving(ctx context.Context) bool {
	if r.serves.Load() {
		return true
	}
	answer := r.askToJoin() //nolint:contextcheck // the question is for other calls, too
	if answer != nil {
		select {
		case <-answer:
		case <-ctx.Done():
		}
	}
	return r.serves.Load()
}

// askToJoin asks the replica whether reads can use it, if that is due. It returns a channel that is closed by the answer to the
// first question, which others do not wait for.
func (r *replica) askToJoin() (answer <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.asking && !time.Now().Before(r.next) && r.life.Err() == nil {
		first, answered := !r.asked, make(chan struct{})
		r.asked = true
		r.ask(r.join, func(err error) {
			defer close(answered) // a logger may end the goroutine
			r.joined(err)
		})
		if first {
			return answered
		}
	}
	return nil
}

// ask begins a question. The lock is held.
func (r *replica) ask(question func(context.Context) error, answered func(error)) {
	r.asking = true
	r.running.Go(func() {
		err := errQuestionExits
		defer func() { answered(err) }()
		ctx, cancel := context.WithTimeout(r.life, 2*askTimeout)
		defer cancel()
		err = withoutPanic(ctx, question)
	})
}

// errQuestionExits is the error of a question whose goroutine was ended by runtime.Goexit.
var errQuestionExits = errors.New("a hook of the pool has ended the goroutine, as t.FailNow does")

// withoutPanic returns a panic of the question, whose pool may have hooks, as an error.
func withoutPanic(ctx context.Context, question func(context.Context) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return question(ctx)
}

// joined records the answer to a question by join.
func (r *replica) joined(err error) {
	r.mu.Lock()
	r.asking = false
	defer r.joins.Store(false) // not before reads use it, see AwaitWrite
	if r.life.Err() != nil {
		r.mu.Unlock()
		return
	}
	if err != nil {
		r.depart(err)
		return
	}
	back := r.left
	r.left, r.returned = false, time.Now()
	r.serves.Store(true)
	r.mu.Unlock()
	if back {
		r.logger.Info("reads use the replica again")
	}
}

// leave makes reads use the primary, because the replica has failed.
func (r *replica) leave(err error) {
	r.mu.Lock()
	if !r.serves.Load() {
		r.mu.Unlock()
		return
	}
	r.depart(err)
}

// depart is leave with the lock held, which it releases. After a failover, connections of the pool lead to where new ones may not.
func (r *replica) depart(err error) {
	if r.serves.Load() && time.Since(r.returned) > replicaRetry.Max {
		r.failed = 0
	}
	r.serves.Store(false)
	r.failed++
	r.next = time.Now().Add(replicaRetry.Delay(r.failed))
	first := !r.left
	r.left = true
	r.mu.Unlock()
	r.store.pool.Reset()
	if first {
		r.failures.Add(1)
		r.logger.Warn("the replica cannot be used: reads use the primary", "error", scrub(err))
	}
}

// suspect asks the replica whether it answers at all, because it has not answered in the time of a
// call. Reads leave it only if it does not.
func (r *replica) suspect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); r.serves.Load() && !r.asking && !now.Before(r.next) && r.life.Err() == nil {
		r.next = now.Add(suspectAgain)
		r.ask(r.ping, r.pinged)
	}
}

// pinged records the answer to a question by ping. Reads may have left the replica meanwhile, to which they return after join only.
func (r *replica) pinged(err error) {
	r.mu.Lock()
	r.asking = false
	if err == nil || r.life.Err() != nil || !r.serves.Load() {
		r.mu.Unlock()
		return
	}
	r.depart(err)
}
