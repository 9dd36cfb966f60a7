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

// newName returns a database name that no other process uses. It tells when the
// database was created, which PostgreSQL itself does not.
func newName() string {
	return fmt.Sprintf("mdb_test_%d_%s_%d", time.Now().Unix(), nameProcess, nameCount.Add(1))
}

// leftover reports whether a database is of a run that ended long ago. Names
// that newName does not give are somebody else's.
func leftover(name string, now time.Time) bool {
	m := namePattern.FindStringSubmatch(name)
	if m == nil {
		return false
	}
	created, err := strconv.ParseInt(m[1], 10, 64)

	return err == nil && now.Sub(time.Unix(created, 0)) > time.Hour
}
