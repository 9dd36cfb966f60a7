package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/perf/benchmath"

	"github.com/messagedb-go/messagedb/bench/internal/figures"
	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// slowCommits delays each flush of the write-ahead log by two milliseconds, as a network
// disk would.
var slowCommits = []pgtest.Option{pgtest.Setting("commit_delay", "2000"), pgtest.Setting("commit_siblings", "0")}

var durable = []pgtest.Option{pgtest.Setting("fsync", "on"), pgtest.Setting("full_page_writes", "on")}

// latencies collects how long messages took to arrive.
type latencies struct {
	mu     sync.Mutex
	values []time.Duration
}

func (l *latencies) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.values = append(l.values, d)
}

func (l *latencies) take() []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	values := l.values
	l.values = nil
	slices.Sort(values)
	return values
}

// Who is subscribed while the writers write.
const (
	nobody   = "nobody is subscribed"
	caughtUp = "all categories are subscribed, handlers return immediately"
	busy     = "all categories are subscribed, handlers take 1 ms"
)

// writes compares the throughput of writers.
func (b *bench) writes(ctx context.Context) error {
	for _, disk := range []struct {
		name    string
		options []pgtest.Option
		slow    bool
	}{{"commits as fast as the disk", durable, false}, {"commits delayed by 2 ms (commit_delay)", append(slices.Clone(durable), slowCommits...), true}} {
		server, err := pgtest.Start(ctx, disk.options...)
		if err != nil {
			return err
		}
		all := sides()
		if err := open(ctx, server, all); err != nil {
			return err
		}
		for _, who := range []string{nobody, caughtUp, busy} {
			fmt.Printf("\n## Writes: %s, %s\n\n", disk.name, who)
			fmt.Println("| writers | trigger | writes/s | ratio to no trigger (95 % interval) | handler p50 | p99 | notifications/s |\n|---:|---|---:|---:|---:|---:|---:|")
			for _, n := range []int{1, 8, 32} {
				if err := b.compareWrites(ctx, all, who, n, disk.slow); err != nil {
					return err
				}
			}
		}
		if err := server.Stop(); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) compareWrites(ctx context.Context, all []*side, who string, n int, slow bool) error {
	type result struct {
		rates    []float64
		arrivals []time.Duration
		notified float64
	}
	results := make([]result, len(all))
	for range b.rounds {
		order := []int{0, 1, 2, 2, 1, 0}
		rates := make([]float64, len(all))
		for _, i := range order {
			rate, arrivals, notified, err := all[i].turn(ctx, who, n, b.turn)
			if err != nil {
				return fmt.Errorf("%s: %w", all[i].name, err)
			}
			rates[i] += rate / 2
			results[i].arrivals = append(results[i].arrivals, arrivals...)
			results[i].notified += notified / float64(2*b.rounds)
		}
		for i := range all {
			results[i].rates = append(results[i].rates, rates[i])
		}
	}
	ratios := make([]benchmath.Summary, len(all))
	p50 := make([]time.Duration, len(all))
	for i, s := range all {
		ratios[i] = figures.Ratio(results[i].rates, results[0].rates)
		slices.Sort(results[i].arrivals)
		p50[i] = figures.Quantile(results[i].arrivals, 0.5)
		fmt.Printf("| %d | %s | %.0f | %.2f (%.2f–%.2f) | %s | %s | %.0f |\n", n, s.name, figures.Summary(results[i].rates).Center,
			ratios[i].Center, ratios[i].Lo, ratios[i].Hi,
			figures.Duration(p50[i]), figures.Duration(figures.Quantile(results[i].arrivals, 0.99)), results[i].notified)
	}
	switch who {
	case nobody:
		least := 0.95
		if slow {
			least = 0.99
		}
		b.require(ratios[2].Hi >= least, "nobody subscribed, %d writers, slow %t: %.2f of no trigger, want %.2f", n, slow, ratios[2].Hi, least)
	case busy:
		b.require(ratios[2].Hi >= 0.9, "all busy, %d writers, slow %t: %.2f of polling, want 0.9", n, slow, ratios[2].Hi)
		b.require(p50[2] <= p50[0], "all busy, %d writers, slow %t: handler p50 %v, polling %v", n, slow, p50[2], p50[0])
	}
	if slow && n == 32 && who == nobody {
		times := figures.Summary(results[2].rates).Center / figures.Summary(results[1].rates).Center
		b.require(times >= 5, "delayed commits, 32 writers: %.1f of a trigger that notifies on each insert, want 5", times)
	}
	return nil
}

// settling is how long an idle store needs to use up the notifications that it may send
// in a burst.
const settling = 600 * time.Millisecond

// turn measures once. It returns the writes per second, how long messages took to reach
// their handlers, and the notifications per second.
func (s *side) turn(ctx context.Context, who string, n int, d time.Duration) (rate float64, arrivals []time.Duration, notified float64, err error) {
	writer, err := s.store(ctx, n)
	if err != nil {
		return 0, nil, 0, err
	}
	defer writer.Close()
	reader, err := s.store(ctx, 4)
	if err != nil {
		return 0, nil, 0, err
	}
	defer reader.Close()
	var l latencies
	stop := func() error { return nil }
	if who != nobody {
		h := l.add
		if who == busy {
			h = func(latency time.Duration) { l.add(latency); time.Sleep(time.Millisecond) }
		}
		if stop, err = s.subscribe(ctx, reader, categories, category, h); err != nil {
			return 0, nil, 0, err
		}
	}
	// Open connections, prepare statements, and let subscriptions adapt to the load.
	warming := d / 4
	if who != nobody {
		warming = settling
	}
	warm, cancel := context.WithTimeout(ctx, warming)
	_, err = write(warm, writer, n)
	cancel()
	if err != nil {
		return 0, nil, 0, err
	}
	l.take()
	before := reader.NotifyStats().Notifications
	turn, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	begin := time.Now()
	written, err := write(turn, writer, n)
	took := time.Since(begin).Seconds()
	notified = float64(reader.NotifyStats().Notifications-before) / took
	if err == nil {
		err = stop()
	}
	return float64(written) / took, l.take(), notified, err
}
