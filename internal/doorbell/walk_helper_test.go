package doorbell_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/names"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/internal/trigger"
)

// The tests of interleavings run the steps of writers and subscribers, which are sessions
// of a real server, in every order. Nothing depends on time. Each test checks that a
// subscriber that sleeps has seen all messages, or that a ring is on its way.

// A stage is the sessions of writers and subscribers that the tests use. No step waits
// for another session: one that does fails by its lock timeout.
type stage struct {
	t           testing.TB
	observer    *pgx.Conn
	writers     [2]*pgx.Conn
	subscribers [2]*subscriber
}

// A subscriber does what the client does for one category. Like the client, it reads on
// another connection than the one that listens.
type subscriber struct {
	bell, reader *pgx.Conn
	sleeper
}

type sleeper struct {
	listening, refused bool
	armed, asleep      bool
	rung               bool // since the last read began
	fresh              bool // whether the last read began after the key was shared
	seen               int  // number of messages in the last read
	delivered          int  // the walk's written at the last delivery
}

// A walk is one interleaving, that is one order of the steps, in a category of its own.
type walk struct {
	*stage
	category string
	written  int // how many steps writers have taken
}

// A move is a step of one of the sessions.
type move struct {
	name string
	do   func(*walk)
}

func newStage(t testing.TB, url string) *stage {
	t.Helper()
	open := func() *pgx.Conn {
		conn := testdb.Session(t, url)
		testdb.Exec(t, conn, "SET lock_timeout = '10s'")
		return conn
	}
	s := &stage{t: t, observer: open()}
	for i := range s.writers {
		s.writers[i] = open()
		s.subscribers[i] = &subscriber{bell: open(), reader: open()}
	}
	return s
}

// run takes the steps in the given order, and reports whether a wake-up was lost: a
// subscriber sleeps although there are messages to read, and nothing will wake it.
func (s *stage) run(moves []move) (lost bool, sleepers []sleeper) {
	w := &walk{stage: s, category: "walk" + strings.ReplaceAll(uuid.NewString(), "-", "")}
	for _, m := range moves {
		m.do(w)
	}
	committed := testdb.Value[int](s.t, s.observer, sees, w.category)
	for _, x := range s.subscribers {
		w.deliver(x)
		if x.asleep && !x.rung && x.seen < committed {
			lost = true
		}
		sleepers = append(sleepers, x.sleeper)
		if x.sleeper != (sleeper{}) {
			testdb.Exec(s.t, x.bell, "SELECT pg_advisory_unlock_all(); UNLISTEN *")
			x.sleeper = sleeper{}
		}
	}
	return lost, sleepers
}

// deliver makes the subscriber receive all notifications sent so far. They arrive as
// early as possible, because a late one cannot be forgotten by the next read.
func (w *walk) deliver(x *subscriber) {
	if !x.listening || x.delivered == w.written {
		return
	}
	x.delivered = w.written
	sentinel := "-" + uuid.NewString()
	notify(w.t, w.observer, sentinel)
	for {
		ctx, cancel := context.WithTimeout(w.t.Context(), testTimeout)
		n, err := x.bell.WaitForNotification(ctx)
		cancel()
		if err != nil {
			w.t.Fatal(err)
		}
		switch {
		case n.Payload == sentinel:
			return
		case names.Category(n.Payload) == w.category:
			x.rung = true
		}
	}
}

func steps(moves []move) string {
	var b strings.Builder
	for _, m := range moves {
		b.WriteString(" " + m.name)
	}
	return b.String()[1:]
}

// Steps of a writer.

func (w *walk) write(i int, sql string, args ...any) {
	testdb.Exec(w.t, w.writers[i], sql, args...)
	w.written++
}

func statement(i int, name, sql string) move {
	return move{fmt.Sprintf("W%d.%s", i, name), func(w *walk) { w.write(i, sql) }}
}

