package main_test

import (
	"fmt"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestUnreadable checks that read and tail, at a message that the server cannot print, print
// the messages before it, and the option with which they continue after it.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	sh := &shell{folder: t.TempDir(), env: environment("DATABASE_URL=" + url)}
	if out, status := sh.run(t, `mdb write -empty account-1 Opened; mdb write -empty other-1 Opened
		mdb write -empty account-1 Broken; mdb write -empty account-1 Closed`); status != 0 {
		t.Fatal(out)
	}
	_, err := connect(t, url).Pool().Exec(t.Context(), `
		ALTER TABLE message_store.messages RENAME TO stored;
		CREATE FUNCTION message_store.broken() RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
			BEGIN RAISE EXCEPTION 'too long' USING ERRCODE = '54000'; END$$;
		CREATE VIEW message_store.messages AS
			SELECT id, stream_name, type, position, global_position,
				CASE WHEN type = 'Broken' THEN message_store.broken() ELSE data END AS data, metadata, time
			FROM message_store.stored;`)
	if err != nil {
		t.Fatal(err)
	}
	const transcript = `$ %[1]s -from 0 account
TIME  1  account-1/0  Opened
mdb: the message at account-1/1, global position 3 cannot be read: ERROR: program limit exceeded (SQLSTATE 54000); -after 3 continues after it
[1]
$ %[1]s -after 3 -limit 1 account
TIME  4  account-1/2  Closed
$ %[1]s -from 0 account-1
TIME  1  account-1/0  Opened
mdb: the message at account-1/1, global position 3 cannot be read: ERROR: program limit exceeded (SQLSTATE 54000); -after 1 continues after it
[1]
$ %[1]s -after 1 -limit 1 account-1
TIME  4  account-1/2  Closed
`
	for _, command := range []string{"mdb read", "mdb tail"} {
		want := fmt.Sprintf(transcript, command)
		requireSame(t, sh.replay(t, want), want)
	}
	// Where the server selects by type, it does not print the others.
	const selected = `$ mdb read -backwards -types Opened,Closed account
TIME  4  account-1/2  Closed
TIME  1  account-1/0  Opened
$ mdb read -backwards -type Opened -limit 1 account
TIME  1  account-1/0  Opened
$ mdb read -all -type Closed
TIME  4  account-1/2  Closed
$ mdb read -backwards -types Opened,Closed -type Closed account
TIME  4  account-1/2  Closed
$ mdb tail -n 2 -limit 2 -types Opened,Closed account
TIME  1  account-1/0  Opened
TIME  4  account-1/2  Closed
$ mdb read -types Opened,Closed account
TIME  1  account-1/0  Opened
mdb: the message at account-1/1, global position 3 cannot be read: ERROR: program limit exceeded (SQLSTATE 54000); -after 3 continues after it
[1]
`
	requireSame(t, sh.replay(t, selected), selected)
}
