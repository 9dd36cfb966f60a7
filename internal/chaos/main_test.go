package chaos

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

var (
	sizeFlag     = flag.String("size", "small", "small, for make test-all; ci, for make test-faults; soak")
	seedFlag     = flag.Uint64("seed", 0, "the seed of all random decisions; 0: a new one")
	duration     = flag.Duration("duration", time.Minute, "how long TestSoak runs at size soak, and six times as long as TestLoad does then")
	failoverFlag = flag.Bool("failover", false, "run TestFailover, which needs Patroni, etcd and HAProxy")
	page         = flag.String("page", "", "the file to write the results to, in Markdown")
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(childVariable); spec != "" {
		os.Exit(child(spec))
	}
	flag.Parse()
	switch *sizeFlag {
	case "small", "ci", "soak":
	default:
		fmt.Fprintf(os.Stderr, "chaos: size %q, want small, ci or soak\n", *sizeFlag)
		os.Exit(2)
	}
	if *seedFlag == 0 {
		*seedFlag = rand.Uint64()>>32 + 1
	}
	code := m.Run()
	if err := errors.Join(results.end(code == 0), endFailovers(code == 0)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// scaled returns the number for the size of this run.
func scaled[T int | time.Duration](small, ci T) T {
	if *sizeFlag == "small" {
		return small
	}
	return ci
}

// needsCI skips a test that does not run at size small.
func needsCI(t *testing.T) {
	t.Helper()
	if *sizeFlag == "small" {
		t.Skip("runs at size ci, see make test-faults")
	}
}

// database returns the URL of a new database with Message DB on the server that tests
// share.
func database(t testing.TB) string {
	t.Helper()
	pgtest.NeedTime(t)
	return testdb.New(t)
}

// ownServer returns a new server, which the test may restart, and the URL of a database
// on it with Message DB.
func ownServer(t testing.TB, opts ...pgtest.Option) (*pgtest.Server, string) {
	t.Helper()
	pgtest.NeedTime(t)
	s := pgtest.Own(t, opts...)
	url := s.URL("postgres")
	conn := connect(t, url)
	if err := testdb.InstallOurs(context.WithoutCancel(t.Context()), conn); err != nil {
		t.Fatal(err)
	}
	return s, url
}
