//go:build race

package scan_test

// raceEnabled skips the tests that count allocations: under the race detector a
// sync.Pool drops some of the values put into it.
const raceEnabled = true
