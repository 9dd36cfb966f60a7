package mdb_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// testTimeout bounds waits that end sooner unless the test fails.
const testTimeout = time.Minute

// barePool opens a pool that Configure has not set up.
func barePool(t testing.TB, url string, prepare ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	// A ping would be counted as a round trip, and would find the connections that a test
	// has broken.
	cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	for _, p := range prepare {
		p(cfg)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// configure prepares a pool as Message DB's functions in the tests' databases need it.
func configure(cfg *pgxpool.Config) {
	if testdb.Official() {
		mdb.Configure(cfg, mdb.StoreFirst())
	} else {
		mdb.Configure(cfg)
	}
}

func newPool(t testing.TB, url string, prepare ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	return barePool(t, url, append([]func(*pgxpool.Config){configure}, prepare...)...)
}

func newStore(t testing.TB, pool *pgxpool.Pool, opts ...mdb.StoreOption) *mdb.Store {
	t.Helper()
	if groupAll {
		opts = append(slices.Clone(opts), mdb.WithGroupCommit())
	}
	s, err := mdb.New(pool, opts...)
	if err != nil {
		t.Fatal(err)
	}
	if groupAll {
		mdb.GroupAll(s)
	}
	return s
}

// groupAll makes the tests send all writes of their stores in groups.
var groupAll = os.Getenv("MDB_TEST_GROUPS") != ""

func oneConnection(cfg *pgxpool.Config) { cfg.MaxConns = 1 }

// parameter sets a start-up parameter, which lasts as long as the connection.
func parameter(name, value string) func(*pgxpool.Config) {
	return func(cfg *pgxpool.Config) { cfg.ConnConfig.RuntimeParams[name] = value }
}

// asRole makes the connections use the rights of a role, which needs no password for that.
// With "" they use those of the role that connects.
func asRole(name string) func(*pgxpool.Config) {
	if name == "" {
		return func(*pgxpool.Config) {}
	}
	return parameter("role", name)
}

// pretendStandby makes the connections of pools with pretendedStandby see a standby in the
// pool's database, or a primary.
func pretendStandby(t testing.TB, pool *pgxpool.Pool, standby bool) {
	t.Helper()
	exec(t, pool, fmt.Sprintf(`CREATE OR REPLACE FUNCTION message_store.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT %t'`, standby))
}

func pretendedStandby(cfg *pgxpool.Config) {
	cfg.ConnConfig.RuntimeParams["search_path"] = "message_store, pg_catalog, public"
}

func execMode(mode pgx.QueryExecMode) func(*pgxpool.Config) {
	return func(cfg *pgxpool.Config) { cfg.ConnConfig.DefaultQueryExecMode = mode }
}

var execModes = []pgx.QueryExecMode{
	pgx.QueryExecModeCacheStatement,
	pgx.QueryExecModeCacheDescribe,
	pgx.QueryExecModeDescribeExec,
	pgx.QueryExecModeExec,
	pgx.QueryExecModeSimpleProtocol,
}

// calls are the methods that a Store and a Tx have in common.
type calls interface {
	WriteMessage(ctx context.Context, stream mdb.StreamName, m mdb.ProposedMessage, opts ...mdb.WriteOption) (mdb.Written, error)
	WriteMessages(ctx context.Context, stream mdb.StreamName, ms []mdb.ProposedMessage, opts ...mdb.WriteOption) ([]mdb.Written, error)
	GetStreamMessages(ctx context.Context, stream mdb.StreamName, opts ...mdb.StreamOption) ([]mdb.Message, error)
	GetCategoryMessages(ctx context.Context, category mdb.Category, opts ...mdb.CategoryOption) ([]mdb.Message, error)
	GetLastStreamMessage(ctx context.Context, stream mdb.StreamName, opts ...mdb.LastMessageOption) (mdb.Message, error)
	GetLastCategoryMessage(ctx context.Context, category mdb.Category, opts ...mdb.LastMessageOption) (mdb.Message, error)
	GetMessage(ctx context.Context, id uuid.UUID) (mdb.Message, error)
	StreamVersion(ctx context.Context, stream mdb.StreamName) (int64, error)
	CategoryHead(ctx context.Context, category mdb.Category) (int64, error)
	MessageStoreVersion(ctx context.Context) (string, error)
	StreamMessages(ctx context.Context, stream mdb.StreamName, opts ...mdb.StreamOption) iter.Seq2[mdb.Message, error]
	CategoryMessages(ctx context.Context, category mdb.Category, opts ...mdb.CategoryOption) iter.Seq2[mdb.Message, error]
}

// database is what a pool, a connection and a transaction have in common.
type database interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// onBoth runs a test on a Store and in a transaction, with the procedures and with direct
// SQL.
func onBoth(t *testing.T, s *mdb.Store, test func(t *testing.T, c calls, db database)) {
	t.Helper()
	for way, s := range map[string]*mdb.Store{"": s, "direct ": newStore(t, s.Pool(), mdb.WithDirectSQL())} {
		t.Run(way+"Store", func(t *testing.T) { test(t, s, s.Pool()) })
		t.Run(way+"Tx", func(t *testing.T) {
			tx := begin(t, s.Pool())
			test(t, s.WithTx(tx), tx)
		})
	}
}

// begin begins a transaction that is rolled back at the end of the test.
func begin(t testing.TB, pool *pgxpool.Pool, options ...pgx.TxOptions) pgx.Tx {
	t.Helper()
	tx, err := pool.BeginTx(t.Context(), append(options, pgx.TxOptions{})[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

func exec(t testing.TB, db database, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// value returns the only column of the only row.
func value[T any](t testing.TB, db database, sql string, args ...any) T {
	t.Helper()
	rows, _ := db.Query(t.Context(), sql, args...)
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// pause is between two looks at what neither the server nor the store signals. Without it, a test
// that waits takes the processors from those that work.
const pause = "SELECT pg_sleep(0.002)"

// until repeats a query until it is true, because the server does not notify when one of
// its sessions begins to wait.
func until(t testing.TB, db database, sql string, args ...any) {
	t.Helper()
	for end := time.Now().Add(testTimeout); !value[bool](t, db, sql, args...); exec(t, db, pause) {
		if time.Now().After(end) {
			t.Fatalf("not true in time: %s", sql)
		}
	}
}

func write(t testing.TB, c calls, stream mdb.StreamName, m mdb.ProposedMessage, opts ...mdb.WriteOption) mdb.Written {
	t.Helper()
	w, err := c.WriteMessage(t.Context(), stream, m, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// proposals returns n messages whose data are their numbers.
func proposals(n int) []mdb.ProposedMessage {
	ms := make([]mdb.ProposedMessage, n)
	for i := range ms {
		ms[i] = mdb.NewMessage("Happened", map[string]int{"n": i})
	}
	return ms
}

// positions returns the positions of a stream's messages in the table.
func positions(t testing.TB, db database, stream mdb.StreamName) []int64 {
	t.Helper()
	rows, _ := db.Query(t.Context(), `SELECT position FROM message_store.messages WHERE stream_name = $1 ORDER BY global_position`, string(stream))
	p, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// wantError returns err as an E, and fails the test if it is none.
func wantError[E error](t testing.TB, err error) E {
	t.Helper()
	var e E
	if !errors.As(err, &e) {
		t.Fatalf("got error %v (%T), want a %T", err, err, e)
	}
	return e
}

// wantCode returns the server's error in err, and fails the test if it has another code.
func wantCode(t testing.TB, err error, code string) *pgconn.PgError {
	t.Helper()
	pgErr := wantError[*pgconn.PgError](t, err)
	if pgErr.Code != code {
		t.Fatalf("got error %v, want SQLSTATE %s", err, code)
	}
	return pgErr
}

// A journal records what a store logs.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
	// onRecord, if set, is called before a record is written, which is before the store
	// retries.
	onRecord func()
}

func (j *journal) Write(p []byte) (int, error) {
	if j.onRecord != nil {
		j.onRecord()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// retries returns how many retries were logged.
func (j *journal) retries() int { return strings.Count(j.String(), "retrying ") }

func (j *journal) option() mdb.StoreOption {
	return mdb.WithLogger(slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug})))
}

// attempts makes a store attempt a write up to n times, with short delays, while others are in
// its way. With 1 nothing is retried.
func attempts(n int) mdb.StoreOption {
	policy := mdb.RetryPolicy{Attempts: n, MinDelay: time.Microsecond, MaxDelay: time.Millisecond}
	if n == 1 {
		policy.For = -1
	}
	return mdb.WithRetry(policy)
}

// forAWhile makes a store retry for a short time what the server cannot be reached for. Within
// that it makes more attempts than the number that it has for other failures.
func forAWhile() mdb.StoreOption {
	return mdb.WithRetry(mdb.RetryPolicy{For: 2 * time.Second, Attempts: 2, MinDelay: time.Microsecond, MaxDelay: time.Millisecond})
}
