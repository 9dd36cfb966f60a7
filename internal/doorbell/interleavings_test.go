package doorbell_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestNotifyInterleavings walks the protocol of the client with the trigger.
func TestInterleavings(t *testing.T) {
	t.Parallel()
	url := triggerDatabase(t)
	single := [][]move{ // one writer
		{wInsert(0)},
		{wBegin(0), wInsert(0), wCommit(0)},
		{wBegin(0), wInsert(0), wRollback(0)},
		{wBegin(0), wInsertSub(0), wRelease(0), wCommit(0)},
		{wBegin(0), wInsertSub(0), wUndo(0), wCommit(0)},
	}
	nested := [][]move{
		{wBegin(0), wInsert(0), wInsertSub(0), wUndo(0), wCommit(0)},
		{wBegin(0), wInsert(0), wInsertSub(0), wUndo(0), wRollback(0)},
		{wBegin(0), wInsertSub(0), wUndo(0), wInsert(0), wCommit(0)},
		{wBegin(0), wInsertSub(0), wUndo(0), wInsert(0), wRollback(0)},
	}
	var tests [][][]move
	for _, writer := range slices.Concat(single, nested) {
		tests = append(tests, [][]move{writer, {sListen(0), sArm(0), sSnapshot(0), sRows(0), sSleep(0)}})
	}
	for _, writer := range single {
		tests = append(
			tests,
			// It polls before it can arm.
			[][]move{writer, {sListen(0), sRead(0), sArm(0), sRead(0), sSleep(0)}},
			// It tries again to arm.
			[][]move{writer, {sListen(0), sArm(0), sArm(0), sRead(0), sSleep(0)}},
			// Its category cools and is armed anew.
			[][]move{writer, {sListen(0), sArm(0), sRead(0), sUnlock(0), sArm(0), sRead(0), sSleep(0)}},
		)
	}
	sleeps := []move{sArm(0), sRead(0), sSleep(0)}
	tests = append(
		tests,
		// Two writers that no lock keeps apart are refused the key by each other.
		[][]move{{wWriteRow(0), wCommit(0)}, {wWriteRow(1), wCommit(1)}, sleeps},
		[][]move{{wWriteRow(0), wCommit(0)}, {wWriteRow(1), wRollback(1)}, sleeps},
		// Two processes listen, and one gives up while the other sleeps.
		[][]move{{wWriteRow(0), wCommit(0)}, sleeps, {sArm(1), sRead(1), sSleep(1)}},
		[][]move{{wWriteRow(0), wCommit(0)}, sleeps, {sArm(1), sUnlock(1)}},
	)

	s := newStage(t, url)
	var walked, slept, rung, refused int
	for _, programs := range tests {
		for _, moves := range merges(programs...) {
			if programs[len(programs)-1][0].name != sListen(0).name {
				moves = append([]move{sListen(0), sListen(1)}, moves...)
			}
			lost, sleepers := s.run(moves)
			if lost {
				t.Errorf("sleeps and is not rung for: %s", steps(moves))
			}
			walked++
			for _, x := range sleepers {
				if x.asleep {
					slept++
				}
				if x.asleep && x.rung {
					rung++
				}
				if x.refused {
					refused++
				}
			}
		}
	}
	t.Logf("PostgreSQL %s: %d interleavings; subscribers slept %d times, were woken %d times, were refused the key %d times",
		value[string](t, s.observer, "SHOW server_version"), walked, slept, rung, refused)
	if slept == 0 || rung == 0 || refused == 0 {
		t.Error("the interleavings prove nothing")
	}
}

// TestNotifyInterleavingsPrepared has the writer's transaction prepared, if it has
// not rung, and committed later.
func TestInterleavingsPrepared(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	pgtest.NeedPrograms(t)
	url := pgtest.Own(t, pgtest.Setting("max_prepared_transactions", "4")).URL("postgres")
	conn := newSession(t, url)
	if err := testdb.InstallOurs(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	exec(t, conn, triggerSQL(t))

	s := newStage(t, url)
	var prepared bool
	var committed, refused int
	prepare := move{"W0.prepare", func(w *walk) {
		w.written++
		_, err := s.writers[0].Exec(t.Context(), "PREPARE TRANSACTION 'walk'")
		if prepared = err == nil; !prepared {
			if pgErr := (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || pgErr.Code != "0A000" {
				t.Fatal(err)
			}
			refused++
		}
	}}
	commit := move{"W0.commit-prepared", func(w *walk) {
		if prepared {
			w.write(0, "COMMIT PREPARED 'walk'")
			committed++
		}
	}}
	for _, moves := range merges(
		[]move{wBegin(0), wInsert(0), prepare, commit},
		[]move{sListen(0), sArm(0), sSnapshot(0), sRows(0), sSleep(0)},
	) {
		if lost, _ := s.run(moves); lost {
			t.Errorf("sleeps and is not rung for: %s", steps(moves))
		}
	}
	if committed == 0 || refused == 0 {
		t.Errorf("%d transactions were prepared, and %d could not be as they had rung", committed, refused)
	}
}
