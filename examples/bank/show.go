package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// stats are what the demo shows while it runs.
type stats struct {
	conflicts atomic.Int64

	mu                           sync.Mutex
	transfers, reads, deliveries []time.Duration // how long each took
}

func (s *stats) transferred(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.transfers = append(s.transfers, d)
}

func (s *stats) read(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads = append(s.reads, d)
}

func (s *stats) delivered(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deliveries = append(s.deliveries, d)
}

func (s *stats) followed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.deliveries)
}

func (s *stats) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.transfers)
}

// A line of the table.
type line struct {
	what     string
	n        int
	p50, p99 time.Duration
}

func (s *stats) lines() []line {
	s.mu.Lock()
	transfers, reads, deliveries := slices.Clone(s.transfers), slices.Clone(s.reads), slices.Clone(s.deliveries)
	s.mu.Unlock()
	return []line{
		{"transfers (2 messages, 1 transaction)", len(transfers), quantile(transfers, 0.50), quantile(transfers, 0.99)},
		{"conflicts (read again, decided again)", int(s.conflicts.Load()), 0, 0},
		{"streams read", len(reads), quantile(reads, 0.50), quantile(reads, 0.99)},
		{"messages delivered to the group of three", len(deliveries), quantile(deliveries, 0.50), quantile(deliveries, 0.99)},
	}
}

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[int(q*float64(len(d)-1))]
}

// show shows the figures until ctx ends: a table that stays in place on a
// terminal, a line a second elsewhere. The function that it returns waits for
// that, and shows the last ones.
func (b *bank) show(ctx context.Context) (finish func()) {
	begin := time.Now()
	info, err := os.Stdout.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	interval := time.Second
	if terminal {
		interval = 200 * time.Millisecond
		b.table(time.Since(begin))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if terminal {
					fmt.Printf("\x1b[%dA", len(b.stats.lines())+1)
					b.table(time.Since(begin))
				} else {
					b.plain(time.Since(begin))
				}
			}
		}
	}()
	return func() {
		<-done
		if terminal {
			fmt.Printf("\x1b[%dA", len(b.stats.lines())+1)
		}
		b.table(time.Since(begin))
	}
}

func (b *bank) table(elapsed time.Duration) {
	fmt.Printf("%-42s %10s %10s %10s %10s\n", fmt.Sprintf("after %.1fs", elapsed.Seconds()), "count", "per second", "p50", "p99")
	for _, l := range b.stats.lines() {
		p50, p99 := "", ""
		if l.p50 > 0 {
			p50, p99 = l.p50.Round(10*time.Microsecond).String(), l.p99.Round(10*time.Microsecond).String()
		}
		fmt.Printf("%-42s %10d %10.0f %10s %10s\n", l.what, l.n, float64(l.n)/elapsed.Seconds(), p50, p99)
	}
}

func (b *bank) plain(elapsed time.Duration) {
	fmt.Printf("%4.0fs: %d transfers, %d conflicts, %d messages delivered to the group\n",
		elapsed.Seconds(), b.stats.count(), b.stats.conflicts.Load(), b.stats.followed())
}
