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

// A usage is the resources that clients use, in this process and on the server.
type usage struct{ goroutines, descriptors, connections int }

// idleUsage measures until two measurements in a row are equal, when everything that
// was ending has ended.
func idleUsage(t testing.TB, url string) usage {
	t.Helper()
	before := measureUsage(t, url)
	for range 20 {
		tick()
		now := measureUsage(t, url)
		if now == before {
			break
		}
		before = now
	}
	return before
}

func measureUsage(t testing.TB, url string) usage {
	t.Helper()
	var u usage
	ctx := context.WithoutCancel(t.Context())
	conn, err := pgx.Connect(ctx, url)
	if err == nil {
		err = conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()`).Scan(&u.connections)
		_ = conn.Close(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	for stack := range bytes.SplitSeq(stacks(), []byte("\n\n")) {
		// During a long write pgx starts to read in the background. On an idle
		// connection that goroutine waits for the next message; the connection itself
		// is counted.
		if !bytes.Contains(stack, []byte("bgreader.(*BGReader).bgRead")) {
			u.goroutines++
		}
	}
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil { // not on every system
		u.descriptors = len(entries)
	}
	return u
}

func stacks() []byte {
	b := make([]byte, 1<<20)
	return b[:runtime.Stack(b, true)]
}

// leaks returns the resources that are still in use beyond u after the timeout.
func (u usage) leaks(t testing.TB, url string, timeout time.Duration) (leaks []string) {
	t.Helper()
	var now usage
	for end := time.Now().Add(timeout); time.Now().Before(end); {
		if now = measureUsage(t, url); now.goroutines <= u.goroutines && now.descriptors <= u.descriptors && now.connections <= u.connections {
			return nil
		}
		tick()
	}
	if now.goroutines > u.goroutines {
		t.Logf("the goroutines:\n%s", stacks())
	}
	for _, x := range []struct {
		what        string
		before, now int
	}{
		{"goroutines", u.goroutines, now.goroutines},
		{"descriptors", u.descriptors, now.descriptors},
		{"connections", u.connections, now.connections},
	} {
		if x.now > x.before {
			leaks = append(leaks, fmt.Sprintf("%s: %d instead of %d", x.what, x.now, x.before))
		}
	}
	return leaks
}
