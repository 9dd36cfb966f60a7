//go:build unix

package examples_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/archive"
)

func newStore(t *testing.T, url string) *mdb.Store {
	t.Helper()
	s, err := mdb.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// archiver returns the command of the example archive, with small files.
func archiver(ctx context.Context, database, folder string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(programs, "archive"), append([]string{"-category", "account", "-folder", folder, "-size", "4000", "-every", "2ms"}, args...)...)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+database)
	return cmd
}

// writeAccounts writes to streams of the category account, and of another one, until ctx ends.
func writeAccounts(ctx context.Context, s *mdb.Store) (written int, err error) {
	for ; ctx.Err() == nil; written++ {
		category := mdb.Category("account")
		if written%4 == 3 {
			category = "order"
		}
		// A write that has begun is not interrupted, so that it has an outcome.
		_, err := s.WriteMessage(context.WithoutCancel(ctx), category.Stream(fmt.Sprint(written%7)), mdb.NewMessage("Deposited", map[string]any{"n": written, "text": "ä\u2028\""}))
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// TestArchiveKilled kills the example archive at random moments while messages are written, and compares what an import of its files
// writes with the store.
func TestArchiveKilled(t *testing.T) {
	t.Parallel()
	if err := pgtest.Build(programs, "../cmd/mdb"); err != nil {
		t.Fatal(err)
	}
	database, folder := testdb.New(t), t.TempDir()
	store := newStore(t, database)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := writeAccounts(ctx, store)
		ended <- err
	}()
	kills := 40
	if testing.Short() {
		kills = 10
	}
	unfinished := 0
	for kill := 0; kill < kills || unfinished == 0 || len(archived(t, folder, ".gz")) < 2; kill++ { // without these it would test nothing
		cmd := archiver(ctx, database, folder)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if kill%2 == 0 { // otherwise it is killed while it starts, or soon after that
			awaitGrowth(t, folder)
		}
		<-time.After(time.Duration(rand.Int64N(int64(100 * time.Millisecond))))
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		unfinished += len(archived(t, folder, ".partial"))
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if out, err := archiver(t.Context(), database, folder, "-once").CombinedOutput(); err != nil {
		t.Fatalf("%v, %s", err, out)
	}
	copied := testdb.New(t)
	pipe := exec.CommandContext(t.Context(), "sh", "-c", `cat "$1"/* | gunzip | "$2"/mdb import -times`, "sh", folder, programs)
	pipe.Env = append(os.Environ(), "DATABASE_URL="+copied)
	out, err := pipe.CombinedOutput()
	want := exported(t, store)
	if n := strings.Count(want, "\n"); err != nil || !strings.HasPrefix(string(out), fmt.Sprintf("%d messages imported\n", n)) {
		t.Errorf("%v, got %s, want %d messages", err, out, n)
	}
	if exported(t, newStore(t, copied)) != want {
		t.Error("the copy is another")
	}
}

// awaitGrowth waits until there is more in the files.
func awaitGrowth(t *testing.T, folder string) {
	t.Helper()
	size := func() (sum int64) {
		for _, name := range archived(t, folder, "") {
			if info, err := os.Stat(name); err == nil { // otherwise it has another name now
				sum += info.Size()
			}
		}
		return sum
	}
	before := size()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for size() <= before {
		select {
		case <-t.Context().Done():
			t.Fatal("nothing more is archived")
		case <-tick.C:
		}
	}
}

// archived returns the names of the files with a suffix.
func archived(t *testing.T, folder, suffix string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(folder, "[0-9]*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// exported returns an export of the category account, without global positions.
func exported(t *testing.T, s *mdb.Store) string {
	t.Helper()
	var all, same bytes.Buffer
	if _, err := archive.Export(t.Context(), s, &all, archive.ExportOptions{Categories: []mdb.Category{"account"}}); err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(&all); d.More(); {
		var line map[string]any
		if err := d.Decode(&line); err != nil {
			t.Fatal(err)
		}
		delete(line, "global_position")
		fmt.Fprintln(&same, line)
	}
	return same.String()
}

// TestArchiveLost checks that the example archive ends with an error, and leaves its files as they are, if the store has lost
// messages that they contain, some or all.
func TestArchiveLost(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kept int
		want string
	}{"some": {3, "the store has lost messages that are archived"}, "all": {0, "none of the"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database, folder := testdb.New(t), t.TempDir()
			store := newStore(t, database)
			write := func(n int) {
				t.Helper()
				for range n {
					if _, err := store.WriteMessage(t.Context(), "account-1", mdb.NewMessage("Deposited", nil)); err != nil {
						t.Fatal(err)
					}
				}
			}
			write(6)
			if out, err := archiver(t.Context(), database, folder, "-once").CombinedOutput(); err != nil {
				t.Fatalf("%v, %s", err, out)
			}
			before := contents(t, folder)
			// As after a failover to a standby that lagged: others get the same positions.
			for _, lose := range []string{`DELETE FROM message_store.messages WHERE position >= $1`, `SELECT setval('message_store.messages_global_position_seq', $1 + 1, false)`} {
				if _, err := store.Pool().Exec(t.Context(), lose, c.kept); err != nil {
					t.Fatal(err)
				}
			}
			write(6)
			out, err := archiver(t.Context(), database, folder, "-once").CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.want) {
				t.Errorf("%v, %s", err, out)
			}
			if contents(t, folder) != before {
				t.Error("the files have changed")
			}
		})
	}
}

func contents(t *testing.T, folder string) (all string) {
	t.Helper()
	for _, name := range archived(t, folder, "") {
		all += filepath.Base(name) + readPage(t, name)
	}
	return all
}
