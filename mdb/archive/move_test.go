package archive_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/archive"
)

// TestMove checks that a category moves with the positions and times of its messages, that other categories stay, that both shards
// check well afterwards, and that it can move back.
func TestMove(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for i := range 30 {
		s.write(0, mdb.StreamName(fmt.Sprintf("%s-%d", moving, i%3)))
		write(t, s.shards[0], "other-1", "Happened")
	}
	write(t, s.shards[1], "other-2", "Happened")
	before := export(t, s.shards[0], archive.ExportOptions{Categories: []mdb.Category{moving}})
	m := s.mover(0, 1)
	if got := state(t, m); got.Step != archive.MoveNotBegun || got.Left != 30 || got.From != 0 || got.To != 1 {
		t.Errorf("got %+v", got)
	}
	done, err := m.Move(t.Context())
	if err != nil || done.Copied != 30 {
		t.Fatalf("got %+v, %v", done, err)
	}
	if got := export(t, s.shards[1], archive.ExportOptions{Categories: []mdb.Category{moving}}); got != before {
		t.Errorf("the shard has\n%s\nwant\n%s", got, before)
	}
	if got := state(t, m); got.Step != archive.MoveDone {
		t.Errorf("got %+v", got)
	}
	if again, err := m.Move(t.Context()); err != nil || again.Copied != 0 {
		t.Errorf("a move that is done: got %+v, %v", again, err)
	}
	if s.write(0, movingStream) || !s.write(1, movingStream) || s.missing() > 0 {
		t.Errorf("the old shard accepts messages, or the new one does not, or %d are missing", s.missing())
	}
	write(t, s.shards[0], "other-1", "Happened")
	for i, shard := range s.shards {
		if err := shard.Check(t.Context()); err != nil {
			t.Errorf("shard %d: %v", i, err)
		}
	}

	back := s.mover(1, 0)
	if _, err := back.Move(t.Context()); err == nil || !strings.Contains(err.Error(), "-delete-old") {
		t.Errorf("a move to a shard with old messages: got %v", err)
	}
	if n, err := m.DeleteOld(t.Context()); err != nil || n != 30 {
		t.Errorf("deleted %d, %v", n, err)
	}
	if done, err := back.Move(t.Context()); err != nil || done.Copied != 31 {
		t.Fatalf("got %+v, %v", done, err)
	}
	if s.write(1, movingStream) || !s.write(0, movingStream) || s.missing() > 0 {
		t.Errorf("after the way back, %d are missing", s.missing())
	}
}

// TestMoveKilled kills a move after each of its steps, writes meanwhile to wherever the proxy says, and checks that the same call
// finishes it, and that Abort undoes it as long as no proxy is changed.
func TestMoveKilled(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	from, to := 0, 1
	for _, abort := range []bool{false, true} {
		for n := 1; ; n++ {
			for range 5 {
				s.write(from, movingStream)
			}
			m := s.mover(from, to)
			at := killAt(m, n)
			_, err := m.Move(t.Context())
			if err == nil {
				if n < 9 {
					t.Errorf("a move has only %d steps", n-1)
				}
				if _, err := m.DeleteOld(t.Context()); err != nil {
					t.Fatal(err)
				}
				from, to = to, from
				break
			}
			found := state(t, s.mover(from, to))
			what := fmt.Sprintf("abort %t, killed after step %d, %s, found %s", abort, n, *at, found.Step)
			s.write(s.placed(), movingStream)
			if missing := s.missing(); missing > 0 {
				t.Errorf("%s: %d of %d are missing", what, missing, len(s.acknowledged))
			}
			again := s.mover(from, to)
			if abort {
				_, err := again.Abort(t.Context())
				if undone := found.Step == archive.MoveCopying || found.Step == archive.MoveClosed; undone != (err == nil) {
					t.Errorf("%s: got %v", what, err)
				}
				if err == nil {
					if !s.write(from, movingStream) || s.missing() > 0 || state(t, again).Step != archive.MoveNotBegun {
						t.Errorf("%s: after Abort, the category cannot be written, or %d are missing, in step %s", what, s.missing(), state(t, again).Step)
					}
					continue
				}
			}
			if _, err := again.Move(t.Context()); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if s.placed() != to || s.write(from, movingStream) || !s.write(to, movingStream) || s.missing() > 0 {
				t.Errorf("%s: after the move, %d of %d are missing", what, s.missing(), len(s.acknowledged))
			}
			if _, err := again.DeleteOld(t.Context()); err != nil {
				t.Fatal(err)
			}
			from, to = to, from
		}
	}
}

