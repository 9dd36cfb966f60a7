package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"
)

// A rival does what a case asks in its own way.
type rival struct {
	name string
	// op does it once.
	op func(ctx context.Context) error
}

// A benchCase is one row of the table.
type benchCase struct {
	name     string
	messages int // that an op writes or reads
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
}

// measure runs the rivals of a case in turn, round after round, forth and back
// (ABBA), so that whatever slows the machine for a while slows them alike, and
// what comes first in a round comes last in it as well.
func measure(ctx context.Context, c benchCase, rounds int, turn time.Duration) ([]sample, error) {
	ops := make([]int, len(c.rivals))
	for i, r := range c.rivals {
		n, err := calibrate(ctx, r, turn)
		if err != nil {
			return nil, fmt.Errorf("%s, %s: %w", c.name, r.name, err)
		}
		ops[i] = n
	}
	order := make([]int, len(c.rivals))
	for i := range order {
		order[i] = i
	}
	var samples []sample
	for round := range rounds {
		for range 2 {
			for _, i := range order {
				s, err := run(ctx, c.rivals[i], ops[i])
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
func calibrate(ctx context.Context, r rival, turn time.Duration) (int, error) {
	n := 1
	for {
		s, err := run(ctx, r, n)
		if err != nil {
			return 0, err
		}
		took := time.Duration(s.NsPerOp * float64(n))
		if took >= turn/2 || n >= 1<<20 {
			return max(1, int(float64(turn)/s.NsPerOp)), nil
		}
		n *= 2
	}
}

func run(ctx context.Context, r rival, ops int) (sample, error) {
	var before, after runtime.MemStats
	// What the one before has left to collect is not this one's.
	runtime.GC()
	runtime.ReadMemStats(&before)
	begin := time.Now()
	for range ops {
		if err := r.op(ctx); err != nil {
			return sample{}, err
		}
	}
	took := time.Since(begin)
	runtime.ReadMemStats(&after)
	n := float64(ops)
	return sample{
		Ops:         ops,
		NsPerOp:     float64(took.Nanoseconds()) / n,
		AllocsPerOp: float64(after.Mallocs-before.Mallocs) / n,
		BytesPerOp:  float64(after.TotalAlloc-before.TotalAlloc) / n,
	}, nil
}
