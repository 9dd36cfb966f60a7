package mdb_test

import (
	"fmt"
	"os"
	"testing"
)

// TestMain lets connections take as long as the tests wait for anything else. The 2 seconds of Configure and Connect are too few for a
// server that shares few processors with many tests. Tests with hosts that do not answer set a time of their own.
func TestMain(m *testing.M) {
	if err := os.Setenv("PGCONNECT_TIMEOUT", fmt.Sprint(testTimeout.Seconds())); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