// TestAbortKilled kills Abort after each of its steps, and checks that a move can still be finished or aborted.
func TestAbortKilled(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	from, to := 0, 1
	for _, closed := range []bool{false, true} {
		for n := 1; n <= 2; n++ {
			for _, move := range []bool{false, true} {
				s.write(from, movingStream)
				m := s.mover(from, to)
				m.After(func(step archive.MoveStep) error {
					if !closed && step == archive.MoveRest || closed && step == archive.MoveClosed {
						return errKilled
					}
					return nil
				})
				if _, err := m.Move(t.Context()); err == nil {
					t.Fatal("the move was not killed")
				}
				killed := s.mover(from, to)
				killAt(killed, n)
				if _, err := killed.Abort(t.Context()); err == nil {
					t.Fatal("Abort was not killed")
				}
				if !s.write(from, movingStream) {
					t.Errorf("after step %d of Abort, the old shard does not accept messages", n)
				}
				again := s.mover(from, to)
				if !move {
					if _, err := again.Abort(t.Context()); err != nil {
						t.Fatal(err)
					}
				} else {
					if _, err := again.Move(t.Context()); err != nil {
						t.Fatal(err)
					}
					if _, err := again.DeleteOld(t.Context()); err != nil {
						t.Fatal(err)
					}
					from, to = to, from
				}
				if !s.write(s.placed(), movingStream) || s.missing() > 0 {
					t.Errorf("%d of %d are missing", s.missing(), len(s.acknowledged))
				}
			}
		}
	}
}

// TestMoveMutants checks that each part of a move is needed: without it, messages that were acknowledged are missing, or
// have a position before those that were read.
func TestMoveMutants(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]archive.Breakage{
		"nothing": archive.Unbroken, "the gate": archive.WithoutGate, "the sequence": archive.WithoutSequence,
		"the lock": archive.WithoutLock, "the order: the proxy is changed first": archive.FlipFirst,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if missing := lostBy(t, broken); (missing > 0) != (broken != archive.Unbroken) {
				t.Errorf("%d messages are missing", missing)
			}
		})
	}
}

