package mdb_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestContention checks that batches which writers of one stream write concurrently, in
// both ways, all succeed and get positions without gaps or duplicates. Both ways take the
// same lock, so each writer sees what the one before it has written.
func TestContention(t *testing.T) {
	t.Parallel()
	const writers, batches, size = 32, 5, 10
	url := testdb.Shared(t)
	procedures := newStore(t, newPool(t, url))
	direct := newStore(t, newPool(t, url), mdb.WithDirectSQL())
	stream := mdbtest.Category("contended").Stream("1")

	var wg sync.WaitGroup
	failures := make([]error, writers)
	for i := range writers {
		wg.Go(func() {
			s := []*mdb.Store{procedures, direct}[i%2]
			for range batches {
				if _, err := s.WriteMessages(t.Context(), stream, proposals(size)); err != nil {
					failures[i] = err
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(failures...); err != nil {
		t.Fatal(err)
	}

	messages, err := procedures.GetStreamMessages(t.Context(), stream, mdb.Unlimited())
	if err != nil {
		t.Fatal(err)
	}
	if want := writers * batches * size; len(messages) != want {
		t.Fatalf("got %d messages, want %d", len(messages), want)
	}
	for i, m := range messages {
		var data struct{ N int }
		if err := m.Decode(&data); err != nil {
			t.Fatal(err)
		}
		if m.Position != int64(i) || data.N != i%size {
			t.Fatalf("got message %d as number %d of its batch at position %d", i, data.N, m.Position)
		}
		if i > 0 && m.GlobalPosition <= messages[i-1].GlobalPosition {
			t.Fatalf("got global position %d after %d", m.GlobalPosition, messages[i-1].GlobalPosition)
		}
	}
}

// TestLostRace checks that both ways report a batch that expects the wrong version alike,
// on a store and in a transaction, which the error aborts.
func TestLostRace(t *testing.T) {
	t.Parallel()
	pool := newPool(t, testdb.Shared(t))
	for name, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, pool, opts...)
			stream := mdbtest.Category("lost").Stream("1")
			write(t, s, stream, mdb.NewMessage("Happened", nil))
			lose := func(t *testing.T, c calls) {
				t.Helper()
				_, err := c.WriteMessages(t.Context(), stream, proposals(2), mdb.ExpectVersion(7))
				lost := wantError[*mdb.WrongVersionError](t, err)
				if lost.Stream != stream || lost.Expected != 7 || lost.Actual != 0 {
					t.Errorf("got %+v", lost)
				}
				pgErr := wantCode(t, err, "P0001")
				if want := fmt.Sprintf("Wrong expected version: 7 (Stream: %s, Stream Version: 0)", stream); pgErr.Message != want {
					t.Errorf("got message %q, want %q", pgErr.Message, want)
				}
			}
			lose(t, s)
			tx := begin(t, pool)
			lose(t, s.WithTx(tx))
			if status := tx.Conn().PgConn().TxStatus(); status != 'E' {
				t.Errorf("got transaction status %c, want E", status)
			}
			if got := positions(t, pool, stream); !slices.Equal(got, []int64{0}) {
				t.Errorf("got positions %v", got)
			}
		})
	}
}

// fill inserts many messages of common categories and few of a rare one.
func fill(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	exec(t, pool, `INSERT INTO message_store.messages (stream_name, position, type, data, metadata)
SELECT 'common' || i % 16 || '-' || i / 16 % 100, i / 1600, 'Happened', '{"n": 1}', '{"correlationStreamName": "origin-1"}'
FROM generate_series(0, 49999) AS i`)
	exec(t, pool, `INSERT INTO message_store.messages (stream_name, position, type) VALUES ('rare-1', 0, 'Happened')`)
}

// TestPlans checks that each read uses the index made for it, whatever statistics the
// planner has: for common and rare categories, at the beginning and near the end. It also
// checks that the statements are not planned for each call.
func TestPlans(t *testing.T) {
	t.Parallel()
	pool := newPool(t, testdb.New(t), oneConnection)
	fill(t, pool)
	texts := mdb.DirectStatements()
	arguments := map[string][]string{
		"stream_messages":         {"'common3-7', 0, 1000", "'common3-7', 1000000, 1000", "'rare-1', 0, 10"},
		"category_messages":       {"'common3', 0, 1000", "'common3', 50000, 1000", "'common3', 1000000, 10", "'rare', 0, 1000", "'none', 0, NULL"},
		"category_shared":         {"'common3', 0, 1000, 0, 64, '{1,2}'", "'common3', 1000000, 10, 999999, 64, '{1,2}'", "'rare', 0, 1000, 0, 64, '{1,2}'"},
		"correlated":              {"'common3', 0, 1000, 'origin'", "'rare', 49999, 1000, 'origin'"},
		"group_member":            {"'common3', 0, 1000, 3, 16", "'rare', 49999, 1000, 0, 16"},
		"correlated_group_member": {"'common3', 0, 1000, 'origin', 3, 16", "'rare', 49999, 1000, 'origin', 0, 16"},
		"last_message":            {"'common3-7'", "'rare-1'"},
		"last_message_of_type":    {"'common3-7', 'Happened'"},
		"stream_version":          {"'common3-7'", "'rare-1'"},
	}
	if !slices.Equal(slices.Sorted(maps.Keys(texts)), slices.Sorted(maps.Keys(arguments))) {
		t.Fatalf("got statements %v", slices.Sorted(maps.Keys(texts)))
	}
	eachPlan(t, pool, texts, arguments, func(name, call, plan string, analyzed bool) {
		index := "messages_category"
		if strings.Contains(texts[name], "WHERE stream_name") {
			index = "messages_stream"
		}
		if !strings.Contains(plan, index) || strings.Contains(plan, "messages_pkey") || strings.Contains(plan, "Seq Scan") {
			t.Errorf("%s, analyzed: %t: want the index %s:\n%s", call, analyzed, index, plan)
		}
		// Without statistics the planner estimates that two filters leave so few
		// rows that it would sort them.
		if analyzed && strings.Contains(plan, "Sort") {
			t.Errorf("%s: want an ordered scan:\n%s", call, plan)
		}
	})

	// The server plans the first five calls for their arguments, and goes on to do so if
	// that is cheaper than the generic plan.
	for name, lists := range arguments {
		for range 20 {
			exec(t, pool, fmt.Sprintf("EXECUTE %s(%s)", name, lists[len(lists)-1]))
		}
		const generic = `SELECT generic_plans FROM pg_prepared_statements WHERE name = $1`
		if n := value[int64](t, pool, generic, name); n < 10 {
			t.Errorf("%s: got %d calls by the generic plan, want nearly all", name, n)
		}
	}
}

// eachPlan prepares the statements, and calls check with the plan of each for each list of
// arguments: first without statistics, and then with them.
func eachPlan(t *testing.T, pool *pgxpool.Pool, texts map[string]string, arguments map[string][]string, check func(name, call, plan string, analyzed bool)) {
	t.Helper()
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			exec(t, pool, "VACUUM ANALYZE message_store.messages")
		}
		exec(t, pool, "DEALLOCATE ALL")
		for name, lists := range arguments {
			exec(t, pool, "PREPARE "+name+" AS "+texts[name])
			for _, list := range lists {
				call := fmt.Sprintf("%s(%s)", name, list)
				check(name, call, explain(t, pool, "EXPLAIN EXECUTE "+call), analyzed)
			}
		}
	}
}

func explain(t *testing.T, pool *pgxpool.Pool, sql string) string {
	t.Helper()
	rows, _ := pool.Query(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return strings.Join(lines, "\n")
}
