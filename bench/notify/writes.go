package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/perf/benchmath"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// slowCommits makes each flush of the log take two milliseconds longer, as on a disk
// that is not local: the server itself waits before it flushes, even for a single
// transaction.
var slowCommits = []pgtest.Option{pgtest.Setting("commit_delay", "2000"), pgtest.Setting("commit_siblings", "0")}

var durable = []pgtest.Option{pgtest.Setting("fsync", "on"), pgtest.Setting("full_page_writes", "on")}

func summary(values []float64) benchmath.Summary {
	thresholds := benchmath.DefaultThresholds
	return benchmath.AssumeNothing.Summary(benchmath.NewSample(values, &thresholds), 0.95)
}

// A latencies gathers how long messages took to arrive.
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

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(q*float64(len(sorted)-1))]
}

// writes compares the writers' speed on all sides.
func (b *bench) writes(ctx context.Context) error {
	for _, disk := range []struct {
		name    string
		options []pgtest.Option
		slow    bool
	}{{"at the disk's own speed", durable, false}, {"with commits slowed by 2 ms (commit_delay)", append(slices.Clone(durable), slowCommits...), true}} {
		server, err := pgtest.Start(ctx, disk.options...)
		if err != nil {
			return err
		}
		all := sides()
		if err := open(ctx, server, all); err != nil {
			return err
		}
		for _, who := range []string{"nobody is subscribed", "all categories are subscribed, asleep at first, handlers instant", "all categories are subscribed, handlers of 1 ms, never asleep"} {
			fmt.Printf("\n## Writes, %s, %s\n\n", disk.name, who)
			fmt.Println("| writers | side | writes/s | × no trigger (95 % interval) | handler p50 | p99 | rings/s |\n|---:|---|---:|---:|---:|---:|---:|")
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
		rings    float64
	}
	results := make([]result, len(all))
	for range b.rounds {
		order := []int{0, 1, 2, 2, 1, 0}
		rates := make([]float64, len(all))
		for _, i := range order {
			rate, arrivals, rings, err := all[i].turn(ctx, who, n, b.turn)
			if err != nil {
				return fmt.Errorf("%s: %w", all[i].name, err)
			}
			rates[i] += rate / 2
			results[i].arrivals = append(results[i].arrivals, arrivals...)
			results[i].rings += rings / float64(2*b.rounds)
		}
		for i := range all {
			results[i].rates = append(results[i].rates, rates[i])
		}
	}
	ratios := make([]benchmath.Summary, len(all))
	p50 := make([]time.Duration, len(all))
	for i, s := range all {
		ratio := make([]float64, len(results[i].rates))
		for round := range ratio {
			ratio[round] = results[i].rates[round] / results[0].rates[round]
		}
		ratios[i] = summary(ratio)
		slices.Sort(results[i].arrivals)
		p50[i] = quantile(results[i].arrivals, 0.5)
		fmt.Printf("| %d | %s | %.0f | %.2f (%.2f–%.2f) | %v | %v | %.0f |\n", n, s.name, summary(results[i].rates).Center,
			ratios[i].Center, ratios[i].Lo, ratios[i].Hi,
			p50[i].Round(10*time.Microsecond), quantile(results[i].arrivals, 0.99).Round(10*time.Microsecond), results[i].rings)
	}
	switch {
	case strings.HasPrefix(who, "nobody"):
		floor := 0.95
		if slow {
			floor = 0.99
		}
		b.require(ratios[2].Hi >= floor, "nobody subscribed, %d writers, slow %t: doorbell at %.2f of no trigger, want %.2f", n, slow, ratios[2].Hi, floor)
	case strings.Contains(who, "never asleep"):
		b.require(ratios[2].Hi >= 0.9, "all busy, %d writers, slow %t: doorbell at %.2f of polling, want 0.9", n, slow, ratios[2].Hi)
		b.require(p50[2] <= p50[0], "all busy, %d writers, slow %t: handler p50 %v, polling %v", n, slow, p50[2], p50[0])
	}
	if slow && n == 32 && strings.HasPrefix(who, "nobody") {
		times := summary(results[2].rates).Center / summary(results[1].rates).Center
		b.require(times >= 5, "slowed commits, 32 writers: doorbell at %.1f of plain NOTIFY, want 5", times)
	}
	return nil
}

// settling is how long it takes a doorbell at rest to spend what its budget has saved.
const settling = 600 * time.Millisecond

// turn measures once, and returns the writes a second, how long messages took to
// their handlers, and the rings a second.
func (s *side) turn(ctx context.Context, who string, n int, d time.Duration) (rate float64, arrivals []time.Duration, rings float64, err error) {
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
	if !strings.HasPrefix(who, "nobody") {
		h := l.add
		if strings.Contains(who, "never asleep") {
			h = func(latency time.Duration) { l.add(latency); time.Sleep(time.Millisecond) }
		}
		if stop, err = s.subscribe(ctx, reader, categories, category, h); err != nil {
			return 0, nil, 0, err
		}
	}
	// Connections and plans are made before, and subscriptions have met the load.
	warming := d / 4
	if !strings.HasPrefix(who, "nobody") {
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
	rings = float64(reader.NotifyStats().Notifications-before) / took
	if err == nil {
		err = stop()
	}
	return float64(written) / took, l.take(), rings, err
}
