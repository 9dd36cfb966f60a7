package doorbell_test

import (
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/interleave"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestMutants checks that TestInterleavings can fail: each mutant breaks the protocol in
// one place, and then some interleaving must lose a wake-up.
func TestMutants(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	const try = "pg_catalog.pg_try_advisory_xact_lock("
	rule := []move{sListen(0), sArm(0), sSnapshot(0), sRows(0), sSleep(0)}
	for _, test := range []struct {
		name       string
		before     string    // SQL that runs before the trigger is created
		trigger    [2]string // old and new text in the trigger
		subscriber []move
	}{
		{
			name:       "the trigger takes the key for the session and gives it back",
			before:     `CREATE FUNCTION message_store.probe(space int, key int) RETURNS bool LANGUAGE sql AS 'SELECT CASE WHEN pg_try_advisory_lock(space, key) THEN pg_advisory_unlock(space, key) ELSE false END'`,
			trigger:    [2]string{try, "message_store.probe("},
			subscriber: rule,
		},
		{
			name: "the trigger takes the key in a block that is undone",
			before: `CREATE FUNCTION message_store.probe(space int, key int) RETURNS bool LANGUAGE plpgsql AS $$
				DECLARE
					free bool;
				BEGIN
					BEGIN
						free := pg_try_advisory_xact_lock(space, key);
						RAISE EXCEPTION 'undo';
					EXCEPTION WHEN raise_exception THEN
						RETURN free;
					END;
				END $$`,
			trigger:    [2]string{try, "message_store.probe("},
			subscriber: rule,
		},
		{
			name:       "the trigger shares the key",
			trigger:    [2]string{try, "pg_try_advisory_xact_lock_shared("},
			subscriber: rule,
		},
		{
			name:       "the key is shared after the read",
			subscriber: []move{sListen(0), sSnapshot(0), sRows(0), sArm(0), sSleepAnyway(0)},
		},
		{
			// A statement's snapshot is older than anything that it does.
			name:       "the key is shared by the statement that reads",
			subscriber: []move{sListen(0), sSnapshot(0), sArm(0), sRows(0), sSleepAnyway(0)},
		},
		{
			name:       "rings that arrive during a read are forgotten",
			subscriber: []move{sListen(0), sArm(0), sSnapshot(0), sRows(0), sForget(0), sSleep(0)},
		},
		{
			name:       "rings that arrive after the key was shared are forgotten",
			subscriber: []move{sListen(0), sArm(0), sRead(0), sForget(0), sSleep(0)},
		},
		{
			name:       "it listens after the read",
			subscriber: []move{sArm(0), sSnapshot(0), sRows(0), sListen(0), sSleep(0)},
		},
		{
			name:       "a read from before the key was given up counts",
			subscriber: []move{sListen(0), sArm(0), sRead(0), sUnlock(0), sArm(0), sSleepAnyway(0)},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			url := testdb.New(t)
			sql := triggerSQL(t)
			if test.trigger[0] != "" {
				sql = strings.Replace(sql, test.trigger[0], test.trigger[1], 1)
				if sql == triggerSQL(t) {
					t.Fatalf("the trigger does not contain %q", test.trigger[0])
				}
			}
			conn := testdb.Session(t, url)
			testdb.Exec(t, conn, test.before)
			testdb.Exec(t, conn, sql)

			s := newStage(t, url)
			ran, lost, first := 0, 0, ""
			for _, moves := range interleave.All([]move{wBegin(0), wInsert(0), wCommit(0)}, test.subscriber) {
				ran++
				if l, _ := s.run(moves); l {
					if lost++; lost == 1 {
						first = steps(moves)
					}
				}
			}
			if lost == 0 {
				t.Errorf("none of %d interleavings loses a wake-up, want the mutant to be caught", ran)
			}
			t.Logf("%d of %d interleavings lose a wake-up, such as: %s", lost, ran, first)
		})
	}
}

// sSleepAnyway sleeps after any read, also one from before the key was shared.
func sSleepAnyway(i int) move {
	return step(i, "sleep", func(w *walk, x *subscriber) {
		w.deliver(x)
		x.asleep = x.armed && !x.rung
	})
}

// sForget clears the flag after the read, which is too late.
func sForget(i int) move {
	return step(i, "forget", func(w *walk, x *subscriber) {
		w.deliver(x)
		x.rung = false
	})
}
