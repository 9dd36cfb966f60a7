package barrier_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/barrier"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// rSnapshot makes the steps that follow read with one snapshot.
func rSnapshot() move {
	return move{"R.snapshot", func(w *walk) { testdb.Exec(w.t, w.reader, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1") }}
}

func rEnd() move { return move{"R.end", func(w *walk) { testdb.Exec(w.t, w.reader, "COMMIT") }} }

// rAnyway passes the barrier whether or not a holder is left.
func rAnyway() move { return move{"R.pass-anyway", func(w *walk) { w.passed = true }} }

// replaced returns the SQL with a part replaced, which must be there.
func replaced(t *testing.T, sql, old, by string) string {
	t.Helper()
	mutant := strings.Replace(sql, old, by, 1)
	if mutant == sql {
		t.Fatalf("%q is not in the SQL", old)
	}
	return mutant
}

// TestMutants checks that TestInterleavings can fail: each mutant breaks the protocol in one
// place, and then some interleaving must lose a message.
func TestMutants(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for _, test := range []struct {
		name   string
		reader []move
	}{
		{"the last position is read after the holders", []move{rHolders(), rLast(), rPass(), rRead()}},
		{"the messages are read before the last position", []move{rRead(), rLast(), rHolders(), rPass()}},
		{"the messages are read before the holders", []move{rLast(), rRead(), rHolders(), rPass()}},
		{"the messages are not read again after the holders have ended", []move{rLast(), rHolders(), rRead(), rPass()}},
		{"one snapshot", []move{rSnapshot(), rLast(), rHolders(), rPass(), rRead(), rEnd()}},
		{"the holders are not waited for", []move{rLast(), rHolders(), rAnyway(), rRead()}},
		{"the holders that are left are looked for by another kind of lock", []move{rLast(), rHoldersBy(replaced(t, barrier.HoldersSQL, "objsubid = 1", "objsubid = 2")), rPass(), rRead()}},
		{"the holders are those of another database", []move{rLast(), rHoldersBy(replaced(t, barrier.HoldersSQL, "database = ", "database <> ")), rPass(), rRead()}},
		{"locks that are shared", []move{rLast(), rHoldersBy(replaced(t, barrier.HoldersSQL, "'ExclusiveLock'", "'ShareLock'")), rPass(), rRead()}},
		{"locks that are waited for", []move{rLast(), rHoldersBy(replaced(t, barrier.HoldersSQL, "AND granted", "AND NOT granted")), rPass(), rRead()}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, testdb.New(t))
			var n tally
			first := ""
			for _, programs := range [][][]move{
				{{wBegin(0), wLock(0), wInsert(0), wCommit(0)}},
				{{wBegin(0), wWrite(0), wCommit(0)}, {wWrite(1)}},
			} {
				s.walkAll(append(slices.Clone(programs), test.reader), &n, func(moves []move, _ outcome) {
					if first == "" {
						first = steps(moves)
					}
				})
			}
			if n.missed == 0 {
				t.Errorf("none of %d interleavings loses a message, want the mutant to be caught", n.ran)
			}
			t.Logf("%d of %d interleavings lose a message, such as: %s", n.missed, n.ran, first)
		})
	}
}

// TestMutantsOnceOver checks that TestInterleavingsOnceOver can fail: a barrier that waits for
// more than it has to does not end.
func TestMutantsOnceOver(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for _, test := range []struct {
		name    string
		holders string // instead of HoldersSQL
		left    string // instead of LeftSQL
		after   []move // what goes on
	}{
		{
			"a session that is in no transaction is waited for",
			replaced(t, barrier.HoldersSQL, "AND virtualtransaction NOT LIKE '%/0'", ""),
			replaced(t, barrier.LeftSQL, "AND virtualtransaction NOT LIKE '%/0'", ""),
			[]move{wSession(1)},
		},
		{
			"all holders are waited for",
			barrier.HoldersSQL,
			replaced(t, barrier.LeftSQL, "virtualtransaction = ANY (string_to_array($1::text, ','))", "$1::text IS NOT NULL"),
			[]move{wAgain(1)},
		},
		{
			"sessions are waited for instead of their transactions",
			replaced(t, barrier.HoldersSQL, "DISTINCT virtualtransaction", "DISTINCT pid::text"),
			replaced(t, barrier.LeftSQL, "virtualtransaction = ANY", "pid::text = ANY"),
			[]move{wCommit(0), wAgain(0)},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, testdb.New(t))
			walk := func(holders, left string) outcome {
				w := []move{wAgain(0)}
				if test.after[0].name == wSession(1).name {
					w = append(w, wSession(1))
				}
				w = append(w, rLast(), rHoldersBy(holders))
				if test.after[0].name == wSession(1).name {
					w = append(w, wCommit(0))
				} else {
					w = append(w, test.after...)
					if test.after[0].name == wAgain(1).name {
						w = append(w, wCommit(0))
					}
				}
				defer func() {
					for _, conn := range s.writers {
						testdb.Exec(t, conn, "ROLLBACK")
						testdb.Exec(t, conn, "SELECT pg_advisory_unlock_all()")
					}
				}()
				return s.run(append(w, rPassBy(left), rRead()))
			}
			if o := walk(barrier.HoldersSQL, barrier.LeftSQL); !o.passed {
				t.Error("the protocol does not pass the barrier")
			}
			if o := walk(test.holders, test.left); o.passed {
				t.Error("the mutant passes the barrier")
			}
		})
	}
}
