package ledger_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// A group is a consumer of a test, and what the test needs to look at its rows. All its
// connections have the privileges of the role message_store only.
type group struct {
	testing.TB
	*pgxpool.Pool
	name string
	id   int64 // after the first join
}

func newGroup(t testing.TB) *group {
	t.Helper()
	return groupOn(t, testdb.SharedConsumers(t), func(*pgxpool.Config) {})
}

func groupOn(t testing.TB, url string, configure func(*pgxpool.Config)) *group {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.ConnConfig.RuntimeParams["role"] = "message_store"
	cfg.ConnConfig.RuntimeParams["lock_timeout"] = "20s" // so that a wait for a lock of the test itself fails
	configure(cfg)
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return &group{TB: t, Pool: pool, name: "group " + uuid.NewString()}
}

// params are those of a new member. Its consumer has 4 partitions unless a test says otherwise.
func (g *group) params(categories ...string) ledger.JoinParams {
	start := int64(0)
	return ledger.JoinParams{Name: g.name, Member: uuid.New(), Info: "test", Lease: time.Minute, Categories: categories, Partitions: 4, Start: &start}
}

func (g *group) join(p ledger.JoinParams) ledger.Member {
	g.Helper()
	joined, err := ledger.Join(g.Context(), g, p)
	if err != nil {
		g.Fatal(err)
	}
	g.id = joined.Consumer
	return ledger.Member{Consumer: joined.Consumer, ID: p.Member, Instance: p.Instance}
}

func (g *group) balance(m ledger.Member) (ledger.Balance, ledger.Held) {
	g.Helper()
	b, held, err := ledger.Rebalance(g.Context(), g, m)
	if err != nil {
		g.Fatal(err)
	}
	if b.Changes == 0 || b.Timeline == "" {
		g.Errorf("a balance says the changes %d and the timeline %q", b.Changes, b.Timeline)
	}
	b.Changes, b.Timeline = 0, ""
	return b, held
}

func (g *group) beat(m ledger.Member, moves ...ledger.Move) ledger.Tick {
	g.Helper()
	tick, err := ledger.Beat(g.Context(), g, m, "", moves)
	if err != nil {
		g.Fatal(err)
	}
	return tick
}

func (g *group) read(m ledger.Member) ledger.Held {
	g.Helper()
	held, err := ledger.Read(g.Context(), g, m)
	if err != nil {
		g.Fatal(err)
	}
	return held
}

// write writes messages until there is one after the position, and returns that one's position, and an anchor of it.
func (g *group) write(after int64) (position int64, a ledger.Anchor) {
	g.Helper()
	stream := "ledger-" + uuid.NewString()
	for position <= after {
		if _, err := g.Exec(g.Context(), `SELECT message_store.write_message($1, $2, 'Happened', '{}')`, uuid.NewString(), stream); err != nil {
			g.Fatal(err)
		}
		row := g.QueryRow(g.Context(), `SELECT m.global_position, m.id, m.time AT TIME ZONE 'UTC' FROM message_store.messages AS m
			WHERE m.stream_name = $1 ORDER BY m.position DESC LIMIT 1`, stream)
		var id pgtype.UUID
		if err := row.Scan(&position, &id, &a.Time); err != nil {
			g.Fatal(err)
		}
		a.ID = id.Bytes
	}
	return position, a
}

// exec runs a statement, with the consumer as its first argument.
func (g *group) exec(sql string, args ...any) {
	g.Helper()
	if _, err := g.Exec(g.Context(), sql, append([]any{g.id}, args...)...); err != nil {
		g.Fatalf("%s: %v", sql, err)
	}
}

func query[T any](g *group, sql string, args ...any) T {
	g.Helper()
	rows, _ := g.Query(g.Context(), sql, append([]any{g.id}, args...)...)
	value, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		g.Fatalf("%s: %v", sql, err)
	}
	return value
}

// move returns the move of a row.
func move(r ledger.Row, to int64) ledger.Move {
	return ledger.Move{Partition: r.Partition, Epoch: r.Epoch, From: r.Position, To: to}
}

func moves(rows []ledger.Row, to int64) (ms []ledger.Move) {
	for _, r := range rows {
		ms = append(ms, move(r, to))
	}
	return ms
}

