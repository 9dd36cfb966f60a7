package archive_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/archive"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

func mustMove(t *testing.T, m *archive.Mover) {
	t.Helper()
	if _, err := m.Move(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func mustDeleteOld(t *testing.T, m *archive.Mover, want int64) {
	t.Helper()
	if n, err := m.DeleteOld(t.Context()); err != nil || n != want {
		t.Fatalf("deleted %d, %v, want %d", n, err, want)
	}
}

// TestDeleteOldAlone checks that a category does not move back to a shard while a deletion there waits for transactions, which would
// then delete what has come back.
func TestDeleteOldAlone(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.write(0, movingStream)
	m := s.mover(0, 1)
	mustMove(t, m)
	mustDeleteOld(t, m, 1)
	open, err := s.proxy.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var now time.Time
	if err := open.QueryRow(t.Context(), `SELECT clock_timestamp()`).Scan(&now); err != nil {
		t.Fatal(err)
	}
	deleted := make(chan error, 1)
	go func() {
		_, err := m.DeleteOld(t.Context())
		deleted <- err
	}()
	eventually(t, "DeleteOld waits", func() (waits bool) {
		if err := s.proxy.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
	AND query LIKE 'SELECT coalesce(array_agg(l.virtualxid)%' AND query_start > $1)`, now).Scan(&waits); err != nil {
			t.Error(err)
			return true
		}
		return waits
	})
	if _, err := s.mover(1, 0).Move(t.Context()); err == nil || !strings.Contains(err.Error(), "another move of the category is running") {
		t.Errorf("a move back meanwhile: got %v", err)
	}
	s.write(s.placed(), movingStream)
	if err := open.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-deleted; err != nil {
		t.Fatal(err)
	}
	if missing := s.missing(); missing > 0 {
		t.Errorf("%d of %d are missing", missing, len(s.acknowledged))
	}
}

// TestAbortReturn checks that a shard which a category has left rejects it also after a move back was undone.
func TestAbortReturn(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.write(0, movingStream)
	m := s.mover(0, 1)
	mustMove(t, m)
	mustDeleteOld(t, m, 1)
	for n := 1; n <= 6; n++ {
		back := s.mover(1, 0)
		at := killAt(back, n)
		if _, err := back.Move(t.Context()); err == nil {
			t.Fatal("the move back was not killed")
		}
		if _, err := s.mover(1, 0).Abort(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s.write(0, movingStream) {
			t.Fatalf("killed after step %d, %s: the old shard accepts messages", n, *at)
		}
		if got := state(t, m); got.Step != archive.MoveDone {
			t.Errorf("killed after step %d, %s: got %s", n, *at, got.Step)
		}
		s.write(1, movingStream)
	}
	mustMove(t, s.mover(1, 0))
	if s.write(1, movingStream) || !s.write(0, movingStream) || s.missing() > 0 {
		t.Errorf("after the way back, %d are missing", s.missing())
	}
}

// TestMoveLost checks that a move which continues after the new shard has lost what was copied, as by a failover, copies it again.
func TestMoveLost(t *testing.T) {
	t.Parallel()
	for _, lost := range []archive.MoveStep{archive.MoveClosed, archive.MoveFlipped} {
		t.Run(string(lost), func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			for range 5 {
				s.write(0, movingStream)
			}
			m := s.mover(0, 1)
			m.After(func(step archive.MoveStep) error {
				if step == lost {
					return errKilled
				}
				return nil
			})
			if _, err := m.Move(t.Context()); err == nil {
				t.Fatal("the move was not killed")
			}
			execute(t, s.shards[1], `DELETE FROM message_store.messages WHERE position >= 3`)
			if done, err := s.mover(0, 1).Move(t.Context()); err != nil || done.Copied != 2 {
				t.Errorf("got %+v, %v", done, err)
			}
			if !s.write(1, movingStream) || s.missing() > 0 {
				t.Errorf("%d of %d are missing", s.missing(), len(s.acknowledged))
			}
		})
	}
}

// TestMoveOn checks that messages can be deleted which a category has left on a shard from which it has moved on, by way of another one.
func TestMoveOn(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	third := openPool(t, testdb.New(t))
	if err := schema.InstallShard(t.Context(), third, 2); err != nil {
		t.Fatal(err)
	}
	mover := func(from, to *pgxpool.Pool) *archive.Mover {
		return &archive.Mover{Category: moving, From: from, To: to, Proxies: []*pgxpool.Pool{s.proxy}}
	}
	s.write(0, movingStream)
	first, second := s.shards[0].Pool(), s.shards[1].Pool()
	mustMove(t, mover(first, second))
	mustMove(t, mover(second, third))
	mustDeleteOld(t, mover(second, third), 1)
	mustDeleteOld(t, mover(first, third), 1)
	mustMove(t, mover(third, first))
	if !s.write(0, movingStream) || s.missing() > 0 {
		t.Errorf("%d of %d are missing", s.missing(), len(s.acknowledged))
	}
}
