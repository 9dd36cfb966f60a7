//go:build unix

package barrier_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
)

// crash ends all sessions, and the server's memory, but not its main process: the server does
// that itself if a session's process is killed. All sessions of the stage are opened again.
func crash(s *stage) move {
	return move{"crash", func(w *walk) {
		pid := testdb.Value[int](w.t, w.observer, "SELECT pg_backend_pid()")
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			w.t.Fatal(err)
		}
		for s.reader.Ping(w.t.Context()) == nil { // until the server has ended the other sessions, too
			continue
		}
		for end := time.Now().Add(time.Minute); ; {
			conn, err := pgx.Connect(w.t.Context(), s.url)
			if err == nil {
				_ = conn.Close(w.t.Context())
				break
			}
			if time.Now().After(end) {
				w.t.Fatalf("the server is not back: %v", err)
			}
		}
		s.connect()
	}}
}

// restart restarts the server, whose sessions end, too.
func restart(s *stage, server ownServer) move {
	return move{"restart", func(w *walk) {
		if err := server.Restart("immediate"); err != nil {
			w.t.Fatal(err)
		}
		s.connect()
	}}
}

// looks is the protocol in three steps.
func looks(pass move) []move {
	return []move{{"R.last+holders", func(w *walk) {
		rLast().do(w)
		rHolders().do(w)
	}}, pass, rRead()}
}

// prepared is a writer whose transaction outlives a crash.
func prepared() []move {
	return []move{{"W0.begin+write+prepare", func(w *walk) {
		wAgain(0).do(w)
		wPrepare(0).do(w)
	}}, finish("COMMIT PREPARED")}
}

// TestInterleavingsCrash checks that a barrier ends with a crash or a restart of the server, which
// changes the name of a prepared transaction, and that the next one waits for that.
func TestInterleavingsCrash(t *testing.T) {
	t.Parallel()
	server := twoPhase(t)
	s := newStage(t, server.url)
	for _, c := range []move{crash(s), restart(s, server)} {
		var n tally
		s.walkAll([][]move{prepared(), {c}, looks(rPass())}, &n, func(moves []move, o outcome) {
			t.Errorf("positions %d of %d are missed: %s", o.missed, o.final, steps(moves))
		})
		if n.passed == 0 || n.passed == n.ran {
			t.Errorf("%s: %d of %d interleavings pass the barrier", c.name, n.passed, n.ran)
		}
	}
}

// TestMutantsCrash checks that TestInterleavingsCrash can fail.
func TestMutantsCrash(t *testing.T) {
	t.Parallel()
	server := twoPhase(t)
	s := newStage(t, server.url)
	anyServer := move{"R.pass", func(w *walk) {
		rPass().do(w)
		w.passed = w.left == ""
	}}
	for _, c := range []move{crash(s), restart(s, server)} {
		writer, reader := prepared(), looks(anyServer)
		walk := []move{writer[0], reader[0], c, reader[1], reader[2], writer[1]}
		if o := s.run(walk); len(o.missed) == 0 {
			t.Errorf("the server is not compared: no message is missed: %s", steps(walk))
		}
	}
}
