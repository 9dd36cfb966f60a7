package main

import (
	"context"
	"fmt"
	"math"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/bench/internal/figures"
	"github.com/messagedb-go/messagedb/bench/internal/pgserver"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
)

// notifyOnly starts a server with a database for schema.InstallNotify.
func notifyOnly(ctx context.Context) (*pgtest.Server, *side, error) {
	server, err := pgtest.Start(ctx, append(durable, pgtest.Setting("max_connections", "500"))...)
	if err != nil {
		return nil, nil, err
	}
	s := sides()[2]
	return server, s, open(ctx, server, []*side{s})
}

// limit writes slowly to very many categories, which would together notify more often than
// MaxNotifications.
func (b *bench) limit(ctx context.Context) error {
	const slow, perSecond, seconds = 200, 10, 10
	fmt.Printf("\n## MaxNotifications: %d categories of %d writes/s each, all subscribed\n\n", slow, perSecond)
	fmt.Println("| stores | writes/s | notifications/s | handler p50 | p99 | client CPU | server CPU |\n|---:|---:|---:|---:|---:|---:|---:|")
	name := func(i int) mdb.Category { return mdb.Category(fmt.Sprintf("slow%d", i)) }
	for _, n := range []int{1, 10, 100} {
		server, s, err := notifyOnly(ctx)
		if err != nil {
			return err
		}
		writer, err := s.store(ctx, 8)
		if err != nil {
			return err
		}
		var l latencies
		stores := make([]*mdb.Store, n)
		stops := make([]func() error, n)
		for i := range stores {
			if stores[i], err = s.store(ctx, 2); err != nil {
				return err
			}
			// Each store subscribes to its share of the categories, and to at least one.
			share := max(1, slow/n)
			if stops[i], err = s.subscribe(ctx, stores[i], share, func(j int) mdb.Category { return name(i*share + j) }, l.add); err != nil {
				return err
			}
		}
		client, before := cpu(ctx, writer)
		notified := stores[0].NotifyStats().Notifications
		begin := time.Now()
		written := paced(ctx, slow*perSecond, seconds*time.Second, func(i int) error {
			_, err := writer.WriteMessage(ctx, name(i%slow).Stream("1"), mdb.NewMessage("Happened", nil))
			return err
		})
		took := time.Since(begin).Seconds()
		rate := float64(stores[0].NotifyStats().Notifications-notified) / took
		clientAfter, after := cpu(ctx, writer)
		arrivals := l.take()
		fmt.Printf("| %d | %.0f | %.0f | %s | %s | %.0f %% | %.0f %% |\n", n, float64(written)/took, rate,
			figures.Duration(figures.Quantile(arrivals, 0.5)), figures.Duration(figures.Quantile(arrivals, 0.99)),
			100*(clientAfter-client)/took, 100*(after-before)/took)
		b.require(rate <= 1.2*mdb.DefaultMaxNotifications, "%d stores: %.0f notifications/s, want at most %.0f", n, rate, 1.2*mdb.DefaultMaxNotifications)
		for i := range stores {
			if err := stops[i](); err != nil {
				return err
			}
			stores[i].Close()
		}
		writer.Close()
		if err := server.Stop(); err != nil {
			return err
		}
	}
	return nil
}

