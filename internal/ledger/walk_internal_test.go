package ledger

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A walk runs the programs of several sessions in one of the orders that their locks allow. A
// session pauses between its statements, and between the statements of the functions that it
// calls. Nothing depends on time: a session that does not pause waits for a lock, and the
// server says so. Some programs have too many orders to walk all of them, see [stage.orders].

// A program is the statements of one session.
type program []func(ctx context.Context, conn *pgx.Conn) error

// A stage is the sessions. Their database has consumersSQL with pauses.
type stage struct {
	t        testing.TB
	observer *pgx.Conn // keeps the locks of the pauses
	actors   []*actor
	most     int // interruptions of a walk
	first    int // the number of the random order to begin with
}

type actor struct {
	conn    *pgx.Conn
	program program
	state   state
	key     int32 // of the pause
	ended   chan error
	err     error // of the last statement that failed
	waited  bool  // for a lock of another session
}

type state int

const (
	idle     state = iota // between two statements
	running               // or about to
	paused                // in a function
	blocked               // by a lock
	finished              // its program
)

const (
	pauseSpace = 18
	unlimited  = math.MaxInt
)

// The number of a pause is not undone by a rollback, as that of a setting would be.
const pauses = `
CREATE SEQUENCE public.walk_pauses;
CREATE FUNCTION public.walk_pause() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	key integer;
BEGIN
	IF coalesce(current_setting('walk.actor', true), '') = '' THEN
		RETURN;
	END IF;
	key := current_setting('walk.actor')::integer * 2 + nextval('public.walk_pauses_' || current_setting('walk.actor')) % 2;
	PERFORM pg_advisory_lock_shared(18, key);
	PERFORM pg_advisory_unlock_shared(18, key);
END $$;
CREATE SEQUENCE public.walk_pauses_0; CREATE SEQUENCE public.walk_pauses_1; CREATE SEQUENCE public.walk_pauses_2;
CREATE TABLE public.effects (consumer bigint, message bigint, member text, n bigint GENERATED ALWAYS AS IDENTITY);`

var functionBody = regexp.MustCompile(`(?s)CREATE FUNCTION message_store_consumers\.(join|balance|tick|release|leave|take|move|park|lock_state|pause|seek|skip|replay|resize|fork|rename|remove)\(.*?\nEND\n\$\$;`)

// withPauses adds a pause after each statement of the functions. A statement after which the
// function asks FOUND is not followed by one.
func withPauses(sql string) string {
	sql = functionBody.ReplaceAllStringFunc(sql, func(f string) string {
		head, body, _ := strings.Cut(f, "\nBEGIN\n")
		lines := strings.Split(body, "\n")
		var with []string
		for i, line := range lines {
			with = append(with, line)
			if strings.HasSuffix(line, ";") && i+1 < len(lines) && lines[i+1] != "END" && !strings.Contains(lines[i+1], "FOUND") {
				with = append(with, "PERFORM public.walk_pause();")
			}
		}
		return head + "\nBEGIN\n" + strings.Join(with, "\n")
	})
	return pauses + sql
}

func newStage(t testing.TB, url string, n int, isolation pgx.TxIsoLevel) *stage {
	t.Helper()
	s := &stage{t: t, observer: session(t, url), most: unlimited}
	for i := range n {
		conn := session(t, url)
		if _, err := conn.Exec(t.Context(), "SELECT set_config('walk.actor', $1, false), set_config('default_transaction_isolation', $2, false)", string(rune('0'+i)), string(isolation)); err != nil {
			t.Fatal(err)
		}
		s.actors = append(s.actors, &actor{conn: conn, ended: make(chan error, 1)})
		s.lock(int32(2*i), true)
		s.lock(int32(2*i+1), true)
	}
	return s
}

func (s *stage) lock(key int32, lock bool) {
	s.t.Helper()
	sql := "SELECT pg_advisory_unlock($1, $2)"
	if lock {
		sql = "SELECT pg_advisory_lock($1, $2)"
	}
	if _, err := s.observer.Exec(s.t.Context(), sql, pauseSpace, key); err != nil {
		s.t.Fatal(err)
	}
}

// walk runs the programs in one order: choose returns which of the sessions goes on.
func (s *stage) walk(programs []program, choose func(of int) int) {
	s.t.Helper()
	for i, a := range s.actors {
		a.program, a.state, a.err, a.waited = programs[i], idle, nil, false
		if len(a.program) == 0 {
			a.state = finished
		}
	}
	var last *actor
	for interruptions := 0; ; {
		var ready []*actor
		done, interrupts := true, false
		for _, a := range s.actors {
			if a.state == idle || a.state == paused {
				ready = append(ready, a)
				interrupts = interrupts || a == last
			}
			done = done && a.state == finished
		}
		if interrupts && interruptions == s.most {
			ready = []*actor{last}
		}
		if done {
			return
		}
		if len(ready) == 0 { // a deadlock, which the server ends
			s.settle(true)
			continue
		}
		a := ready[choose(len(ready))]
		if interrupts && a != last {
			interruptions++
		}
		last = a
		if a.state == idle {
			statement := a.program[0]
			a.program = a.program[1:]
			a.state = running
			go func() { a.ended <- statement(s.t.Context(), a.conn) }()
			s.settle(false)
			continue
		}
		key := a.key
		a.state = running
		s.lock(key, false)
		s.settle(false)
		s.lock(key, true)
	}
}

