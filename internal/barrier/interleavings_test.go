package barrier_test

import (
	"slices"
	"testing"

	"github.com/messagedb-go/messagedb/internal/interleave"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// reader is the protocol.
func reader() []move { return []move{rLast(), rHolders(), rPass(), rRead()} }

// writers returns what is written at the same time, each a list of programs.
func writers() [][][]move {
	one := [][]move{
		{wWrite(0)},
		{wBegin(0), wWrite(0), wCommit(0)},
		{wBegin(0), wWrite(0), wRollback(0)},
		{wBegin(0), wLock(0), wInsert(0), wCommit(0)},
		{wBegin(0), wSavepointWrite(0), wUndo(0), wCommit(0)},
		{wBegin(0), wWrite(0), wSavepointWrite(0), wUndo(0), wCommit(0)},
		{wBegin(0), wSavepointWrite(0), wUndo(0), wWrite(0), wCommit(0)},
		{wBegin(0), wWrite(0), wCommit(0), wAgain(0), wCommit(0)},
	}
	var all [][][]move
	for _, program := range one {
		all = append(all, [][]move{program})
	}
	return append(
		all,
		// A writer overtakes another one.
		[][]move{{wBegin(0), wWrite(0), wCommit(0)}, {wWrite(1)}},
		[][]move{{wBegin(0), wWrite(0), wRollback(0)}, {wWrite(1)}},
		[][]move{{wAgain(0), wCommit(0)}, {wAgain(1), wCommit(1)}},
		// A lock that is no writer's, and writes of its session.
		[][]move{{wSession(0), wAgain(0), wCommit(0), wSessionUnlock(0)}},
		[][]move{{wSession(1), wSessionUnlock(1)}, {wAgain(0), wCommit(0)}},
	)
}

// tally counts the outcomes of walks.
type tally struct{ ran, passed, missed int }

// walkAll runs every interleaving of the programs, and calls lost for those that lose a message.
func (s *stage) walkAll(programs [][]move, n *tally, lost func(moves []move, o outcome)) {
	s.t.Helper()
	for _, moves := range interleave.All(programs...) {
		o := s.run(moves)
		n.ran++
		if !o.passed {
			continue
		}
		n.passed++
		if len(o.missed) > 0 {
			n.missed++
			lost(moves, o)
		}
	}
}

// TestInterleavings checks that no interleaving of writers and of a reader loses a message.
func TestInterleavings(t *testing.T) {
	t.Parallel()
	s := newStage(t, testdb.New(t))
	var all tally
	for _, programs := range writers() {
		var n tally
		s.walkAll(append(slices.Clone(programs), reader()), &n, func(moves []move, o outcome) {
			t.Errorf("positions %d of %d are missed: %s", o.missed, o.final, steps(moves))
		})
		// With some order of the steps, the reader waits.
		if waits := len(programs[0]) > 1; n.passed == 0 || waits && n.passed == n.ran {
			t.Errorf("%d of %d interleavings pass the barrier: %s", n.passed, n.ran, steps(programs[0]))
		}
		all.ran, all.passed = all.ran+n.ran, all.passed+n.passed
	}
	t.Logf("PostgreSQL %s: %d interleavings, %d pass the barrier", testdb.Value[string](t, s.observer, "SHOW server_version"), all.ran, all.passed)
}

// TestInterleavingsPrepared checks the same for transactions that are prepared, and end on
// another session.
func TestInterleavingsPrepared(t *testing.T) {
	t.Parallel()
	s := newStage(t, twoPhase(t).url)
	for _, how := range []string{"COMMIT PREPARED", "ROLLBACK PREPARED"} {
		for _, programs := range [][][]move{
			{{wAgain(0), wPrepare(0), finish(how)}},
			{{wAgain(0), wPrepare(0), finish(how)}, {wWrite(1)}},
			{{wAgain(0), wPrepare(0), wOther(0), wCommit(0), finish(how)}},
		} {
			var n tally
			s.walkAll(append(programs, reader()), &n, func(moves []move, o outcome) {
				t.Errorf("positions %d of %d are missed: %s", o.missed, o.final, steps(moves))
			})
			if n.passed == 0 || n.passed == n.ran {
				t.Errorf("%d of %d interleavings pass the barrier", n.passed, n.ran)
			}
		}
	}
}

// An ownServer is a server of a test, with Message DB.
type ownServer struct {
	*pgtest.Server
	url string
}

func twoPhase(t *testing.T) ownServer {
	t.Helper()
	pgtest.NeedTime(t)
	pgtest.NeedPrograms(t)
	server := pgtest.Own(t, pgtest.Setting("max_prepared_transactions", "4"))
	s := ownServer{server, server.URL("postgres")}
	if err := testdb.InstallOurs(t.Context(), testdb.Session(t, s.url)); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestInterleavingsOnceOver checks that a barrier ends when the writers have, whatever other
// locks a session has that is in no transaction, and whatever the writers do next.
func TestInterleavingsOnceOver(t *testing.T) {
	t.Parallel()
	s := newStage(t, testdb.New(t))
	for _, after := range [][]move{nil, {wAgain(0)}} {
		w := []move{wSession(1), wAgain(0), rLast(), rHolders(), wCommit(0)}
		w = append(append(w, after...), rPass(), rRead())
		if o := s.run(w); !o.passed || len(o.missed) > 0 {
			t.Errorf("got %+v, want a reader that has passed the barrier: %s", o, steps(w))
		}
		testdb.Exec(t, s.writers[1], "SELECT pg_advisory_unlock_all()")
		testdb.Exec(t, s.writers[0], "ROLLBACK")
	}
}

// TestEmptySequence checks that nothing was drawn before the first write, and that a sequence
// that is set continues where it says.
func TestEmptySequence(t *testing.T) {
	t.Parallel()
	s := newStage(t, testdb.New(t))
	for _, test := range []struct {
		sql  string
		want int64
	}{
		{"SELECT 1", 0},
		{"SELECT setval('message_store.messages_global_position_seq', 1)", 1},
		{"SELECT setval('message_store.messages_global_position_seq', 8, false)", 7},
		{"SELECT nextval('message_store.messages_global_position_seq')", 8},
		{"ALTER SEQUENCE message_store.messages_global_position_seq RESTART", 0},
	} {
		testdb.Exec(t, s.observer, test.sql)
		w := &walk{stage: s}
		if rLast().do(w); w.last != test.want {
			t.Errorf("%s: got %d, want %d", test.sql, w.last, test.want)
		}
	}
}
