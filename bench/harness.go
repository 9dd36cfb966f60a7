package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/messagedb-go/messagedb/bench/internal/proctab"
)

// A rival does what a case asks in its own way.
type rival struct {
	name string
	// op does it once.
	op func(ctx context.Context) error
	// many does it ops times with so many workers in a process of its own, if there
	// is no op, and returns how long that took.
	many func(ctx context.Context, ops, workers int) (time.Duration, error)
}

// A benchCase is a table of the report.
type benchCase struct {
	name     string
	quick    bool // of the quick run as well
	messages int  // that an op writes or reads
	workers  int  // at the same time, 1 if 0
	rounds   int  // at most, if not 0: of ops that take seconds
	rivals   []rival
}

// A sample is what one rival did in one turn of a round.
type sample struct {
	Case, Rival string
	Round       int
	Ops         int
	NsPerOp     float64
	AllocsPerOp float64
	BytesPerOp  float64
	// ServerNsPerOp is the CPU time of the server's processes, in ticks of 10 ms.
	ServerNsPerOp float64
}

// warmUps are the ops of a turn that do not count.
const warmUps = 3

// A harness measures cases on a server.
type harness struct {
	postmaster int
	rounds     int
	turn       time.Duration
}

// measure runs the rivals of a case in turn, round after round, forth and back
// (ABBA), so that whatever slows the machine for a while slows them alike, and
// what comes first in a round comes last in it as well. The order is another in each
// round, because what runs before leaves its traces in the caches.
func (h *harness) measure(ctx context.Context, c benchCase) ([]sample, error) {
	ops := make([]int, len(c.rivals))
	order := make([]int, len(c.rivals))
	for i, r := range c.rivals {
		n, err := h.calibrate(ctx, c, r)
		if err != nil {
			return nil, fmt.Errorf("%s, %s: %w", c.name, r.name, err)
		}
		if r.op == nil {
			n *= 8 // because it connects anew, and its first ops are made slow by that
		}
		ops[i], order[i] = n, i
	}
	rounds := h.rounds
	if c.rounds != 0 {
		rounds = min(rounds, c.rounds)
	}
	var samples []sample
	for round := range rounds {
		rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for range 2 {
			for _, i := range order {
				s, err := h.run(ctx, c, c.rivals[i], ops[i])
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", c.name, c.rivals[i].name, err)
				}
				s.Case, s.Rival, s.Round = c.name, c.rivals[i].name, round
				samples = append(samples, s)
			}
			slices.Reverse(order)
		}
	}
	return samples, nil
}

// calibrate warms the rival up, and returns how many ops fill a turn.
func (h *harness) calibrate(ctx context.Context, c benchCase, r rival) (int, error) {
	n := max(1, c.workers)
	// The first ops open connections and prepare statements on them, and say nothing
	// of those that follow.
	if _, err := r.do(ctx, n, n); err != nil {
		return 0, err
	}
	for {
		s, err := h.run(ctx, c, r, n)
		if err != nil {
			return 0, err
		}
		took := time.Duration(s.NsPerOp * float64(n))
		if took >= h.turn/2 || n >= 1<<20 {
			return max(1, c.workers, int(float64(h.turn)/s.NsPerOp)), nil
		}
		n *= 2
	}
}

func (h *harness) run(ctx context.Context, c benchCase, r rival, ops int) (sample, error) {
	var before, after runtime.MemStats
	// What the one before has left to collect is not this one's.
	runtime.GC()
	// Nor is what it has driven from the caches.
	if r.op != nil && ops >= 3*warmUps {
		if _, err := r.do(ctx, warmUps, 1); err != nil {
			return sample{}, err
		}
	}
	server := proctab.CPU(h.postmaster)
	runtime.ReadMemStats(&before)
	took, err := r.do(ctx, ops, max(1, c.workers))
	if err != nil {
		return sample{}, err
	}
	runtime.ReadMemStats(&after)
	n := float64(ops)
	return sample{
		Ops:           ops,
		NsPerOp:       float64(took.Nanoseconds()) / n,
		AllocsPerOp:   float64(after.Mallocs-before.Mallocs) / n,
		BytesPerOp:    float64(after.TotalAlloc-before.TotalAlloc) / n,
		ServerNsPerOp: float64((proctab.CPU(h.postmaster) - server).Nanoseconds()) / n,
	}, nil
}

func (r rival) do(ctx context.Context, ops, workers int) (time.Duration, error) {
	if r.op == nil {
		return r.many(ctx, ops, workers)
	}
	begin := time.Now()
	if workers == 1 {
		for range ops {
			if err := r.op(ctx); err != nil {
				return 0, err
			}
		}
		return time.Since(begin), nil
	}
	var left atomic.Int64
	left.Store(int64(ops))
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for errs[i] == nil && left.Add(-1) >= 0 {
				errs[i] = r.op(ctx)
			}
		})
	}
	wg.Wait()
	return time.Since(begin), errors.Join(errs...)
}
