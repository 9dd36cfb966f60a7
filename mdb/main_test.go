package mdb_test

import (
	"fmt"
	"os"
	"testing"
)

// TestMain lets connections take as long as the tests wait for anything else. The 2 seconds of Configure and Connect are for servers
// that are not alone with many tests on few processors. Hosts that do not answer are in URLs or configurations with a time of their own.
func TestMain(m *testing.M) {
	if err := os.Setenv("PGCONNECT_TIMEOUT", fmt.Sprint(testTimeout.Seconds())); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