// lostBy returns how many messages are missing after, or during, a move with writers that have looked for the shard before.
func lostBy(t *testing.T, broken archive.Breakage) (missing int) {
	t.Helper()
	s := newScene(t)
	for range 20 {
		s.write(0, movingStream)
	}
	tx, err := s.shards[0].Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	open, committed := s.shards[0].WithTx(tx), make(chan struct{})
	commit := func() {
		defer close(committed)
		if err := tx.Commit(t.Context()); err != nil {
			t.Error(err)
		}
	}
	m := s.mover(0, 1)
	m.Break(broken)
	steps := 0
	m.After(func(step archive.MoveStep) error {
		switch steps++; {
		case steps == 2: // the gate is installed, which waits for all writers
			s.write(0, movingStream)
			// The lock is held from now on.
			written, err := open.WriteMessage(t.Context(), movingStream, mdb.NewMessage("Happened", nil))
			if err != nil {
				return err
			}
			s.acknowledged = append(s.acknowledged, written)
			if broken != archive.WithoutLock {
				go func() {
					s.blocked(0)
					commit()
				}()
			}
		case step == archive.MoveRest && broken == archive.WithoutLock:
			commit()
		case step == archive.MoveRest:
			<-committed
		case step == archive.MoveClosed && broken != archive.FlipFirst:
			s.write(0, movingStream)
		case step == archive.MoveFlipped:
			s.write(1, movingStream)
			missing += s.missing()
		}
		return nil
	})
	if _, err := m.Move(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.write(0, movingStream)
	s.write(1, movingStream)
	return missing + s.missing()
}

// TestDeleteOldWaits checks that messages are not deleted from the old shard while a transaction on the proxy may still read
// there, and that transactions which begin later are not waited for.
func TestDeleteOldWaits(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.write(0, movingStream)
	begin := func() pgx.Tx {
		tx, err := s.proxy.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "SELECT 1"); err != nil {
			t.Fatal(err)
		}
		return tx
	}
	old := begin()
	m := s.mover(0, 1)
	if _, err := m.DeleteOld(t.Context()); err == nil || !strings.Contains(err.Error(), "not done, but not begun") {
		t.Errorf("before the move: got %v", err)
	}
	if _, err := m.Move(t.Context()); err != nil {
		t.Fatal(err)
	}
	type outcome struct {
		deleted int64
		err     error
	}
	// waiting begins to delete, and returns when that waits for transactions.
	waiting := func(ctx context.Context) (result chan outcome) {
		t.Helper()
		var now time.Time
		if err := s.proxy.QueryRow(t.Context(), `SELECT clock_timestamp()`).Scan(&now); err != nil {
			t.Fatal(err)
		}
		result = make(chan outcome, 1)
		go func() {
			n, err := m.DeleteOld(ctx)
			result <- outcome{n, err}
		}()
		// The first time may be that of the statement's preparation.
		times := make(map[time.Time]bool)
		eventually(t, "DeleteOld has looked at the transactions", func() bool {
			var last time.Time
			err := s.proxy.QueryRow(t.Context(), `SELECT coalesce(max(query_start), $1) FROM pg_stat_activity WHERE datname = current_database()
	AND state = 'idle' AND query LIKE 'SELECT coalesce(array_agg(l.virtualxid)%' AND query_start > $1`, now).Scan(&last)
			if err != nil {
				t.Error(err)
				return true
			}
			if last.After(now) {
				times[last] = true
			}
			return len(times) > 1
		})
		return result
	}
	ctx, cancel := context.WithCancel(t.Context())
	interrupted := waiting(ctx)
	cancel()
	if got := <-interrupted; !errors.Is(got.err, context.Canceled) || got.deleted > 0 {
		t.Errorf("while a transaction is open: got %+v", got)
	}
	result := waiting(t.Context())
	later := begin()
	defer func() { _ = later.Rollback(context.Background()) }()
	if err := old.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := <-result; got.err != nil || got.deleted != 1 {
		t.Errorf("got %+v", got)
	}
}

// TestMoveParts checks that a category of several parts is copied and deleted part by part, and that a copy which was interrupted
// continues.
func TestMoveParts(t *testing.T) {
	t.Parallel()
	const messages = 25_000
	s := newScene(t)
	execute(t, s.shards[0], `INSERT INTO message_store.messages (stream_name, type, position, data, metadata)
SELECT 'account-' || i % 100, 'Happened', i / 100, CASE i % 3 WHEN 0 THEN jsonb_build_object('n', i, 'text', 'é"\\') WHEN 1 THEN 'null' END, CASE i % 2 WHEN 0 THEN '{"m": 1}'::jsonb END FROM generate_series(0, $1::int - 1) AS i`, messages)
	before := export(t, s.shards[0], archive.ExportOptions{})
	killed := s.mover(0, 1)
	killAt(killed, 3) // after the first part
	if _, err := killed.Move(t.Context()); !errors.Is(err, errKilled) {
		t.Fatalf("got %v", err)
	}
	m := s.mover(0, 1)
	if got := state(t, m); got.Step != archive.MoveCopying || got.Left != messages-10_000 {
		t.Errorf("got %+v", got)
	}
	var copied []int64
	m.Progress = func(n int64) { copied = append(copied, n) }
	if _, err := m.Move(t.Context()); err != nil || !slices.Equal(copied, []int64{10_000, 15_000}) {
		t.Errorf("copied %d, %v", copied, err)
	}
	if after := export(t, s.shards[1], archive.ExportOptions{}); after != before {
		t.Error("the copy differs")
	}
	if n, err := m.DeleteOld(t.Context()); err != nil || n != messages {
		t.Errorf("deleted %d, %v", n, err)
	}
}
