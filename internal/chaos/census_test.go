package chaos

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// A count of what a client takes up, in this process and on the server.
type count struct{ goroutines, descriptors, connections int }

// census counts once nothing goes away any more by itself.
func census(t testing.TB, url string) count {
	t.Helper()
	before := take(t, url)
	for range 20 {
		settle()
		now := take(t, url)
		if now == before {
			break
		}
		before = now
	}
	return before
}

// settle gives what has been told to end the time to do so. Nothing says when a
// goroutine of the driver's is over.
func settle() {
	timer := time.NewTimer(20 * time.Millisecond)
	<-timer.C
}

func take(t testing.TB, url string) count {
	t.Helper()
	var c count
	ctx := context.WithoutCancel(t.Context())
	conn, err := pgx.Connect(ctx, url)
	if err == nil {
		err = conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()`).Scan(&c.connections)
		_ = conn.Close(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	for stack := range bytes.SplitSeq(stacks(), []byte("\n\n")) {
		// Where a write takes long pgx begins to read beside it. That goroutine waits
		// for what comes next on an idle connection, which is counted itself.
		if !bytes.Contains(stack, []byte("bgreader.(*BGReader).bgRead")) {
			c.goroutines++
		}
	}
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil { // where there is one
		c.descriptors = len(entries)
	}
	return c
}

func stacks() []byte {
	b := make([]byte, 1<<20)
	return b[:runtime.Stack(b, true)]
}

// leaks tells what there is more of than when c was taken.
func (c count) leaks(t testing.TB, url string, patience time.Duration) (leaks []string) {
	t.Helper()
	var now count
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if now = take(t, url); now.goroutines <= c.goroutines && now.descriptors <= c.descriptors && now.connections <= c.connections {
			return nil
		}
		settle()
	}
	if now.goroutines > c.goroutines {
		t.Logf("the goroutines:\n%s", stacks())
	}
	for _, x := range []struct {
		what        string
		before, now int
	}{
		{"goroutines", c.goroutines, now.goroutines},
		{"descriptors", c.descriptors, now.descriptors},
		{"connections", c.connections, now.connections},
	} {
		if x.now > x.before {
			leaks = append(leaks, fmt.Sprintf("%s: %d instead of %d", x.what, x.now, x.before))
		}
	}
	return leaks
}