// paced calls f at a fixed rate and returns how often it succeeded. A slow call does not
// delay those after it.
func paced(ctx context.Context, perSecond int, d time.Duration, f func(i int) error) int {
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := 0
	slots := make(chan struct{}, 8)
	begin := time.Now()
	for i := range int(float64(perSecond) * d.Seconds()) {
		time.Sleep(time.Until(begin.Add(time.Duration(float64(i) / float64(perSecond) * float64(time.Second)))))
		if ctx.Err() != nil {
			break
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if f(i) == nil {
				mu.Lock()
				done++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return done
}

// latency measures the time from the beginning of a transaction to the handler.
func (b *bench) latency(ctx context.Context) error {
	server, err := pgtest.Start(ctx, durable...)
	if err != nil {
		return err
	}
	all := sides()
	if err := open(ctx, server, all); err != nil {
		return err
	}
	shortest, err := shortestLatency(ctx, all[0])
	if err != nil {
		return err
	}
	fmt.Printf("\n## From write to handler\n\nA write's round trip, the delivery of a bare NOTIFY and a read's round trip take %s together (medians).\n\n", figures.Duration(shortest))
	fmt.Println("| writes/s | trigger | p50 | p99 | max |\n|---:|---|---:|---:|---:|")
	for _, perSecond := range []int{1, 50, 500} {
		for _, s := range all {
			store, err := s.store(ctx, 4)
			if err != nil {
				return err
			}
			writer, err := s.store(ctx, 8)
			if err != nil {
				return err
			}
			var l latencies
			stop, err := s.subscribe(ctx, store, 1, category, l.add)
			if err != nil {
				return err
			}
			d := 8 * time.Second
			if perSecond == 1 {
				d = 20 * time.Second
			}
			paced(ctx, perSecond, d, func(int) error {
				_, err := writer.WriteMessage(ctx, category(0).Stream("1"), mdb.NewMessage("Happened", nil))
				return err
			})
			time.Sleep(200 * time.Millisecond) // until polling has found the last messages
			values := l.take()
			p50 := figures.Quantile(values, 0.5)
			fmt.Printf("| %d | %s | %s | %s | %s |\n", perSecond, s.name, figures.Duration(p50),
				figures.Duration(figures.Quantile(values, 0.99)), figures.Duration(figures.Quantile(values, 1)))
			if s.name == ourTrigger && perSecond == 50 {
				b.require(p50 <= shortest*3/2, "latency at 50 writes/s: p50 %v, want at most %v", p50, shortest*3/2)
			}
			if err := stop(); err != nil {
				return err
			}
			store.Close()
			writer.Close()
		}
	}
	return server.Stop()
}

// shortestLatency returns the sum of the medians of the steps that no subscription can
// leave out.
func shortestLatency(ctx context.Context, s *side) (time.Duration, error) {
	store, err := s.store(ctx, 2)
	if err != nil {
		return 0, err
	}
	defer store.Close()
	listener, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return 0, err
	}
	defer func() { _ = listener.Close(ctx) }()
	if _, err := listener.Exec(ctx, "LISTEN shortest"); err != nil {
		return 0, err
	}
	var total time.Duration
	for _, step := range []func() error{
		func() error {
			_, err := store.WriteMessage(ctx, "shortest-1", mdb.NewMessage("Happened", nil))
			return err
		},
		func() error {
			if _, err := store.Pool().Exec(ctx, "NOTIFY shortest"); err != nil {
				return err
			}
			_, err := listener.WaitForNotification(ctx)
			return err
		},
		func() error {
			_, err := store.GetCategoryMessages(ctx, "shortest", mdb.FromGlobalPosition(math.MaxInt64))
			return err
		},
	} {
		var l latencies
		for range 200 {
			begin := time.Now()
			if err := step(); err != nil {
				return 0, err
			}
			l.add(time.Since(begin))
			time.Sleep(5 * time.Millisecond) // as idle between steps as with 50 writes per second
		}
		total += figures.Quantile(l.take(), 0.5)
	}
	return total, nil
}

// idle measures very many subscriptions without messages.
func (b *bench) idle(ctx context.Context) error {
	const n, seconds = 500, 20
	server, s, err := notifyOnly(ctx)
	if err != nil {
		return err
	}
	store, err := s.store(ctx, 4)
	if err != nil {
		return err
	}
	stop, err := s.subscribe(ctx, store, n, func(i int) mdb.Category { return mdb.Category(fmt.Sprintf("idle%d", i)) }, func(time.Duration) {})
	if err != nil {
		return err
	}
	for store.NotifyStats().Waiting < n {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(time.Second)
	client, before := cpu(ctx, store)
	reads := store.NotifyStats().Reads
	time.Sleep(seconds * time.Second)
	rate := float64(store.NotifyStats().Reads-reads) / seconds
	clientAfter, after := cpu(ctx, store)
	var connections int
	const count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
	if err := store.Pool().QueryRow(ctx, count).Scan(&connections); err != nil {
		return err
	}
	extra := connections - int(store.Pool().Stat().TotalConns())
	fmt.Printf("\n## %d idle subscriptions on one store\n\n| reads/s | connections besides the pool's | client CPU | server CPU |\n|---:|---:|---:|---:|\n", n)
	fmt.Printf("| %.0f | %d | %.1f %% | %.1f %% |\n", rate, extra, 100*(clientAfter-client)/seconds, 100*(after-before)/seconds)
	// Fallback polls come up to a quarter early, so that they do not coincide.
	most := n/mdb.DefaultNotifyFallback.Seconds()/0.75 + 1
	b.require(rate <= most, "idle: %.0f reads/s, want at most %.0f", rate, most)
	b.require(extra == 1, "idle: %d connections besides the pool's, want 1", extra)
	if err := stop(); err != nil {
		return err
	}
	store.Close()
	return server.Stop()
}

// cpu returns the CPU time of this process and of the server, in seconds.
func cpu(ctx context.Context, store *mdb.Store) (client, server float64) {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	client = time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
	postmaster, err := pgserver.Postmaster(ctx, store.Pool())
	if err != nil {
		return client, 0
	}
	return client, pgserver.CPU(postmaster).Seconds()
}
