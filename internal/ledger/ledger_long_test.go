package ledger_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

// TestMoveBesideLongTransaction checks that a move does not read all versions of a checkpoint that a long transaction keeps.
func TestMoveBesideLongTransaction(t *testing.T) {
	t.Parallel()
	g := groupOn(t, ownServer(t), func(*pgxpool.Config) {})
	p := g.params("one")
	p.Partitions = 64
	a := g.join(p)
	_, held := g.balance(a)
	long, err := g.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer long.Rollback(t.Context())
	if _, err := long.Exec(t.Context(), "SELECT FROM message_store_consumers.checkpoints"); err != nil {
		t.Fatal(err)
	}
	// The last versions are found by their addresses, because this would take long otherwise.
	if _, err := g.Exec(t.Context(), `DO $$
		DECLARE
			places tid[];
			place tid;
		BEGIN
			SELECT array_agg(c.ctid) INTO places FROM message_store_consumers.checkpoints AS c;
			FOR i IN 1..20000 LOOP
				UPDATE message_store_consumers.checkpoints AS c SET moved = clock_timestamp()
				WHERE c.ctid = places[1 + i % 64] RETURNING c.ctid INTO STRICT place;
				places[1 + i % 64] := place;
				COMMIT;
			END LOOP;
		END$$`); err != nil {
		t.Fatal(err)
	}
	position, anchor := g.write(0)
	mv := move(held.Rows[30], position)
	mv.Anchor = anchor
	tx, err := g.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	send := func(mv ledger.Move) (blocks int64) {
		t.Helper()
		const read = "SELECT pg_stat_get_xact_blocks_fetched('message_store_consumers.checkpoints'::regclass)"
		var before int64
		if err := tx.QueryRow(t.Context(), read).Scan(&before); err != nil {
			t.Fatal(err)
		}
		var b pgx.Batch
		ledger.QueueMove(&b, a, mv)
		if err := tx.SendBatch(t.Context(), &b).Close(); err != nil {
			t.Fatal(err)
		}
		if err := tx.QueryRow(t.Context(), read).Scan(&blocks); err != nil {
			t.Fatal(err)
		}
		return blocks - before
	}
	for range 10 { // PostgreSQL makes another plan each of the first times
		if n := send(mv); n > 40 {
			t.Errorf("a move reads %d blocks of the checkpoints, want a few", n)
		}
		mv.From, mv.Anchor = mv.To, ledger.Anchor{}
	}
}

// TestMoveAfterHarmlessUpdate checks that a move succeeds that has waited for a transaction which leaves the checkpoint as the fence wants
// it, although the row has another address then.
func TestMoveAfterHarmlessUpdate(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a := g.join(g.params("one"))
	_, held := g.balance(a)
	position, anchor := g.write(0)
	mv := move(held.Rows[0], position)
	mv.Anchor = anchor
	other, err := g.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Rollback(t.Context())
	var pid int
	if err := other.QueryRow(t.Context(), `UPDATE message_store_consumers.checkpoints SET moved = clock_timestamp() WHERE consumer = $1 AND partition = $2
		RETURNING pg_backend_pid()`, g.id, mv.Number).Scan(&pid); err != nil {
		t.Fatal(err)
	}
	moved := make(chan error, 1)
	go func() {
		moved <- g.send(func(b *pgx.Batch) { ledger.QueueMove(b, a, mv) })
	}()
	for waits := false; !waits; {
		if err := g.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks AS l WHERE NOT l.granted AND $1 = ANY (pg_blocking_pids(l.pid)))`, pid).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-moved; err != nil {
		t.Error(err)
	}
	equal(t, "position", g.read(a).Rows[0].Position, position)
}
