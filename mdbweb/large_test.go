package mdbweb_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdbweb"
)

// fillLarge writes messages of seven large categories and many small ones. Their streams have ten messages each.
const fillLarge = `INSERT INTO message_store.messages (stream_name, position, type, data, metadata, time)
SELECT c.name || '-' || (n / 70), row_number() OVER (PARTITION BY c.name, n / 70 ORDER BY n) - 1,
	(ARRAY['Opened', 'Changed', 'Sent', 'Closed', 'Paid', 'Moved'])[1 + n % 6], jsonb_build_object('n', n, 'text', md5(n::text)),
	jsonb_build_object('correlationStreamName', 'order-' || (n / 70), 'causationMessageStreamName', 'order-' || (n / 70), 'causationMessagePosition', 0),
	(now() AT TIME ZONE 'utc') - ($1::integer - n) * interval '1 s'
FROM (SELECT n, (ARRAY['order', 'payment', 'shipment', 'mail', 'inventory', 'ledger', 'audit'])[1 + (n % 7)] || CASE WHEN n % 997 = 0 THEN ':rare' || (n / 997 % 60) ELSE '' END
	FROM generate_series(0, $1::integer - 1) AS n) AS c(n, name) ORDER BY n`

// A recorder is a tracer that keeps the statements of pages, and counts their rows.
type recorder struct {
	mu         sync.Mutex
	statements []pgx.TraceQueryStartData
	rows       int64
}

func (r *recorder) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.statements = append(r.statements, data)
	return ctx
}

func (r *recorder) TraceQueryEnd(_ context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows += data.CommandTag.RowsAffected()
}

func (r *recorder) take() []pgx.TraceQueryStartData {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.statements
	r.statements, r.rows = nil, 0
	return taken
}

// recorded returns a store whose statements, and those of its pages, are recorded.
func recorded(t *testing.T, url string) (*mdb.Store, *recorder) {
	t.Helper()
	record := new(recorder)
	return configured(t, url, func(cfg *pgxpool.Config) { cfg.ConnConfig.Tracer = record }), record
}

// A plan is what EXPLAIN says of a step.
type plan struct {
	Node     string  `json:"Node Type"`
	Relation string  `json:"Relation Name"`
	Index    string  `json:"Index Name"`
	Rows     float64 `json:"Actual Rows"`
	Loops    float64 `json:"Actual Loops"`
	Removed  float64 `json:"Rows Removed by Filter"`
	Plans    []plan
}

// messages returns how many rows of the table messages a plan has looked at, and whether it has scanned the whole table.
func (p *plan) messages() (rows float64, scanned bool) {
	if p.Relation == "messages" {
		rows = (p.Rows + p.Removed) * p.Loops
		scanned = p.Node == "Seq Scan"
	}
	for i := range p.Plans {
		n, s := p.Plans[i].messages()
		rows, scanned = rows+n, scanned || s
	}
	return rows, scanned
}

// TestBounded checks that no page of a large store scans the table, or looks at more rows than it may, however large the store is.
func TestBounded(t *testing.T) {
	t.Parallel()
	size := 150_000
	if os.Getenv("MDB_TEST_LARGE") != "" {
		size = 1_000_000
	}
	url := testdb.Consumers(t)
	conn := testdb.Session(t, url)
	testdb.Exec(t, conn, fillLarge, size)
	testdb.Exec(t, conn, "ANALYZE message_store.messages")
	store, record := recorded(t, url)
	s := newSiteOf(t, store, mdbweb.StatementTimeout(testTimeout))
	middle := testdb.Value[int64](t, conn, "SELECT global_position FROM message_store.messages WHERE stream_name LIKE 'order-%' ORDER BY global_position OFFSET 5000 LIMIT 1")
	id := testdb.Value[string](t, conn, "SELECT id::text FROM message_store.messages WHERE global_position = $1", middle)
	for path, most := range map[string]float64{
		"/":             30_000, // small categories are counted one by one
		"/?q=led":       30_000,
		"/?after=order": 30_000,
		"/streams":      3000, "/streams?q=order-1": 6500, "/streams?q=zzz": 10, "/streams?order=name": 200, "/streams?order=name&after=mail-77": 200,
		"/messages": 110, "/messages?order=first": 110, fmt.Sprintf("/messages?before=%d", middle): 110, fmt.Sprintf("/messages?after=%d", middle): 110,
		"/messages?category=ledger": 110, "/messages?category=ledger&order=first": 110, fmt.Sprintf("/messages?category=ledger&before=%d", middle): 110,
		fmt.Sprintf("/messages?category=ledger&after=%d", middle): 110, "/messages?category=absent": 10,
		"/messages?type=Opened": 10_200, "/messages?type=absent": 10_200, "/messages?category=audit&type=absent": 10_200,
		"/messages?stream=order-3": 110, "/messages?stream=order-3&type=Sent": 110, "/messages?stream=absent-3": 10,
		"/message/" + id: 31_000, "/message/" + id + "?look=99999999": 500_000,
		"/types": 30_000, "/types?category=order": 30_000,
		"/throughput?window=1h": 25_000, "/throughput?window=24h": 25_000, "/throughput?window=7d": 25_000, "/throughput?window=30d": 25_000,
		"/live": 10, "/live?category=ledger": 10, "/health": 10, "/find?q=42": 10, "/find?q=" + id: 10,
	} {
		record.take()
		if r := s.get(path); r.StatusCode >= 400 {
			t.Errorf("%s: status %d\n%s", path, r.StatusCode, textOf(r.Body))
			continue
		}
		var looked float64
		for _, statement := range record.take() {
			if strings.HasPrefix(statement.SQL, "BEGIN") { // with the settings of the page
				testdb.Exec(t, conn, "ROLLBACK")
				testdb.Exec(t, conn, statement.SQL)
				testdb.Exec(t, conn, "SET LOCAL statement_timeout = 0")
			}
			if !strings.Contains(statement.SQL, "message_store.messages") || !strings.Contains(statement.SQL, "SELECT") {
				continue
			}
			p := explained(t, conn, statement)
			rows, scanned := p.messages()
			looked += rows
			if scanned {
				t.Errorf("%s scans the whole table: %s", path, statement.SQL)
			}
		}
		t.Logf("%s: %.0f rows", path, looked)
		if looked > most {
			t.Errorf("%s looks at %.0f messages, want at most %.0f", path, looked, most)
		}
	}
}

func explained(t *testing.T, conn *pgx.Conn, statement pgx.TraceQueryStartData) *plan {
	t.Helper()
	raw := testdb.Value[[]byte](t, conn, "EXPLAIN (ANALYZE, FORMAT JSON) "+statement.SQL, statement.Args...)
	var plans []struct{ Plan plan }
	if err := json.Unmarshal(raw, &plans); err != nil || len(plans) != 1 {
		t.Fatalf("%d plans, %v", len(plans), err)
	}
	return &plans[0].Plan
}