// settle waits until no session runs, or, if all of them are blocked, until one of them is not.
func (s *stage) settle(deadlocked bool) {
	s.t.Helper()
	for {
		again := false
		for _, a := range s.actors {
			if a.state == running || a.state == blocked {
				select {
				case err := <-a.ended:
					if err != nil {
						a.err = err
					}
					a.state, again = idle, true
					if len(a.program) == 0 {
						a.state = finished
					}
				default:
				}
			}
		}
		if again && deadlocked {
			deadlocked = false
		}
		waits := s.waits()
		for _, a := range s.actors {
			if a.state != running && a.state != blocked {
				continue
			}
			switch w, waiting := waits[a.conn.PgConn().PID()]; {
			case waiting && w.pause:
				a.state, a.key = paused, w.key
			case waiting:
				again = again || a.state != blocked
				a.state, a.waited = blocked, true
			default:
				a.state, again = running, true
			}
		}
		if !again && !deadlocked {
			return
		}
	}
}

type wait struct {
	pause bool
	key   int32
}

// waits returns the sessions that wait for advisory locks and rows. Other waits, as that for an autovacuum that
// truncates a table, end by themselves.
func (s *stage) waits() map[uint32]wait {
	s.t.Helper()
	rows, _ := s.observer.Query(s.t.Context(), `SELECT pid, locktype = 'advisory' AND classid = $1, coalesce(objid, 0)::bigint FROM pg_locks
		WHERE NOT granted AND locktype IN ('advisory', 'transactionid', 'tuple')`, pauseSpace)
	waits := map[uint32]wait{}
	var pid int32
	var w wait
	var key int64
	if _, err := pgx.ForEachRow(rows, []any{&pid, &w.pause, &key}, func() error {
		w.key = int32(key)
		waits[uint32(pid)] = w
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
	return waits
}

// orders calls walk with sequences of choices, until it returns false. It returns the number of that one, or else how many there were.
//
// make test-consumers walks all orders with at most so many interruptions, and 300 random ones if that is a limit. A session is interrupted if
// another one goes on although it could itself. make test-all walks all orders of two sessions with at most one interruption, and 24 random
// ones of three. Tests of mutants walk the same, so these orders show each mutant. The short tests walk 16 random ones.
func (s *stage) orders(most int, walk func(choose func(of int) int) bool) (n int) {
	switch {
	case many():
	case testing.Short():
		return sample(s.first, 16, walk)
	case len(s.actors) == 2:
		return s.interrupted(min(most, 1), walk)
	default:
		return sample(s.first, 24, walk)
	}
	ok := true
	n = s.interrupted(most, func(choose func(of int) int) bool {
		ok = walk(choose)
		return ok
	})
	if most < unlimited && ok {
		n += sample(s.first, 300, walk)
	}
	return n
}

// interrupted calls walk with all sequences of choices in which sessions are interrupted at most so often, until it returns false.
func (s *stage) interrupted(most int, walk func(choose func(of int) int) bool) (n int) {
	s.most = most
	defer func() { s.most = unlimited }()
	return allOrders(walk)
}

// many reports whether the tests should do all that they can.
func many() bool { return os.Getenv("MDB_TEST_SCHEDULES") != "" }

// sample calls walk with so many random sequences of choices, each of them once, until it returns false. It returns how many there were.
func sample(first, most int, walk func(choose func(of int) int) bool) (n int) {
	walked := 0
	next := map[string]int{} // how many choices there are after those of the key, 0 at the end
	for n := first; n < first+most; n++ {
		if repeats(next, chooser(n)) {
			continue
		}
		walked++
		choose, path := chooser(n), ""
		more := walk(func(of int) int {
			next[path] = of
			i := choose(of)
			path += string(rune(i))
			return i
		})
		if next[path] = 0; !more {
			break
		}
	}
	return walked
}

// repeats reports whether the choices are those of an earlier walk.
func repeats(next map[string]int, choose func(of int) int) bool {
	path := ""
	for {
		of, known := next[path]
		if !known || of == 0 {
			return known
		}
		path += string(rune(choose(of)))
	}
}

// chooser returns the choices of a random sequence.
func chooser(n int) func(of int) int {
	// Some sessions are slower than others, or else those with few steps always end first.
	random := rand.New(rand.NewPCG(uint64(n), 18))
	slow, last := random.Float64(), n%2 == 1
	return func(of int) int {
		i := 0
		if random.Float64() < slow {
			i = random.IntN(of)
		}
		if last {
			i = of - 1 - i
		}
		return i
	}
}

// allOrders calls walk with all sequences of choices, until it returns false.
func allOrders(walk func(choose func(of int) int) bool) (n int) {
	var path, sizes []int
	for {
		depth := 0
		more := walk(func(of int) int {
			if depth == len(path) {
				path, sizes = append(path, 0), append(sizes, of)
			}
			sizes[depth] = of
			depth++
			return min(path[depth-1], of-1)
		})
		n++
		path, sizes = path[:depth], sizes[:depth]
		for len(path) > 0 && path[len(path)-1]+1 >= sizes[len(path)-1] {
			path, sizes = path[:len(path)-1], sizes[:len(sizes)-1]
		}
		if !more || len(path) == 0 {
			return n
		}
		path[len(path)-1]++
	}
}

func isCode(err error, code string) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == code
}

// retried reports whether an act has to be repeated in a stricter isolation level.
func retried(err error) bool { return isCode(err, "40001") }
