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

	"github.com/messagedb-go/messagedb/bench/internal/pgserver"
)

// A variant is one way to do what a case measures.
type variant struct {
	name string
	// op does it once.
	op func(ctx context.Context) error
	// many, for variants without op, does it ops times in a process of its own and
	// returns how long that took.
	many func(ctx context.Context, ops, workers int) (time.Duration, error)
}

// A benchCase is a table of the report.
type benchCase struct {
	name     string
	quick    bool // whether -quick runs it
	messages int  // that an op writes or reads
	workers  int  // concurrent ops, 1 if 0
	rounds   int  // the most rounds if not 0, for ops that take long
	variants []variant
}

// A sample is one turn of a variant.
type sample struct {
	Case, Variant string
	Messages      int  // that an op writes or reads
	Outside       bool // whether the variant runs in a process of its own, whose allocations are unknown
	Round         int
	Ops           int
	NsPerOp       float64
	MedianNs      float64 // of the ops, if they are concurrent
	AllocsPerOp   float64
	BytesPerOp    float64
	// ServerNsPerOp is the CPU time of the server's processes, in ticks of 10 ms.
	ServerNsPerOp float64
}

// warmUps are the ops before a turn that are not measured.
const warmUps = 3

// A harness measures cases on a server.
type harness struct {
	postmaster int
	rounds     int
	turn       time.Duration
}

// measure runs the variants of a case in random order, round by round, forward and then
// backward (ABBA), so that whatever slows the machine for a while slows all of them, and
// no variant always runs after the same one. The samples are in the order of the variants.
func (h *harness) measure(ctx context.Context, c benchCase) ([]sample, error) {
	ops := make([]int, len(c.variants))
	order := make([]int, len(c.variants))
	for i, v := range c.variants {
		n, err := h.calibrate(ctx, c, v)
		if err != nil {
			return nil, fmt.Errorf("%s, %s: %w", c.name, v.name, err)
		}
		if v.op == nil {
			n *= 8 // it opens new connections, whose first ops are slow
		}
		ops[i], order[i] = n, i
	}
	rounds := h.rounds
	if c.rounds != 0 {
		rounds = min(rounds, c.rounds)
	}
	samples := make([][]sample, len(c.variants))
	for round := range rounds {
		rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for range 2 {
			for _, i := range order {
				s, err := h.run(ctx, c, c.variants[i], ops[i])
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", c.name, c.variants[i].name, err)
				}
				s.Case, s.Variant, s.Round = c.name, c.variants[i].name, round
				s.Messages, s.Outside = c.messages, c.variants[i].op == nil
				samples[i] = append(samples[i], s)
			}
			slices.Reverse(order)
		}
	}
	return slices.Concat(samples...), nil
}

// calibrate warms the variant up and returns how many ops fill a turn.
func (h *harness) calibrate(ctx context.Context, c benchCase, v variant) (int, error) {
	n := max(1, c.workers)
	// The first ops open connections and prepare statements.
	if _, _, err := v.do(ctx, n, n); err != nil {
		return 0, err
	}
	for {
		s, err := h.run(ctx, c, v, n)
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

func (h *harness) run(ctx context.Context, c benchCase, v variant, ops int) (sample, error) {
	var before, after runtime.MemStats
	// Garbage and cold caches that the previous variant left behind do not count.
	runtime.GC()
	if v.op != nil && ops >= 3*warmUps {
		if _, _, err := v.do(ctx, warmUps, 1); err != nil {
			return sample{}, err
		}
	}
	server := pgserver.CPU(h.postmaster)
	runtime.ReadMemStats(&before)
	took, median, err := v.do(ctx, ops, max(1, c.workers))
	if err != nil {
		return sample{}, err
	}
	runtime.ReadMemStats(&after)
	n := float64(ops)
	return sample{
		Ops:           ops,
		NsPerOp:       float64(took.Nanoseconds()) / n,
		MedianNs:      float64(median.Nanoseconds()),
		AllocsPerOp:   float64(after.Mallocs-before.Mallocs) / n,
		BytesPerOp:    float64(after.TotalAlloc-before.TotalAlloc) / n,
		ServerNsPerOp: float64((pgserver.CPU(h.postmaster) - server).Nanoseconds()) / n,
	}, nil
}

// do does ops, and returns how long that took, and the median of the times of concurrent ones.
func (v variant) do(ctx context.Context, ops, workers int) (took, median time.Duration, err error) {
	if v.op == nil {
		took, err = v.many(ctx, ops, workers)
		return took, 0, err
	}
	begin := time.Now()
	if workers == 1 {
		for range ops {
			if err := v.op(ctx); err != nil {
				return 0, 0, err
			}
		}
		return time.Since(begin), 0, nil
	}
	var next atomic.Int64
	times := make([]time.Duration, ops)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for op := next.Add(1) - 1; errs[i] == nil && op < int64(ops); op = next.Add(1) - 1 {
				begin := time.Now()
				errs[i] = v.op(ctx)
				times[op] = time.Since(begin)
			}
		})
	}
	wg.Wait()
	took = time.Since(begin)
	slices.Sort(times)
	return took, times[len(times)/2], errors.Join(errs...)
}
