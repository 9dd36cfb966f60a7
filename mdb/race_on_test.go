//go:build race

package mdb_test

// raceEnabled excuses the tests that count allocations: under the race
// detector a sync.Pool drops some of what it is given.
const raceEnabled = true
