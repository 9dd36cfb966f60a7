package main_test

import (
	"regexp"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestMove checks what the command prints of a move, from the refusals to the deletion of the old messages.
func TestMove(t *testing.T) {
	t.Parallel()
	proxy := testdb.Empty(t)
	testdb.Exec(t, testdb.Session(t, proxy), `CREATE SCHEMA message_store_proxy;
CREATE TABLE message_store_proxy.placement (category text PRIMARY KEY, shard integer NOT NULL);
CREATE FUNCTION message_store_proxy.shard_of(stream_name varchar) RETURNS integer LANGUAGE sql STABLE
RETURN coalesce((SELECT p.shard FROM message_store_proxy.placement AS p WHERE p.category = split_part(stream_name, '-', 1)), 0)`)
	sh := newShell(t, "$OTHER_URL")
	sh.env = append(sh.env, "PROXY="+proxy)
	const move = `mdb move -from "$DATABASE_URL" -to "$OTHER_URL" -proxy "$PROXY" `
	for _, step := range []struct {
		command, want string
		status        int
	}{
		{"mdb move account", "mdb: move: want -from, -to and -proxy; .*", 2},
		{`mdb -d "$DATABASE_URL" move account`, "mdb: move: -d and -pooler do not apply: .*", 2},
		{move + "-abort -dry-run account", "mdb: move: -dry-run, -abort and -delete-old exclude one another; .*", 2},
		{move + "account-1", "mdb: move: want a category, got \"account-1\"; .*", 2},
		{move + "account", "mdb: move category account: the old store is not a shard, run mdb install -shard there", 1},
		{"mdb install -shard 0", "Message DB 1.3.0 is installed\nthe store is shard 0", 0},
		{`mdb -d "$OTHER_URL" install -shard 1`, "Message DB 1.3.0 is installed\nthe store is shard 1", 0},
		{"mdb write -empty account-1 Opened && mdb write -empty account-1 Closed", "(?s).*", 0},
		{move + "-abort account", "mdb: move category account: it has not begun, so there is nothing to abort", 1},
		{move + "-dry-run account", "account from shard 0 to shard 1: not begun, would copy 2 messages", 0},
		{move + "account", "moved account from shard 0 to shard 1, 2 messages copied; writers were held up for .*s", 0},
		{move + "-dry-run account", "account from shard 0 to shard 1: done", 0},
		{move + "account", "mdb: account was moved already", 4},
		{move + "-abort account", "mdb: move category account: a proxy uses the new shard already: .*", 1},
		{`mdb -d "$OTHER_URL" version account-1`, "1", 0},
		{move + "-delete-old account", "deleted 2 messages of account on the old shard", 0},
		{move + "-delete-old account", "mdb: the old shard has no messages of account", 4},
	} {
		out, status := sh.run(t, step.command)
		if status != step.status || !regexp.MustCompile("^"+step.want+"\n?$").MatchString(out) {
			t.Errorf("$ %s\n%s[%d], want\n%s\n[%d]", step.command, out, status, step.want, step.status)
		}
	}
}
