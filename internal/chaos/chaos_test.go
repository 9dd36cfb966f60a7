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

// pause waits for a random time up to twice the mean, and reports whether ctx goes on.
func pause(ctx context.Context, rng *rand.Rand, mean time.Duration) bool {
	timer := time.NewTimer(time.Duration(rng.Int64N(int64(2 * mean))))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// every calls f again and again until ctx ends or f fails. It is for faults that
// clients get on with on any machine.
func every(ctx context.Context, rng *rand.Rand, mean time.Duration, f func() error) error {
	for pause(ctx, rng, mean) {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// several calls f so many times, and then waits until writers get on. It is for faults
// under which a slow machine may get nothing done.
func (w *world) several(ctx context.Context, times int, mean time.Duration, f func() error) error {
	for ; times > 0 && pause(ctx, w.rng, mean); times-- {
		if err := f(); err != nil {
			return err
		}
	}
	return w.untilAcked(ctx, 200)
}

// persistent makes writes outlast an outage.
var persistent = mdb.WithRetry(mdb.RetryPolicy{Attempts: 10_000, MaxDelay: 50 * time.Millisecond})

// TestChaos gives every connection a short life.
func TestChaos(t *testing.T) { chaos(t, *seedFlag) }

func chaos(t *testing.T, seed uint64) {
	url := database(t)
	p := newProxy(t, url)
	w := newWorld(url, p.url(), seed)
	w.messages = scaled(800, 20_000)
	rng := rand.New(rand.NewPCG(seed, 2))
	p.setLife(func() time.Duration { return 50*time.Millisecond + time.Duration(rng.IntN(1450))*time.Millisecond })
	violations := w.run(t, func(ctx context.Context) error {
		return every(ctx, w.rng, 50*time.Millisecond, func() error { w.fault(); return nil })
	})
	w.judge(t, "T3", int(p.hits.Load()), violations)
}

// TestTerminations has the server end sessions that are chosen at random.
func TestTerminations(t *testing.T) { terminations(t, *seedFlag) }

func terminations(t *testing.T, seed uint64) {
	url := database(t)
	p := newProxy(t, url)
	w := newWorld(url, p.url(), seed)
	w.messages = 0
	admin := connect(t, url)
	faults := 0
	violations := w.run(t, func(ctx context.Context) error {
		return w.several(ctx, scaled(100, 900), scaled(20*time.Millisecond, 50*time.Millisecond), func() error {
			rows, _ := admin.Query(context.WithoutCancel(ctx), `SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY pid`)
			pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
			if err != nil || len(pids) == 0 {
				return err
			}
			w.fault()
			faults++
			_, err = admin.Exec(context.WithoutCancel(ctx), `SELECT pg_terminate_backend($1)`, pids[w.rng.IntN(len(pids))])
			return err
		})
	})
	w.judge(t, "T4", faults, violations)
}

// TestRestarts restarts the server in all ways, one of which is to kill it.
func TestRestarts(t *testing.T) { restarts(t, *seedFlag, scaled(1, 2)) }

func restarts(t *testing.T, seed uint64, times int) {
	s, url := ownServer(t, pgtest.Setting("max_connections", "60"))
	w := newWorld(url, url, seed)
	w.messages, w.options = 0, []mdb.StoreOption{persistent}
	modes := []string{"fast", "immediate", "kill"}
	faults := 0
	violations := w.run(t, func(ctx context.Context) error {
		for range times {
			w.rng.Shuffle(len(modes), func(i, j int) { modes[i], modes[j] = modes[j], modes[i] })
			for _, mode := range modes {
				if err := w.untilAcked(ctx, scaled(200, 1500)); err != nil {
					return err
				}
				w.fault()
				faults++
				if err := s.Restart(mode); err != nil {
					return err
				}
			}
		}
		return w.untilAcked(ctx, 200)
	})
	w.judge(t, "T5", faults, violations)
}

// TestBlackHole makes connections lead nowhere, without an end that anybody is told
// of. A writer gives up when its context says so; a subscription has to by itself.
func TestBlackHole(t *testing.T) {
	needsCI(t) // it waits as long as a subscription does
	url := database(t)
	p := newProxy(t, url)
	w := newWorld(url, p.url(), *seedFlag)
	w.messages, w.deadline, w.patience = 5000, 2*time.Second, 5*time.Minute
	violations := w.run(t, func(ctx context.Context) error {
		if err := w.untilAcked(ctx, 500); err != nil {
			return err
		}
		w.fault()
		p.holeAll()
		return nil
	})
	w.judge(t, "T7", int(p.hits.Load()), violations)
}

// TestOutage has everything lead nowhere for a while, new connections too, and then
// go on where it was.
func TestOutage(t *testing.T) {
	pgtest.NeedTime(t)
	url := database(t)
	p := newProxy(t, url)
	w := newWorld(url, p.url(), *seedFlag)
	w.messages, w.deadline = 0, 100*time.Millisecond
	violations := w.run(t, func(ctx context.Context) error {
		return w.several(ctx, scaled(20, 150), 50*time.Millisecond, func() error {
			w.outage(p, time.Duration(w.rng.Int64N(int64(300*time.Millisecond))))
			return nil
		})
	})
	w.judge(t, "T7", int(p.hits.Load()), violations)
}

// outage has everything lead nowhere for so long, whoever waits for it.
func (w *world) outage(p *proxy, length time.Duration) {
	w.fault()
	p.blackHole(true)
	defer p.blackHole(false)
	<-time.After(length)
}

// TestLongOutages has outages that outlast a writer's patience, and that of whoever
// connects.
func TestLongOutages(t *testing.T) {
	needsCI(t)
	longOutages(t, *seedFlag, 15*time.Second)
}

func longOutages(t *testing.T, seed uint64, longest time.Duration) {
	const shortest = 5 * time.Second
	url := database(t)
	p := newProxy(t, url)
	w := newWorld(url, p.url(), seed)
	w.messages, w.deadline, w.patience = 0, time.Second, 10*time.Minute
	violations := w.run(t, func(ctx context.Context) error {
		for range 5 {
			if err := w.untilAcked(ctx, 300); err != nil {
				return err
			}
			w.outage(p, shortest+time.Duration(w.rng.Int64N(int64(longest-shortest))))
		}
		return w.untilAcked(ctx, 300)
	})
	w.judge(t, "T7", int(p.hits.Load()), violations)
}

// TestFewConnections has all subscriptions and writers, those in handlers too, share
// one connection, or meet a server that has no more than two for them.
func TestFewConnections(t *testing.T) {
	pgtest.NeedTime(t)
	for name, limit := range map[string]int{"one": 0, "refused": 2} {
		t.Run(name, func(t *testing.T) {
			url := database(t)
			p := newProxy(t, url)
			w := newWorld(url, p.url(), *seedFlag)
			w.messages, w.conns, w.options = scaled(500, 5000), 1, []mdb.StoreOption{persistent}
			if limit > 0 {
				w.conns = 4
				admin := connect(t, url)
				role := "few" + strings.ToLower(admin.Config().Database)
				execute(t, admin, "CREATE ROLE "+role+" LOGIN PASSWORD '"+password+"' IN ROLE message_store CONNECTION LIMIT 2")
				t.Cleanup(func() { execute(t, connect(t, url), "DROP ROLE "+role) })
				p.target.User, p.target.Password = role, password
				w.through = p.url()
				// Otherwise the writers' pool may keep both for half an hour.
				w.prepare = func(cfg *pgxpool.Config) {
					cfg.MaxConnLifetime, cfg.HealthCheckPeriod = time.Second, 100*time.Millisecond
				}
			}
			violations := w.run(t, nil)
			w.judge(t, "T16", limit, violations)
		})
	}
}

// TestSlowNetwork holds each message back.
func TestSlowNetwork(t *testing.T) {
	url := database(t)
	p := newProxy(t, url)
	w := newWorld(url, p.url(), *seedFlag)
	w.messages, w.batch = scaled(100, 1000), 10
	p.setPace(scaled(2*time.Millisecond, 5*time.Millisecond))
	w.judge(t, "T16", 1, w.run(t, nil))
}

// TestSoak runs all of it again and again, each time with another seed.
func TestSoak(t *testing.T) {
	if *sizeFlag != "soak" {
		t.Skip("of the size soak, see make soak")
	}
	rng := rand.New(rand.NewPCG(*seedFlag, 3))
	for end := time.Now().Add(*duration); time.Now().Before(end) && !t.Failed(); {
		for name, f := range map[string]func(*testing.T, uint64){
			"chaos": chaos, "terminations": terminations,
			"restarts":  func(t *testing.T, seed uint64) { restarts(t, seed, 4) },
			"consumers": killedConsumers, "writers": killedWriters, "handlers": failingHandlers, "rings": lostRings,
			"outages": func(t *testing.T, seed uint64) { longOutages(t, seed, time.Minute) },
			"model":   func(t *testing.T, seed uint64) { model(t, seed, 1000) },
		} {
			seed := rng.Uint64()
			t.Run(name, func(t *testing.T) { t.Logf("seed %d", seed); f(t, seed) })
		}
	}
}
