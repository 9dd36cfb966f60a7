package main_test

import (
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestProgress checks that export and import draw a bar on a terminal, and remove it before they say what they have done. Both are
// delayed until a bar is due, and what is drawn at the end depends on the time, so it is left out.
func TestProgress(t *testing.T) {
	t.Parallel()
	from, to := testdb.New(t), testdb.New(t)
	testdb.Exec(t, testdb.Session(t, from), `INSERT INTO message_store.messages (stream_name, position, type, data)
		SELECT 'account-1', n - 1, 'Deposited', jsonb_build_object('text', repeat('x', 200)) FROM generate_series(1, 1500) AS n`)
	testdb.Exec(t, testdb.Session(t, to), `CREATE FUNCTION message_store.wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.2); RETURN NULL; END $$;
		CREATE TRIGGER wait AFTER INSERT ON message_store.messages FOR EACH ROW WHEN (NEW.position = 0) EXECUTE FUNCTION message_store.wait()`)
	sh := &shell{folder: t.TempDir(), env: environment("DATABASE_URL="+from, "OTHER_URL="+to, "TERM=xterm")}
	const transcript = `$ terminal() { script -E never -qec "$1" /dev/null | tr -d '\n' | tr '\r\033' '\n~' | sed -E 's/\[#+ +\] +[0-9]+ %/[BAR]/' | grep -vE '^$|1500 messages$'; }
> terminal 'mdb export | { dd bs=1 count=1 status=none; sleep 0.2; cat; } > archive.jsonl'; terminal 'mdb -d "$OTHER_URL" import archive.jsonl'
~[K[BAR]  1000 messages
~[Kmdb: exported 1500 messages, up to global position 1500
~[K[BAR]  1000 messages
~[K1500 messages imported
their global positions are new: stored positions and checkpoints do not carry over
`
	requireSame(t, sh.replay(t, transcript), transcript)
}
