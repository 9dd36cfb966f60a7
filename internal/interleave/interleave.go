// Package interleave enumerates the orders in which the steps of concurrent programs can
// happen, for tests.
package interleave

import "slices"

// All returns every order of the programs' steps that keeps each program's own order.
func All[Step any](programs ...[]Step) [][]Step {
	var all [][]Step
	var merge func(done []Step, rest [][]Step)
	merge = func(done []Step, rest [][]Step) {
		end := true
		for i, program := range rest {
			if len(program) > 0 {
				end = false
				next := slices.Clone(rest)
				next[i] = program[1:]
				merge(append(done, program[0]), next)
			}
		}
		if end {
			all = append(all, slices.Clone(done))
		}
	}
	merge(nil, programs)
	return all
}