func wBegin(i int) move     { return statement(i, "begin", "BEGIN") }
func wCommit(i int) move    { return statement(i, "commit", "COMMIT") }
func wRollback(i int) move  { return statement(i, "rollback", "ROLLBACK") }
func wSavepoint(i int) move { return statement(i, "savepoint", "SAVEPOINT s") }
func wRelease(i int) move   { return statement(i, "release", "RELEASE s") }
func wUndo(i int) move      { return statement(i, "rollback-to-savepoint", "ROLLBACK TO s") }

func wInsert(i int) move {
	return move{fmt.Sprintf("W%d.insert", i), func(w *walk) {
		w.write(i, "SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Happened', '{}')",
			w.category+"-1")
	}}
}

// wInsertSub sets a savepoint and inserts, in one step.
func wInsertSub(i int) move {
	return move{fmt.Sprintf("W%d.savepoint+insert", i), func(w *walk) {
		wSavepoint(i).do(w)
		wInsert(i).do(w)
	}}
}

// wInsertRow inserts without write_message, and so without the lock that writers of a
// category take.
func wInsertRow(i int) move {
	return move{fmt.Sprintf("W%d.insert-row", i), func(w *walk) {
		w.write(i, "INSERT INTO message_store.messages (stream_name, type, position) VALUES ($1, 'Happened', 0)",
			fmt.Sprint(w.category, "-row", i))
	}}
}

// wWriteRow begins a transaction and inserts such a row, in one step.
func wWriteRow(i int) move {
	return move{fmt.Sprintf("W%d.begin+insert-row", i), func(w *walk) {
		wBegin(i).do(w)
		wInsertRow(i).do(w)
	}}
}

// Steps of a subscriber.

func step(i int, name string, do func(*walk, *subscriber)) move {
	return move{fmt.Sprintf("S%d.%s", i, name), func(w *walk) { do(w, w.subscribers[i]) }}
}

func sListen(i int) move {
	return step(i, "listen", func(w *walk, x *subscriber) {
		testdb.Exec(w.t, x.bell, "LISTEN "+trigger.Channel)
		x.listening = true
	})
}

func sArm(i int) move {
	return step(i, "arm", func(w *walk, x *subscriber) {
		if !x.armed {
			x.armed = testdb.Value[bool](w.t, x.bell, "SELECT pg_try_advisory_lock_shared($1, hashtext($2))", trigger.Key, w.category)
			x.refused = x.refused || !x.armed
		}
	})
}

func sUnlock(i int) move {
	return step(i, "unlock", func(w *walk, x *subscriber) {
		if x.armed {
			testdb.Exec(w.t, x.bell, "SELECT pg_advisory_unlock_shared($1, hashtext($2))", trigger.Key, w.category)
			x.armed = false
		}
	})
}

const sees = "SELECT count(*) FROM message_store.messages WHERE message_store.category(stream_name) = $1"

// sSnapshot and sRows are a read in two steps: it does not see what is committed between
// them.
func sSnapshot(i int) move {
	return step(i, "snapshot", func(w *walk, x *subscriber) {
		w.deliver(x)
		x.rung, x.fresh = false, x.armed
		testdb.Exec(w.t, x.reader, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
	})
}

func sRows(i int) move {
	return step(i, "rows", func(w *walk, x *subscriber) {
		x.seen = testdb.Value[int](w.t, x.reader, sees, w.category)
		testdb.Exec(w.t, x.reader, "COMMIT")
	})
}

func sRead(i int) move {
	return step(i, "read", func(w *walk, x *subscriber) {
		w.deliver(x)
		x.rung, x.fresh = false, x.armed
		x.seen = testdb.Value[int](w.t, x.reader, sees, w.category)
	})
}

// sSleep sleeps by the client's rule: only with a shared key, after a read that began
// when it was shared, and if no ring has arrived since.
func sSleep(i int) move {
	return step(i, "sleep", func(w *walk, x *subscriber) {
		w.deliver(x)
		x.asleep = x.armed && x.fresh && !x.rung
	})
}

// triggerSQL returns the SQL that InstallNotify runs, which mutants change.
func triggerSQL(t testing.TB) string {
	t.Helper()
	sql, err := os.ReadFile("../../mdb/schema/notify.sql")
	if err != nil {
		t.Fatal(err)
	}
	return string(sql)
}
