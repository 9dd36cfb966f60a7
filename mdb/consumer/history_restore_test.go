package consumer_test

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/poll"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// What a restore restores, in an order that foreign keys allow.
var historyTables = []string{
	"message_store.messages", "message_store_consumers.consumers", "message_store_consumers.members",
	"message_store_consumers.checkpoints", "message_store_consumers.parked", "public.effects",
}

// sqlTerminate ends all sessions but those of directPool.
const sqlTerminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'history'"

// TestHistoryRestore checks that after a restore to an earlier point, which has the same
// timeline and the same epochs, consumers go back to what is there, also if nothing is written.
func TestHistoryRestore(t *testing.T) {
	pgtest.NeedTime(t)
	t.Parallel()
	url := testdb.Consumers(t)
	db := directPool(t, url)
	sqlExec(t, db, sqlEffects)
	var kept, lost, queued []*course
	var asleep atomic.Int64 // readers of queued
	var tired atomic.Bool
	sleepy := consumer.WithPolling(func(poll.Seen) time.Duration {
		if !tired.Load() {
			return 10 * time.Millisecond
		}
		asleep.Add(1)
		return time.Hour
	})
	for _, form := range historyForms {
		kept = append(kept, newCourse(t, "kept", form, url))
		lost = append(lost, newCourse(t, "lost", form, url))
		queued = append(queued, newCourse(t, "queued", form, url, sleepy))
	}
	all := slices.Concat(kept, lost, queued)
	for _, c := range all {
		c.run(t)
		c.write(t, db, 20)
	}
	for _, c := range all {
		c.settled(t, db, 0)
	}
	for _, c := range kept {
		c.hold()
		c.write(t, db, 40)
		c.writePoison(t, db)
		c.until(t, "all is read", func() bool { return c.runs[0].Stats().Waiting == 43 })
	}
	sqlExec(t, db, "CREATE SCHEMA backup")
	backup := func(table string) string { return "backup." + strings.ReplaceAll(table, ".", "_") }
	save := []string{"BEGIN ISOLATION LEVEL REPEATABLE READ", "CREATE TABLE backup.used AS SELECT last_value FROM message_store.messages_global_position_seq"}
	for _, table := range historyTables {
		save = append(save, "CREATE TABLE "+backup(table)+" AS TABLE "+table)
	}
	sqlExec(t, db, strings.Join(append(save, "COMMIT"), ";"))
	for _, c := range queued { // are read, and lost before they are handled
		c.hold()
		c.write(t, db, 30)
		c.until(t, "all is read", func() bool { return c.runs[0].Stats().Waiting == 30 })
	}
	tired.Store(true)
	for _, c := range kept {
		c.open()
	}
	for _, c := range lost {
		c.write(t, db, 30)
	}
	for _, c := range kept {
		c.settled(t, db, 1)
	}
	for _, c := range lost {
		c.settled(t, db, 0)
	}

	for _, c := range queued {
		c.until(t, "the readers wait", func() bool { return asleep.Load() == int64(len(queued)) })
	}
	tired.Store(false)

	for _, c := range all {
		c.road.close()
	}
	ended := func() bool {
		return sqlValue[int](t, db, "SELECT count(*) FROM ("+sqlTerminate+") AS o") == 0
	}
	all[0].until(t, "all sessions have ended", ended)
	tables := strings.Join(historyTables, ", ")
	restore := []string{"BEGIN", "LOCK TABLE " + tables + " IN ACCESS EXCLUSIVE MODE", "TRUNCATE " + tables}
	for _, table := range historyTables {
		into := " "
		if table == "message_store_consumers.consumers" {
			into = " OVERRIDING SYSTEM VALUE "
		}
		restore = append(restore, "INSERT INTO "+table+into+"TABLE "+backup(table))
	}
	restore = append(restore, "SELECT setval('message_store.messages_global_position_seq', (SELECT last_value FROM backup.used))", "COMMIT")
	sqlExec(t, db, strings.Join(restore, ";"))
	for _, c := range queued { // with positions of the lost ones
		c.write(t, db, 40)
	}
	for _, c := range lost {
		c.write(t, db, 20)
	}
	ticks, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ticks.Exec(t.Context(), "LOCK TABLE message_store_consumers.consumers, message_store_consumers.members IN EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		c.road.set(c.store.Pool().Config().ConnConfig)
	}
	for _, c := range queued {
		c.open()
	}
	for _, c := range queued {
		c.rest(t)
	}
	if err := ticks.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}

	for _, c := range kept {
		c.settled(t, db, 1)
	}
	for _, c := range slices.Concat(lost, queued) {
		c.settled(t, db, 0)
	}
	for _, c := range all {
		if c.rewound() == 0 && !slices.Contains(queued, c) {
			t.Errorf("%s: no checkpoint was counted as rewound\n%s", c.name, c.journal.String())
		}
		c.write(t, db, 10)
	}
	for _, c := range kept {
		c.settled(t, db, 1)
		c.check(t, db)
	}
	for _, c := range slices.Concat(lost, queued) {
		c.settled(t, db, 0)
		c.check(t, db)
	}
}

