package doorbell_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/interleave"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestInterleavings checks that no interleaving of a writer's and a subscriber's steps
// loses a wake-up.
func TestInterleavings(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
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
			// It polls before it is armed.
			[][]move{writer, {sListen(0), sRead(0), sArm(0), sRead(0), sSleep(0)}},
			// It retries to arm.
			[][]move{writer, {sListen(0), sArm(0), sArm(0), sRead(0), sSleep(0)}},
			// Its category cools and is armed again.
			[][]move{writer, {sListen(0), sArm(0), sRead(0), sUnlock(0), sArm(0), sRead(0), sSleep(0)}},
		)
	}
	sleeps := []move{sArm(0), sRead(0), sSleep(0)}
	tests = append(
		tests,
		// Two writers without the category's lock, each of which can keep the other from the key.
		[][]move{{wWriteRow(0), wCommit(0)}, {wWriteRow(1), wCommit(1)}, sleeps},
		[][]move{{wWriteRow(0), wCommit(0)}, {wWriteRow(1), wRollback(1)}, sleeps},
		// Two processes listen, and one gives up while the other sleeps.
		[][]move{{wWriteRow(0), wCommit(0)}, sleeps, {sArm(1), sRead(1), sSleep(1)}},
		[][]move{{wWriteRow(0), wCommit(0)}, sleeps, {sArm(1), sUnlock(1)}},
	)

	s := newStage(t, url)
	var ran, slept, rung, refused int
	for _, programs := range tests {
		for _, moves := range interleave.All(programs...) {
			if programs[len(programs)-1][0].name != sListen(0).name {
				moves = append([]move{sListen(0), sListen(1)}, moves...)
			}
			lost, sleepers := s.run(moves)
			if lost {
				t.Errorf("a wake-up is lost: %s", steps(moves))
			}
			ran++
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
		testdb.Value[string](t, s.observer, "SHOW server_version"), ran, slept, rung, refused)
	if slept == 0 || rung == 0 || refused == 0 {
		t.Errorf("got %d sleeps, %d wake-ups, %d refusals, want some of each: otherwise the test proves nothing", slept, rung, refused)
	}
}

// TestInterleavingsPrepared checks the same for a writer's transaction that is prepared
// and committed later, which is possible only if it has not rung.
func TestInterleavingsPrepared(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	pgtest.NeedPrograms(t)
	url := pgtest.Own(t, pgtest.Setting("max_prepared_transactions", "4")).URL("postgres")
	conn := testdb.Session(t, url)
	if err := testdb.InstallOurs(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	testdb.Exec(t, conn, triggerSQL(t))

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
	for _, moves := range interleave.All(
		[]move{wBegin(0), wInsert(0), prepare, commit},
		[]move{sListen(0), sArm(0), sSnapshot(0), sRows(0), sSleep(0)},
	) {
		if lost, _ := s.run(moves); lost {
			t.Errorf("a wake-up is lost: %s", steps(moves))
		}
	}
	if committed == 0 || refused == 0 {
		t.Errorf("got %d prepared transactions and %d that could not be prepared, want some of each", committed, refused)
	}
}
