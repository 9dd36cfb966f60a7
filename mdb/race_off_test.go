//go:build !race

package mdb_test

const raceEnabled = false
