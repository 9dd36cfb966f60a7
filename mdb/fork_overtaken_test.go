package mdb_test

import (
	"testing"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// TestFailoverOvertaken checks a failover that loses a message and keeps one that has a greater
// position, because its transaction has committed earlier. A subscription to all categories that
// only knew its last message would not notice that.
func TestFailoverOvertaken(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	for name, runs := range map[string]bool{"during the failover": true, "between runs": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testFailoverOvertaken(t, runs)
		})
	}
}

func testFailoverOvertaken(t *testing.T, runs bool) {
	f := newFailover(t)
	f.watch(t, nil)
	f.write(t, f.old, 60)
	f.catchUp(t)
	const write = `SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Selected', '{}', '{"correlationStreamName": "origin-1"}')`
	tx := begin(t, f.old)
	slow := f.category.Stream("4")
	exec(t, tx, write, string(slow))
	exec(t, f.old, write, "fast-1")
	f.CatchUp(t)
	f.Hold(t)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.catchUp(t)
	before := f.remember(t, f.old)
	var checkpoints map[string]string
	if !runs {
		checkpoints = f.stopAll(t)
	}
	f.promote(t)
	kept := f.remember(t, f.next)
	lost, all := without(before[everything], kept[everything]), before[everything]
	if len(lost) != 1 || lost[0].Stream != slow || all[len(all)-1].Stream != "fast-1" || lost[0] != all[len(all)-2] {
		t.Fatalf("the new primary lacks %v, want the message of %s before the last one", lost, slow)
	}
	f.write(t, f.next, 30)
	f.arrive()
	if runs {
		f.receive(t, before, kept)
		f.compare(t, before, kept)
		return
	}
	f.restart(t, checkpoints)
	f.compareRestarts(t, before, kept)
}
