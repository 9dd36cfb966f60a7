//go:build race

package mdb_test

// raceEnabled skips the tests that count allocations: under the race detector a sync.Pool
// drops some of its objects.
const raceEnabled = true
