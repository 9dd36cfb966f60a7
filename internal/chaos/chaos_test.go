package chaos

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
)

// every calls f at random intervals until ctx ends or f fails. It is for faults that
// leave clients the time to work on any machine.
func every(ctx context.Context, rng *rand.Rand, mean time.Duration, f func() error) error {
	for sleepAbout(ctx, rng, mean) == nil {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// repeat calls f the given number of times, and then waits until writes succeed again.
// It is for faults during which a slow machine may get nothing done.
func (w *workload) repeat(ctx context.Context, times int, mean time.Duration, f func() error) error {
	for ; times > 0 && sleepAbout(ctx, w.rng, mean) == nil; times-- {
		if err := f(); err != nil {
			return err
		}
	}
	return w.untilAcked(ctx, 200)
}

// persistent makes writes retry for longer than any outage.
var persistent = mdb.WithRetry(mdb.RetryPolicy{Attempts: 10_000, MaxDelay: 50 * time.Millisecond})

// TestChaos checks a workload whose connections are all cut after a short time.
func TestChaos(t *testing.T) { chaos(t, *seedFlag) }

func chaos(t *testing.T, seed uint64) {
	url := database(t)
	p := newProxy(t, url)
	w := newWorkload(url, p.url(), seed)
	w.messages = scaled(800, 20_000)
	rng := rand.New(rand.NewPCG(seed, 2))
	p.setLifetime(func() time.Duration { return 50*time.Millisecond + time.Duration(rng.IntN(1450))*time.Millisecond })
	violations := w.run(t, func(ctx context.Context) error {
		return every(ctx, w.rng, 50*time.Millisecond, func() error { w.noteFault(); return nil })
	})
	w.evaluate(t, "T3", int(p.injected.Load()), violations)
}

// TestTerminations checks a workload while the server ends random sessions.
func TestTerminations(t *testing.T) { terminations(t, *seedFlag) }

func terminations(t *testing.T, seed uint64) {
	url := database(t)
	p := newProxy(t, url)
	w := newWorkload(url, p.url(), seed)
	w.messages = 0
	admin := connect(t, url)
	faults := 0
	violations := w.run(t, func(ctx context.Context) error {
		return w.repeat(ctx, scaled(100, 900), scaled(20*time.Millisecond, 50*time.Millisecond), func() error {
			rows, _ := admin.Query(context.WithoutCancel(ctx), `SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY pid`)
			pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
			if err != nil || len(pids) == 0 {
				return err
			}
			w.noteFault()
			faults++
			_, err = admin.Exec(context.WithoutCancel(ctx), `SELECT pg_terminate_backend($1)`, pids[w.rng.IntN(len(pids))])
			return err
		})
	})
	w.evaluate(t, "T4", faults, violations)
}

// TestRestarts checks a workload while the server is restarted in each mode, or killed.
func TestRestarts(t *testing.T) { restarts(t, *seedFlag, scaled(1, 2)) }

func restarts(t *testing.T, seed uint64, times int) {
	s, url := ownServer(t, pgtest.Setting("max_connections", "60"))
	w := newWorkload(url, url, seed)
	w.messages, w.options = 0, []mdb.StoreOption{persistent}
	modes := []string{"fast", "immediate", "kill"}
	faults := 0
	violations := w.run(t, func(ctx context.Context) error {
		for range times {
			w.rng.Shuffle(len(modes), func(i, j int) { modes[i], modes[j] = modes[j], modes[i] })
			n, err := w.restart(ctx, s, modes...)
			if faults += n; err != nil {
				return err
			}
		}
		return w.untilAcked(ctx, 200)
	})
	w.evaluate(t, "T5", faults, violations)
}

// restart restarts the server in each of the modes, after some writes each, and returns how often.
func (w *workload) restart(ctx context.Context, s *pgtest.Server, modes ...string) (times int, err error) {
	for _, mode := range modes {
		if err := w.untilAcked(ctx, scaled(200, 1500)); err != nil {
			return times, err
		}
		w.noteFault()
		times++
		if err := s.Restart(mode); err != nil {
			return times, err
		}
	}
	return times, nil
}

// blackHole makes all connections black holes after some writes.
func (w *workload) blackHole(ctx context.Context, p *proxy) error {
	if err := w.untilAcked(ctx, 500); err != nil {
		return err
	}
	w.noteFault()
	p.blackHoleAll()
	return nil
}

// TestBlackHole checks that clients recover when their connections become black holes,
// which nothing signals. A writer has a deadline; a subscription must notice on its
// own.
func TestBlackHole(t *testing.T) {
	needsCI(t) // it waits for a subscription's read timeout
	url := database(t)
	p := newProxy(t, url)
	w := newWorkload(url, p.url(), *seedFlag)
	w.messages, w.deadline, w.timeout = 5000, 2*time.Second, 5*time.Minute
	violations := w.run(t, func(ctx context.Context) error { return w.blackHole(ctx, p) })
	w.evaluate(t, "T7", int(p.injected.Load()), violations)
}

// TestOutage checks a workload during short outages, after which the same connections
// go on.
func TestOutage(t *testing.T) {
	pgtest.NeedTime(t)
	url := database(t)
	p := newProxy(t, url)
	w := newWorkload(url, p.url(), *seedFlag)
	w.messages, w.deadline = 0, 100*time.Millisecond
	violations := w.run(t, func(ctx context.Context) error { return w.outages(ctx, p) })
	w.evaluate(t, "T7", int(p.injected.Load()), violations)
}

// outages injects outages of random lengths.
func (w *workload) outages(ctx context.Context, p *proxy) error {
	return w.repeat(ctx, scaled(20, 150), 50*time.Millisecond, func() error {
		w.outage(p, time.Duration(w.rng.Int64N(int64(300*time.Millisecond))))
		return nil
	})
}

// outage lets nothing through the proxy for the given time. The end of the workload
// does not shorten it.
func (w *workload) outage(p *proxy, length time.Duration) {
	w.noteFault()
	p.setOutage(true)
	defer p.setOutage(false)
	<-time.After(length)
}

// TestLongOutages checks outages that last longer than the timeouts of writes and of
// connecting.
func TestLongOutages(t *testing.T) {
	needsCI(t)
	longOutages(t, *seedFlag, 15*time.Second)
}

func longOutages(t *testing.T, seed uint64, longest time.Duration) {
	const shortest = 5 * time.Second
	url := database(t)
	p := newProxy(t, url)
	w := newWorkload(url, p.url(), seed)
	w.messages, w.deadline, w.timeout = 0, time.Second, 10*time.Minute
	violations := w.run(t, func(ctx context.Context) error {
		for range 5 {
			if err := w.untilAcked(ctx, 300); err != nil {
				return err
			}
			w.outage(p, shortest+time.Duration(w.rng.Int64N(int64(longest-shortest))))
		}
		return w.untilAcked(ctx, 300)
	})
	w.evaluate(t, "T7", int(p.injected.Load()), violations)
}

// TestFewConnections checks that all subscriptions and writers, those in handlers too,
// can share one connection, and that they cope with a server that allows them two.
func TestFewConnections(t *testing.T) {
	pgtest.NeedTime(t)
	for name, limit := range map[string]int{"one": 0, "limited": 2} {
		t.Run(name, func(t *testing.T) {
			url := database(t)
			p := newProxy(t, url)
			w := newWorkload(url, p.url(), *seedFlag)
			w.messages, w.conns, w.options = scaled(500, 5000), 1, []mdb.StoreOption{persistent}
			if limit > 0 {
				w.conns = 4
				admin := connect(t, url)
				role := "few" + strings.ToLower(admin.Config().Database)
				execute(t, admin, "CREATE ROLE "+role+" LOGIN PASSWORD '"+password+"' IN ROLE message_store CONNECTION LIMIT 2")
				t.Cleanup(func() { execute(t, connect(t, url), "DROP ROLE "+role) })
				p.target.User, p.target.Password = role, password
				w.through = p.url()
				// Otherwise the writers' pool might keep both for half an hour.
				w.configure = func(cfg *pgxpool.Config) {
					cfg.MaxConnLifetime, cfg.HealthCheckPeriod = time.Second, 100*time.Millisecond
				}
			}
			violations := w.run(t, nil)
			w.evaluate(t, "T16", limit, violations)
		})
	}
}

// TestSlowNetwork checks a workload while each message of the protocol is delayed.
func TestSlowNetwork(t *testing.T) {
	url := database(t)
	p := newProxy(t, url)
	w := newWorkload(url, p.url(), *seedFlag)
	w.messages, w.batch = scaled(100, 1000), 10
	p.setLatency(scaled(2*time.Millisecond, 5*time.Millisecond))
	w.evaluate(t, "T16", 1, w.run(t, nil))
}
