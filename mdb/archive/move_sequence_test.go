package archive_test

import (
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/archive"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

const (
	nextPosition = `SELECT nextval('message_store.messages_global_position_seq')`
	setPosition  = `SELECT setval('message_store.messages_global_position_seq', $1, $2)`
)

// TestAdvance checks which position a shard draws after its sequence was advanced: the first of its own after the other
// position, and none that it may have drawn.
func TestAdvance(t *testing.T) {
	t.Parallel()
	conn := testdb.Session(t, testdb.New(t))
	if err := schema.InstallShard(t.Context(), conn, 2); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		last  int64
		drawn bool
		past  int64
		want  int64
	}{
		{2, false, 1, 2},
		{2, false, 2, 1026},
		{2, true, 1, 1026},
		{2, true, 2, 1026},
		{2, true, 1025, 1026},
		{2, true, 1026, 2050},
		{2, true, 1_000_000, 1_000_450},
		{5122, true, 1026, 6146},
		{5122, false, 1026, 5122},
		{5000, true, 5001, 5122}, // somebody has set it to a position of another shard
	} {
		testdb.Exec(t, conn, setPosition, test.last, test.drawn)
		for range 2 {
			if err := archive.Advance(t.Context(), conn, test.past); err != nil {
				t.Fatal(err)
			}
		}
		if got := testdb.Value[int64](t, conn, nextPosition); got != test.want {
			t.Errorf("%+v: got the position %d", test, got)
		}
	}
}

// TestAdvanceWaits checks that the sequence is advanced only when all transactions have ended that have drawn a position, and not set back
// if they have drawn more positions meanwhile.
func TestAdvanceWaits(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	conn, writer := testdb.Session(t, url), testdb.Session(t, url)
	if err := schema.InstallShard(t.Context(), conn, 2); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ draws, want int64 }{{0, 5122}, {9, 10*1024 + 2}} {
		testdb.Exec(t, conn, setPosition, 2, false)
		testdb.Exec(t, writer, "BEGIN")
		testdb.Exec(t, writer, nextPosition)
		done := make(chan error, 1)
		go func() { done <- archive.Advance(t.Context(), conn, 5000) }()
		testdb.WaitForLock(t, writer, conn.PgConn().PID())
		for range test.draws {
			testdb.Exec(t, writer, nextPosition)
		}
		testdb.Exec(t, writer, "COMMIT")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := testdb.Value[int64](t, writer, nextPosition); got != test.want {
			t.Errorf("%d positions were drawn meanwhile: got the position %d, want %d", test.draws, got, test.want)
		}
	}
}
