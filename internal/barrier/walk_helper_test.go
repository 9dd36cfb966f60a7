package barrier_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/barrier"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// The tests of interleavings run the steps of writers and of a reader, which are sessions of a
// real server, in every order. Nothing depends on time. Each walk checks that the reader has
// every message that is there at the end and has a position that was final for it.

// A stage is the sessions of the writers and of the reader. No step waits for another session:
// one that does fails by its lock timeout.
type stage struct {
	t        testing.TB
	url      string
	observer *pgx.Conn
	reader   *pgx.Conn
	writers  [2]*pgx.Conn
}

func newStage(t testing.TB, url string) *stage {
	t.Helper()
	s := &stage{t: t, url: url}
	s.connect()
	return s
}

func (s *stage) connect() {
	s.t.Helper()
	open := func() *pgx.Conn {
		conn := testdb.Session(s.t, s.url)
		testdb.Exec(s.t, conn, "SET lock_timeout = '10s'")
		return conn
	}
	s.observer, s.reader = open(), open()
	for i := range s.writers {
		s.writers[i] = open()
	}
}

// A walk is one interleaving, with categories of its own.
type walk struct {
	*stage

	name    string
	begin   int64 // the last position before it
	server  int64
	last    int64 // L
	holders string
	left    string // of the holders
	passed  bool   // no holder was left
	seen    []int64
	read    bool
}

// An outcome is what a walk has shown.
type outcome struct {
	passed bool
	final  int64   // of a reader that has passed the barrier, the last final position
	seen   []int64 // the positions up to it that it has read
	missed []int64 // those that it has not, although they are there
}

// A move is a step of one of the sessions.
type move struct {
	name string
	do   func(*walk)
}

// run takes the steps in the given order.
func (s *stage) run(moves []move) (o outcome) {
	w := &walk{stage: s, name: "walk" + strings.ReplaceAll(uuid.NewString(), "-", "")}
	w.begin = testdb.Value[int64](s.t, s.observer, "SELECT coalesce(max(global_position), 0) FROM message_store.messages")
	for _, m := range moves {
		m.do(w)
	}
	o.passed = w.passed && w.read
	if !o.passed {
		return o
	}
	o.final = w.last
	for _, p := range w.positions(s.observer) {
		switch {
		case p > w.last:
		case slices.Contains(w.seen, p):
			o.seen = append(o.seen, p)
		default:
			o.missed = append(o.missed, p)
		}
	}
	return o
}

func (w *walk) positions(conn *pgx.Conn) []int64 {
	w.t.Helper()
	return testdb.Value[[]int64](w.t, conn, `SELECT coalesce(array_agg(global_position), '{}') FROM message_store.messages WHERE global_position > $1`, w.begin)
}

func steps(moves []move) string {
	var b strings.Builder
	for _, m := range moves {
		b.WriteString(" " + m.name)
	}
	return b.String()[1:]
}

// Steps of a writer. Each writer has a category of its own.

func statement(i int, name, sql string) move {
	return move{fmt.Sprintf("W%d.%s", i, name), func(w *walk) {
		sql := strings.ReplaceAll(sql, "{stream}", fmt.Sprintf("%s%d-1", w.name, i))
		testdb.Exec(w.t, w.writers[i], sql)
	}}
}

const write = "SELECT message_store.write_message(gen_random_uuid()::varchar, '{stream}', 'Happened', '{}')"

func wBegin(i int) move    { return statement(i, "begin", "BEGIN") }
func wWrite(i int) move    { return statement(i, "write", write) }
func wCommit(i int) move   { return statement(i, "commit", "COMMIT") }
func wRollback(i int) move { return statement(i, "rollback", "ROLLBACK") }
func wUndo(i int) move     { return statement(i, "rollback-to", "ROLLBACK TO s") }

// wLock and wInsert are write_message in two steps.
func wLock(i int) move {
	return statement(i, "lock", "SELECT message_store.acquire_lock('{stream}')")
}

func wInsert(i int) move {
	return statement(i, "insert", "INSERT INTO message_store.messages (stream_name, type, position) VALUES ('{stream}', 'Happened', 0)")
}

func wSavepointWrite(i int) move { return statement(i, "savepoint+write", "SAVEPOINT s; "+write) }

// wAgain is a transaction of the same session after the first one.
func wAgain(i int) move { return statement(i, "begin+write", "BEGIN; "+write) }

// wOther is one that writes to another category, because a prepared one keeps its lock.
func wOther(i int) move {
	return statement(i, "begin+write-other", "BEGIN; "+strings.Replace(write, "{stream}", "other{stream}", 1))
}

// wSession takes a lock such as a migration's, outside of a transaction.
func wSession(i int) move { return statement(i, "session-lock", "SELECT pg_advisory_lock(42)") }

func wSessionUnlock(i int) move {
	return statement(i, "session-unlock", "SELECT pg_advisory_unlock(42)")
}

func wPrepare(i int) move {
	return move{fmt.Sprintf("W%d.prepare", i), func(w *walk) {
		testdb.Exec(w.t, w.writers[i], "PREPARE TRANSACTION 'walk'")
	}}
}

// finish ends a prepared transaction, on another session.
func finish(how string) move {
	return move{strings.ToLower(strings.ReplaceAll(how, " ", "-")), func(w *walk) {
		testdb.Exec(w.t, w.observer, how+" 'walk'")
	}}
}

// Steps of the reader, which are those of the package documentation.

func rLast() move {
	return move{"R.last", func(w *walk) {
		var recovery, cycle bool
		var cache, increment, stored, start, stride int64
		if err := w.reader.QueryRow(w.t.Context(), barrier.DrawnSQL).Scan(&w.server, &recovery, &w.last, &cache, &cycle, &increment, &stored, &start, &stride); err != nil {
			w.t.Fatal(err)
		}
		if recovery || cache != 1 || cycle || increment != 1 || stride != 1 || stored > w.last {
			w.t.Fatalf("got %t, %d, %t, %d, %d, %d of %d", recovery, cache, cycle, increment, stride, stored, w.last)
		}
	}}
}

func rHolders() move { return rHoldersBy(barrier.HoldersSQL) }

func rHoldersBy(sql string) move {
	return move{"R.holders", func(w *walk) {
		w.holders = testdb.Value[string](w.t, w.reader, sql)
	}}
}

// rPass is the last look for the holders: the barrier is passed if none is left.
func rPass() move { return rPassBy(barrier.LeftSQL) }

func rPassBy(sql string) move {
	return move{"R.pass", func(w *walk) {
		var server int64
		if err := w.reader.QueryRow(w.t.Context(), sql, w.holders).Scan(&server, &w.left); err != nil {
			w.t.Fatal(err)
		}
		w.passed = w.left == "" && server == w.server
	}}
}

func rRead() move {
	return move{"R.read", func(w *walk) { w.seen, w.read = w.positions(w.reader), true }}
}
