package pgtest

import (
	"crypto/rand"
	"fmt"
	"regexp"
	"strconv"
	"sync/atomic"
	"time"
)

var (
	namePattern = regexp.MustCompile(`^mdb_test_([0-9]{10})_[A-Z2-7]{8}_[0-9]+$`)
	nameProcess = rand.Text()[:8]
	nameCount   atomic.Int64
)

// newName returns a database name that no other process uses. It contains the time of
// creation, which PostgreSQL does not record.
func newName() string {
	return fmt.Sprintf("mdb_test_%d_%s_%d", time.Now().Unix(), nameProcess, nameCount.Add(1))
}

// leftover reports whether a database is left from an old run. A name that newName
// cannot have returned is never a leftover.
func leftover(name string, now time.Time) bool {
	m := namePattern.FindStringSubmatch(name)
	if m == nil {
		return false
	}
	created, err := strconv.ParseInt(m[1], 10, 64)

	return err == nil && now.Sub(time.Unix(created, 0)) > time.Hour
}
