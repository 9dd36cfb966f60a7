package ledger_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestNextOf checks with streams of which messages were deleted that the position after the last message up to a global position is found.
func TestNextOf(t *testing.T) {
	t.Parallel()
	url := testdb.Consumers(t)
	owner, random := testdb.Session(t, url), rand.New(rand.NewPCG(20, 20))
	g := groupOn(t, url, func(*pgxpool.Config) {})
	global := int64(0)
	for n := range 20 {
		stream := fmt.Sprint("some-", n)
		begin, at := global, make(map[int64]int64) // positions by global positions
		for position := range int64(n) {
			if global += random.Int64N(3) + 1; random.IntN(3) == 0 {
				continue
			}
			at[global] = position
			if _, err := owner.Exec(t.Context(), `INSERT INTO message_store.messages (global_position, position, stream_name, type) VALUES ($1, $2, $3, 'Happened')`, global, position, stream); err != nil {
				t.Fatal(err)
			}
		}
		want := int64(0)
		for upto := begin; upto < global+2; upto++ {
			if position, ok := at[upto]; ok {
				want = position + 1
			}
			equal(t, fmt.Sprintf("the next position of %s after %d", stream, upto), query[int64](g, `SELECT message_store_consumers.next_of($2, $3) WHERE $1 = 0`, stream, upto), want)
		}
	}
}

// TestSeekLongStream checks that a seek and a skip look at few messages of a long stream that is parked, wherever its replay and the position are.
func TestSeekLongStream(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	const n, most = 1000, 40
	k.exec(`SELECT message_store.write_message(gen_random_uuid()::text, $2, 'Happened', '{}') FROM generate_series(1, $3) WHERE $1 > 0`, k.one+"-1", n)
	rows, _ := k.Query(t.Context(), `SELECT global_position FROM message_store.messages WHERE stream_name = $1 ORDER BY position`, k.one+"-1")
	at, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		t.Fatal(err)
	}
	looked := func(what string, f func(tx pgx.Tx) error) {
		t.Helper()
		tx, err := k.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(context.Background()) }()
		read := func() (n int64) { // also of transactions before
			t.Helper()
			if err := tx.QueryRow(t.Context(), `SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_all_tables WHERE schemaname = 'message_store' AND relname = 'messages'`).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		before := read()
		if err := f(tx); err != nil {
			t.Fatal(err)
		}
		if got := read() - before; got < 1 || got > most {
			t.Errorf("%s: %d messages are read, want 1 to %d", what, got, most)
		}
	}
	k.beat(k.m, move(k.r, at[n-1]))
	k.parks("-1", 0, at[0], false)
	k.replays("-1", 0, 1)
	k.exec(`UPDATE message_store_consumers.parked SET position = $2 WHERE consumer = $1`, n-1)
	for _, to := range []int64{0, n / 2, n - 2} {
		looked(fmt.Sprint("a seek to message ", to), func(tx pgx.Tx) error {
			_, err := ledger.Seek(t.Context(), tx, k.name, ledger.SeekParams{Position: ref(at[to]), Keep: true})
			if err != nil {
				return err
			}
			var position int64
			err = tx.QueryRow(t.Context(), `SELECT position FROM message_store_consumers.parked WHERE consumer = $1`, k.id).Scan(&position)
			equal(t, "position", position, to+1)
			return err
		})
	}
	k.exec(`UPDATE message_store_consumers.checkpoints SET position = $2 WHERE consumer = $1`, at[0])
	k.exec(`UPDATE message_store_consumers.parked SET position = 0, global_position = $2 WHERE consumer = $1`, at[0])
	looked("a skip of all", func(tx pgx.Tx) error {
		_, err := ledger.Skip(t.Context(), tx, k.name, k.one+"-1", nil, true)
		return err
	})
}
