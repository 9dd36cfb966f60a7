package pgtest

import (
	"crypto/rand"
	"fmt"
	"regexp"
	"sync/atomic"
	"time"
)

var (
	namePattern = regexp.MustCompile(`^mdb_test_[0-9]{10}_([A-Z2-7]{8})_[0-9]+$`)
	nameProcess = rand.Text()[:8]
	nameCount   atomic.Int64
)

// newName returns a database name that no other process uses. It contains the time of
// creation, which PostgreSQL does not record, for people.
func newName() string {
	return fmt.Sprintf("mdb_test_%d_%s_%d", time.Now().Unix(), nameProcess, nameCount.Add(1))
}

// processOf returns the process that created a database, or "" if newName cannot have
// returned its name.
func processOf(database string) string {
	if m := namePattern.FindStringSubmatch(database); m != nil {
		return m[1]
	}

	return ""
}