// TestHistoryRestart checks that a crash of the server, from which it recovers everything that
// it has confirmed, repeats nothing of that, and counts no checkpoint as rewound.
func TestHistoryRestart(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	server := pgtest.Own(t)
	url := server.URL("postgres")
	db := directPool(t, url)
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := testdb.InstallOurs(t.Context(), conn.Conn()); err != nil {
		t.Fatal(err)
	}
	if err := schema.InstallConsumers(t.Context(), conn.Conn()); err != nil {
		t.Fatal(err)
	}
	conn.Release()
	sqlExec(t, db, sqlEffects)
	var courses []*course
	for _, form := range historyForms {
		c := newCourse(t, "restart", form, url)
		courses = append(courses, c)
		c.run(t)
		c.write(t, db, 20)
		c.writePoison(t, db)
	}
	for _, c := range courses {
		c.settled(t, db, 1)
	}
	// Ticks do not wait for the disk, but a later commit does.
	sqlExec(t, db, "CREATE TABLE public.durable ()")
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := server.Boot(); err != nil {
		t.Fatal(err)
	}
	db = directPool(t, url)
	for _, c := range courses {
		c.write(t, db, 10)
	}
	for _, c := range courses {
		c.settled(t, db, 1)
		c.check(t, db)
		if n := c.rewound(); n != 0 {
			t.Errorf("%s: got %d checkpoints counted as rewound", c.name, n)
		}
		most := 30
		if strings.HasSuffix(c.name, "_Each") || strings.HasSuffix(c.name, "_Batch") {
			most += 10 // what was handled before the first tick on a new connection, which stores nothing
		}
		if n := sqlValue[int](t, db, "SELECT count(*) FROM public.effects WHERE consumer = $1", c.name); n < 30 || n > most {
			t.Errorf("%s: got %d effects of 30 messages, want at most %d", c.name, n, most)
		}
	}
}

// newSplit runs consumers that have handled everything, and holds the standby back.
func newSplit(t *testing.T) *past {
	t.Helper()
	p := newPast(t)
	for _, form := range historyForms {
		c := p.course(t, "split", form)
		c.run(t)
		c.write(t, p.old, 20)
	}
	for _, c := range p.courses {
		c.settled(t, p.old, 0)
	}
	p.Hold(t)
	return p
}

// TestHistorySplit checks that a consumer whose tick still reaches the old primary, while its
// pool reaches the new one, neither ends nor loses anything: when the old one has failed, it
// goes back to what is there.
func TestHistorySplit(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	p := newSplit(t)
	for _, c := range p.courses {
		c.write(t, p.old, 200) // so many that the new primary has not used all of their positions
		c.settled(t, p.old, 0)
	}
	p.promote(t)
	for _, c := range p.courses {
		c.road.lead(p.Standby)
		c.store.Pool().Reset()
	}
	for _, c := range p.courses {
		c.write(t, p.next, 10)
		ticks := c.runs[0].Stats().Ticks
		c.until(t, "it ticks on the old primary", func() bool { return c.runs[0].Stats().Ticks > ticks+3 })
	}
	p.arrive(t)
	for _, c := range p.courses {
		c.settled(t, p.next, 0)
		c.check(t, p.next)
	}
}

// TestHistorySplitWithoutLoss checks that consumers whose tick reaches the old primary, while their pool
// reaches the new one, do not call handlers in vain for ever: although no message is lost, and the old primary goes on,
// they reach the new one.
func TestHistorySplitWithoutLoss(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	p := newSplit(t)
	p.promote(t)
	for _, c := range p.courses {
		c.road.lead(p.Standby)
		c.store.Pool().Reset()
		c.write(t, p.next, 20)
	}
	for _, c := range p.courses {
		c.settled(t, p.next, 0)
		if _, most := c.called(); most > 20 {
			t.Errorf("%s: a handler was called %d times with a message", c.name, most)
		}
		c.check(t, p.next)
	}
}

// TestHistoryReadOnly checks that consumers outlast a server that is read-only for a while, as that of a client that
// was led to a standby: nothing is parked, and no connection that was opened meanwhile is kept.
func TestHistoryReadOnly(t *testing.T) {
	t.Parallel()
	url := testdb.Consumers(t)
	db := directPool(t, url)
	sqlExec(t, db, sqlEffects)
	var courses []*course
	for _, form := range historyForms {
		c := newCourse(t, "read only", form, url)
		courses = append(courses, c)
		c.run(t)
		c.write(t, db, 20)
	}
	for _, c := range courses {
		c.settled(t, db, 0)
	}
	alter := func(sql string) {
		t.Helper()
		sqlExec(t, db, "DO $$BEGIN EXECUTE format('ALTER DATABASE %I "+sql+"', current_database()); END$$")
	}
	alter("SET default_transaction_read_only = on")
	sqlExec(t, db, sqlTerminate)
	before := make(map[*course]consumer.Stats)
	for _, c := range courses {
		before[c] = c.runs[0].Stats()
		c.write(t, db, 20) // on a connection that was open before
	}
	for _, c := range courses {
		c.until(t, "ticks have failed, and the pool has a new connection", func() bool {
			s := c.runs[0].Stats()
			return s.Ticks > before[c].Ticks+1 && s.Waiting == 20
		})
	}
	alter("RESET default_transaction_read_only")
	for _, c := range courses {
		c.settled(t, db, 0)
		c.check(t, db)
		if s := c.runs[0].Stats(); s.Failed != 0 || s.Parked != 0 {
			t.Errorf("%s: got %d failures and %d parked streams, want none\n%s", c.name, s.Failed, s.Parked, c.journal.String())
		}
	}
}
