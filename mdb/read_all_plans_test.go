package mdb_test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestAllPlans checks that each read of all categories touches a number of buffers that does not
// depend on the size of the store: for two rare categories among a thousand, it is that of two ranges
// of an index, and with a filter by types, that of the messages which it looks at.
func TestAllPlans(t *testing.T) {
	t.Parallel()
	rows := 1_000_000
	if testing.Short() {
		rows = 150_000
	}
	pool := newPool(t, testdb.New(t), oneConnection)
	exec(t, pool, `INSERT INTO message_store.messages (stream_name, position, type, data)
SELECT 'common' || i % 1000 || '-' || i / 1000, 0, CASE WHEN i % 1000 = 7 THEN 'Rare' ELSE 'Common' END, '{"n": 1}'
FROM generate_series(1, $1) AS i`, rows)
	exec(t, pool, `INSERT INTO message_store.messages (stream_name, position, type) SELECT 'rare' || i % 2 || '-1', i, 'Happened' FROM generate_series(1, 20) AS i`)
	exec(t, pool, "VACUUM ANALYZE message_store.messages")
	for name, sql := range mdb.AllStatements() {
		exec(t, pool, "PREPARE "+name+" AS "+sql)
	}
	last := rows + 20
	const few, tenThousand = 150, 12_000 // the index and the table, of 10,000 messages that are looked at
	for _, test := range []struct {
		name, arguments string
		most            int
	}{
		{"all_messages", "1, 100", few},
		{"all_messages", fmt.Sprintf("%d, 100", rows/2), few},
		{"all_in_categories", fmt.Sprintf("1, %d, 100, 100, NULL, '{rare0,rare1}'", last), few},
		{"all_in_categories", fmt.Sprintf("%d, %d, 100, 100, NULL, '{rare0,rare1,none}'", rows/2, last), few},
		{"all_of_types", fmt.Sprintf("1, %d, 100, 10000, '{None}'", last), tenThousand},
		{"all_of_types", fmt.Sprintf("%d, %d, 5, 10000, '{Rare}'", rows/2, last), tenThousand},
		{"all_of_types_in_categories", fmt.Sprintf("1, %d, 100, 5000, '{Happened}', '{rare0,rare1}'", last), few},
		{"all_of_types_in_categories", fmt.Sprintf("1, %d, 100, 5000, '{None}', '{common1,rare1}'", last), tenThousand},
		{"all_messages_backwards", fmt.Sprintf("%d, 100", last), few},
		{"all_in_categories_backwards", fmt.Sprintf("%d, 0, 100, 100, NULL, '{rare0,rare1}'", last), few},
		{"all_of_types_backwards", fmt.Sprintf("%d, 0, 100, 10000, '{None}'", rows/2), tenThousand},
		{"all_of_types_in_categories_backwards", fmt.Sprintf("%d, 0, 1, 10000, '{None}', '{rare1}'", last), few},
		{"stream_backwards", fmt.Sprintf("'rare1-1', %d, 100", last), few},
		{"category_backwards", fmt.Sprintf("'rare1', %d, 100, NULL, NULL, NULL", last), few},
		{"category_backwards", fmt.Sprintf("'common7', %d, 20, NULL, NULL, NULL", rows/2), few},
		{"since_in_all", "now() AT TIME ZONE 'utc'", 200},
		{"since_in_category", "now() AT TIME ZONE 'utc', 'common7'", 300},
		{"since_in_stream", "now() AT TIME ZONE 'utc', 'rare1-1'", 200},
		{"contiguous_in_all", fmt.Sprintf("%d, 10000", rows/2), 1000},
		{"before_in_all", strconv.Itoa(rows / 2), few},
		{"latest_in_all", "'{1,100,10000}'", few},
		{"barrier_drawn", "", few},
	} {
		name := strings.TrimSuffix(test.name+"("+test.arguments+")", "()")
		for range 3 { // the first executions also read the system's tables
			exec(t, pool, "EXECUTE "+name)
		}
		plan := explain(t, pool, "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) EXECUTE "+name)
		if got := buffers(t, plan); got > test.most || strings.Contains(plan, "Seq Scan on messages ") {
			t.Errorf("%s touches %d buffers, want at most %d:\n%s", name, got, test.most, plan)
		}
	}
}

// buffers returns the number of buffers of a plan, which is that of its first line.
func buffers(t *testing.T, plan string) (sum int) {
	t.Helper()
	_, rest, ok := strings.Cut(plan, "Buffers: ")
	line, _, _ := strings.Cut(rest, "\n")
	if !ok {
		t.Fatalf("no buffers in %s", plan)
	}
	for _, n := range regexp.MustCompile(`(?:hit|read)=(\d+)`).FindAllStringSubmatch(line, -1) {
		count, err := strconv.Atoi(n[1])
		if err != nil {
			t.Fatal(err)
		}
		sum += count
	}
	return sum
}
