package consumer_test

import (
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// What a restore restores, in an order that foreign keys allow.
var historyTables = []string{
	"message_store.messages", "message_store_consumers.consumers", "message_store_consumers.members",
	"message_store_consumers.checkpoints", "message_store_consumers.parked", "public.effects",
}

// TestHistoryRestore checks that after a restore to an earlier point, which has the same
// timeline and the same epochs, consumers go back to what is there, also if nothing is written.
func TestHistoryRestore(t *testing.T) {
	t.Parallel()
	url := testdb.Consumers(t)
	db := directPool(t, url)
	sqlExec(t, db, sqlEffects)
	var kept, lost []*course
	for _, form := range historyForms {
		kept = append(kept, newCourse(t, "kept", form, url))
		lost = append(lost, newCourse(t, "lost", form, url))
	}
	all := append(kept, lost...)
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

	tables := strings.Join(historyTables, ", ")
	restore := []string{"BEGIN", "LOCK TABLE " + tables + " IN ACCESS EXCLUSIVE MODE", "TRUNCATE " + tables}
	for _, table := range historyTables {
		into := " "
		if table == "message_store_consumers.consumers" {
			into = " OVERRIDING SYSTEM VALUE "
		}
		restore = append(restore, "INSERT INTO "+table+into+"TABLE "+backup(table))
	}
	restore = append(restore, "SELECT setval('message_store.messages_global_position_seq', (SELECT last_value FROM backup.used))",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'history'", "COMMIT")
	for _, c := range lost { // with positions of the lost ones
		restore = append(restore[:len(restore)-1], `SELECT message_store.write_message(gen_random_uuid()::varchar, '`+c.name+`-' || i % 10, 'Happened', '{}') FROM generate_series(1, 20) AS i`, "COMMIT")
	}
	sqlExec(t, db, strings.Join(restore, ";"))

	for _, c := range kept {
		c.settled(t, db, 1)
	}
	for _, c := range lost {
		c.settled(t, db, 0)
	}
	for _, c := range all {
		if c.rewound() == 0 {
			t.Errorf("%s: no checkpoint was counted as rewound\n%s", c.name, c.journal.String())
		}
		c.write(t, db, 10)
	}
	for _, c := range kept {
		c.settled(t, db, 1)
		c.check(t, db)
	}
	for _, c := range lost {
		c.settled(t, db, 0)
		c.check(t, db)
	}
}

// TestHistoryRestart checks that a crash of the server, from which it recovers everything that
// it has confirmed, repeats nothing, and counts no checkpoint as rewound.
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
		if n := sqlValue[int](t, db, "SELECT count(*) FROM public.effects WHERE consumer = $1", c.name); n != 30 {
			t.Errorf("%s: got %d effects of 30 messages", c.name, n)
		}
	}
}

// TestHistorySplit checks that a consumer whose tick still reaches the old primary, while its
// pool reaches the new one, neither ends nor loses anything: when the old one has failed, it
// goes back to what is there.
func TestHistorySplit(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
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

// TestHistoryReadOnly checks that the tick does not stay on a session that may not write, as
// that of a client that was led to a standby for a while.
func TestHistoryReadOnly(t *testing.T) {
	t.Parallel()
	url := testdb.Consumers(t)
	db := directPool(t, url)
	sqlExec(t, db, sqlEffects)
	c := newCourse(t, "read only", "Each", url)
	r := c.run(t)
	c.write(t, db, 20)
	c.settled(t, db, 0)
	alter := func(sql string) {
		t.Helper()
		sqlExec(t, db, "DO $$BEGIN EXECUTE format('ALTER DATABASE %I "+sql+"', current_database()); END$$")
	}
	alter("SET default_transaction_read_only = on")
	sqlExec(t, db, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'history'")
	ticks := r.Stats().Ticks
	c.until(t, "ticks have failed", func() bool { return r.Stats().Ticks > ticks+2 })
	alter("RESET default_transaction_read_only")
	sqlExec(t, db, "SET default_transaction_read_only = off")
	c.write(t, db, 20)
	c.settled(t, db, 0)
	c.check(t, db)
}
