//go:build race

package pgtest

// Race reports whether this process was built with the race detector.
const Race = true
