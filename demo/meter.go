package main

import (
	"slices"
	"sync"
	"time"
)

// A meter counts events and keeps how long the latest of them took.
type meter struct {
	mu     sync.Mutex // guards what follows
	total  int64
	recent []sample
}

type sample struct {
	at   time.Time
	took time.Duration
}

const keep = 10 * time.Second // samples

func (m *meter) record(took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.total++
	m.recent = append(m.recent, sample{now, took})
	if old := m.recent[0].at; now.Sub(old) > 2*keep {
		m.recent = slices.Clone(m.since(now.Add(-keep)))
	}
}

func (m *meter) since(begin time.Time) []sample {
	i, _ := slices.BinarySearchFunc(m.recent, begin, func(s sample, t time.Time) int { return s.at.Compare(t) })
	return m.recent[i:]
}

// Figures are what a meter shows.
type figures struct {
	Total     int64
	PerSecond float64
	P50, P99  time.Duration
	Max       time.Duration
}

// figures returns the total, and the rate and the latencies within the window.
func (m *meter) figures(window time.Duration) figures {
	m.mu.Lock()
	defer m.mu.Unlock()
	window = min(window, keep)
	samples := m.since(time.Now().Add(-window))
	f := figures{Total: m.total, PerSecond: float64(len(samples)) / window.Seconds()}
	if len(samples) == 0 {
		return f
	}
	took := make([]time.Duration, len(samples))
	for i, s := range samples {
		took[i] = s.took
	}
	slices.Sort(took)
	last := len(took) - 1
	f.P50, f.P99, f.Max = took[last/2], took[last*99/100], took[last]
	return f
}
