//go:build unix

package mdb_test

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestAllCrash checks that what was final before a crash of the server's processes, which its main
// process survives, is not final after it: the sequence draws positions again that were in no
// committed transaction.
func TestAllCrash(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	server := pgtest.Own(t, pgtest.Setting("wal_writer_delay", "10s"), pgtest.Setting("autovacuum", "off"))
	url := server.URL("postgres")
	pool := newPool(t, url)
	install(t, pool)
	s := newStore(t, pool)
	for attempt := 1; ; attempt++ {
		first := write(t, s, "fast-1", mdb.NewMessage("Happened", nil)).GlobalPosition
		rolledBack := begin(t, pool) // a commit would reach the disk
		draw(t, rolledBack, 100)
		if err := rolledBack.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		head, err := s.Head(t.Context())
		if err != nil || head < first+100 {
			t.Fatalf("got the head %d, %v", head, err)
		}
		crashProcesses(t, url)
		pool.Reset()
		tx := begin(t, pool)
		slow := write(t, s.WithTx(tx), "slow-1", mdb.NewMessage("Happened", nil)).GlobalPosition
		fast := write(t, s, "fast-1", mdb.NewMessage("Happened", nil)).GlobalPosition
		if fast > head && attempt < 5 { // what was drawn had reached the disk
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if fast > head {
			t.Fatal("the sequence has not gone back in any crash")
		}
		draw(t, pool, 200) // beyond what was final
		page, err := s.GetAllMessages(t.Context(), mdb.FromGlobalPosition(first))
		if err != nil || !slices.Equal(globalPositions(page), []int64{first}) {
			t.Errorf("got %d, %v, want what comes before the open transaction", globalPositions(page), err)
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := globalPositions(allPages(t, s, mdb.FromGlobalPosition(first))); !slices.Equal(got, []int64{first, slow, fast}) {
			t.Errorf("got %d, want %d", got, []int64{first, slow, fast})
		}
		return
	}
}

// crashProcesses kills a session's process, so that the server's main process ends all others, and
// recovers from what is on the disk.
func crashProcesses(t *testing.T, url string) {
	t.Helper()
	killed, other := testdb.Session(t, url), testdb.Session(t, url)
	if err := syscall.Kill(int(killed.PgConn().PID()), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for other.Ping(t.Context()) == nil { // until the main process has noticed
		continue
	}
	for end := time.Now().Add(testTimeout); ; {
		conn, err := pgx.Connect(t.Context(), url)
		if err == nil {
			_ = conn.Close(t.Context())
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the server is not back: %v", err)
		}
	}
}
