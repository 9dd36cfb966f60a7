package mdbotel

import (
	"context"
	"sync"
	"time"
)

// queryTimeout limits a query: whoever collects metrics waits for it.
const queryTimeout = 5 * time.Second

// A sampled value is one that is queried when metrics are collected, but no more often than the interval says.
type sampled[T any] struct {
	interval time.Duration
	query    func(context.Context) (T, error)

	mu   sync.Mutex
	at   time.Time // of the last query; guarded by mu
	last T         // guarded by mu
}

func (s *sampled[T]) get(ctx context.Context) (T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.at.IsZero() && time.Since(s.at) < s.interval {
		return s.last, nil
	}
	ctx, cancel := context.WithTimeout(ctx, min(s.interval, queryTimeout)) // the exporter for Prometheus has no limit
	defer cancel()
	value, err := s.query(ctx)
	if err == nil {
		s.last, s.at = value, time.Now()
	}
	return value, err
}