func numbers(rows []ledger.Row) (ns []int) {
	for _, r := range rows {
		ns = append(ns, r.Number)
	}
	return slices.Compact(ns)
}

func positions(rows []ledger.Row) (ps []int64) {
	for _, r := range rows {
		ps = append(ps, r.Position)
	}
	return ps
}

func equal[T any](t testing.TB, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %+v, want %+v", what, got, want)
	}
}

func wantCode(t testing.TB, what string, err error, code string) {
	t.Helper()
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != code {
		t.Errorf("%s: got %v, want the SQLSTATE %s", what, err, code)
	}
}

// locked runs f while a transaction has locked what the statement returns.
func (g *group) locked(f func(), sql string, args ...any) {
	g.Helper()
	tx, err := g.Begin(g.Context())
	if err != nil {
		g.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	tag, err := tx.Exec(g.Context(), sql, append([]any{g.id}, args...)...)
	if err != nil || tag.RowsAffected() == 0 {
		g.Fatalf("%s: %v, %v", sql, tag, err)
	}
	f()
}

const lockRow = `SELECT FROM message_store_consumers.checkpoints WHERE consumer = $1 AND category = $2 AND partition = $3 FOR SHARE`

// TestJoin checks what a member creates when it joins.
func TestJoin(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	first := g.params("one")
	first.Partitions = 0
	joined, err := ledger.Join(t.Context(), g, first)
	if err != nil || joined.Partitions != 64 || joined.Changes == 0 {
		t.Fatalf("got %+v, %v, want 64 partitions", joined, err)
	}
	g.id = joined.Consumer
	a := ledger.Member{Consumer: joined.Consumer, ID: first.Member}
	g.balance(a)
	before := g.read(a).Rows
	equal(t, "rows", len(before), 64)
	equal(t, "positions", positions(before), make([]int64, 64))

	wrong := g.params("one")
	wrong.Partitions = 32
	_, err = ledger.Join(t.Context(), g, wrong)
	wantCode(t, "another number of partitions", err, ledger.Partitions)
	if !strings.Contains(err.Error(), "has 64 partitions, not 32") {
		t.Errorf("the error %q does not contain the numbers", err)
	}
	joined, err = ledger.Join(t.Context(), g, first) // as if there was no answer
	equal(t, "members", query[int](g, `SELECT count(*) FROM message_store_consumers.members WHERE consumer = $1`), 1)
	if rows := g.read(a).Rows; err != nil || joined.Consumer != g.id || len(rows) != 64 || rows[0].Epoch <= before[0].Epoch {
		t.Errorf("got %+v, %v, %d rows, want the same member with new epochs", joined, err, len(rows))
	}
	before = g.read(a).Rows

	// Rows of a new category belong to who has the partition.
	second, start := g.params("two", "one", "two"), int64(7)
	second.Partitions, second.Start = 64, &start
	b := g.join(second)
	rows := g.read(a).Rows
	equal(t, "rows", len(rows), 128)
	for i, r := range rows {
		want := before[i/2]
		if i%2 == 1 {
			want.Category, want.Position = "two", 7
		}
		equal(t, "row", r, want)
	}
	equal(t, "rows of the new member", len(g.read(b).Rows), 0)
	equal(t, "categories", query[[]string](g, `SELECT categories FROM message_store_consumers.consumers WHERE id = $1`), []string{"one", "two"})
	if tick := g.beat(a); tick.Changes == joined.Changes {
		t.Errorf("got %+v, want a change for the member", tick)
	}
	equal(t, "partitions if the member does not say how many", func() int {
		p := g.params("one", "two")
		p.Partitions = 0
		joined, _ := ledger.Join(t.Context(), g, p)
		return joined.Partitions
	}(), 64)
}

// TestJoinAtTheEnd checks that without a start, the checkpoints of each category begin after its
// last message.
func TestJoinAtTheEnd(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	category := "end" + strings.ReplaceAll(uuid.NewString(), "-", "")
	write := func(category string) int64 {
		g.Helper()
		conn := testdb.Session(t, testdb.SharedConsumers(t))
		var at int64
		if _, err := conn.Exec(t.Context(), `SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Happened', '{}')`, category+"-1"); err != nil {
			t.Fatal(err)
		}
		if err := conn.QueryRow(t.Context(), `SELECT max(global_position) FROM message_store.messages WHERE message_store.category(stream_name) = $1`, category).Scan(&at); err != nil {
			t.Fatal(err)
		}
		return at
	}
	end := write(category)
	write(category + "other")
	p := g.params(category, category+"empty")
	p.Start = nil
	m := g.join(p)
	_, held := g.balance(m)
	equal(t, "positions", positions(held.Rows), []int64{end, 0, end, 0, end, 0, end, 0})

	write(category)
	p = g.params(category)
	p.Start = nil
	g.join(p)
	equal(t, "positions after another member has joined", positions(g.read(m).Rows), []int64{end, 0, end, 0, end, 0, end, 0})
}

// TestJoinReadsFewMessages checks that the end of a category is found by its index, also if it has no messages: other
// members wait meanwhile.
func TestJoinReadsFewMessages(t *testing.T) {
	t.Parallel()
	url := testdb.Consumers(t)
	owner := testdb.Session(t, url)
	for _, sql := range []string{
		`INSERT INTO message_store.messages (position, stream_name, type, id) SELECT n, 'some' || n % 5 || '-' || n, 'Happened', gen_random_uuid() FROM generate_series(1, 5000) AS n`,
		`ANALYZE message_store.messages`,
	} {
		if _, err := owner.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	g := groupOn(t, url, func(*pgxpool.Config) {})
	tx, err := g.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	p := g.params("some1", "some2", "none")
	p.Start = nil
	if _, err := ledger.Join(t.Context(), tx, p); err != nil {
		t.Fatal(err)
	}
	var read int
	err = tx.QueryRow(t.Context(), `SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_all_tables
		WHERE relid = 'message_store.messages'::regclass`).Scan(&read)
	if err != nil || read == 0 || read > 10 {
		t.Errorf("the ends of three categories took %d rows, %v", read, err)
	}
}

// TestJoinOfInstance checks that a member replaces the one of its instance and inherits its
// partitions with new epochs, except for those that a transaction holds.
func TestJoinOfInstance(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	p := g.params("one", "two")
	p.Instance = "pod-0"
	first := g.join(p)
	other := g.params("one", "two")
	other.Instance = "pod-1"
	g.join(other)
	_, before := g.balance(first)
	equal(t, "partitions", numbers(before.Rows), []int{0, 1})

	var second ledger.Member
	p.Member = uuid.New()
	g.locked(func() { second = g.join(p) }, lockRow, "two", 1)
	rows := g.read(second).Rows
	equal(t, "partitions", numbers(rows), []int{0})
	equal(t, "rows", len(rows), 2)
	for _, r := range rows {
		if r.Epoch <= before.Rows[0].Epoch {
			t.Errorf("the epoch of partition %d is %d, want more than %d", r.Number, r.Epoch, before.Rows[0].Epoch)
		}
	}
	if tick := g.beat(first, moves(before.Rows, 5)...); tick.Alive || !tick.Replaced {
		t.Errorf("got %+v, want that the member was replaced", tick)
	}
	equal(t, "positions", positions(g.read(second).Rows), []int64{0, 0})
	b, after := g.balance(second) // the rest is free
	equal(t, "balance", b, ledger.Balance{Members: 2, Quota: 2, Held: 1, Claimed: 1})
	equal(t, "partitions", numbers(after.Rows), []int{0, 1})
}

// TestJoinConcurrently checks that members that create a consumer at the same time find the
// same one.
func TestJoinConcurrently(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	const n = 6
	type result struct {
		ledger.Joined
		error
	}
	results := make(chan result, n)
	for range n {
		p := g.params("one", "two")
		go func() {
			joined, err := ledger.Join(t.Context(), g, p)
			results <- result{joined, err}
		}()
	}
	for range n {
		r := <-results
		if g.id == 0 {
			g.id = r.Consumer
		}
		if r.error != nil || r.Consumer != g.id {
			t.Errorf("got %+v, want the consumer %d", r, g.id)
		}
	}
	equal(t, "checkpoints", query[int](g, `SELECT count(*) FROM message_store_consumers.checkpoints WHERE consumer = $1`), 8)
}
