package ledger_test

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestModes checks that all calls work in each mode in which pgx sends statements.
func TestModes(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			g := groupOn(t, testdb.SharedConsumers(t), func(cfg *pgxpool.Config) { cfg.ConnConfig.DefaultQueryExecMode = mode })
			p := g.params("one", `t'w"o`)
			p.Start, p.Instance = nil, "pod"
			a := g.join(p)
			_, held := g.balance(a)
			position, anchor := g.write(5)
			mv := move(held.Rows[0], position)
			mv.Anchor = anchor
			equal(t, "moved", g.beat(a, mv, move(held.Rows[1], 6)).Moved, []int{0, 1})
			equal(t, "no moves", g.beat(a).Alive, true)
			rows := g.read(a).Rows
			equal(t, "anchor", rows[0].ID, mv.ID)
			due, upto := mv.Time, int64(1)
			if err := g.park(a, rows[0], ledger.Parked{Key: "1", Stream: "one-1", Upto: &upto, Due: &due}, "it's"); err != nil {
				t.Fatal(err)
			}
			err := g.send(func(b *pgx.Batch) {
				ledger.QueueMove(b, a, move(rows[0], position+1))
				ledger.QueueReplayed(b, a, rows[0].Partition, rows[0].Epoch, "one-1", 0, 1)
				next := move(rows[0], position+2)
				next.From = position + 1
				ledger.QueueUnpark(b, a, next, "1")
			})
			if err != nil {
				t.Fatal(err)
			}
			held = g.read(a)
			equal(t, "parked", len(held.Parked), 1)
			released, err := ledger.Release(t.Context(), g, a, moves(held.Rows[:2], position+3))
			equal(t, fmt.Sprint("released ", err), released, []int{0, 1})
			if err := ledger.Leave(t.Context(), g, a, moves(held.Rows[2:], 8)); err != nil {
				t.Fatal(err)
			}
			equal(t, "positions", query[int64](g, `SELECT min(position) FROM message_store_consumers.checkpoints WHERE consumer = $1`), 8)
		})
	}
}

// TestNotifications checks which changes notify the members, and with which payload.
func TestNotifications(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	listener, err := g.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Release()
	if _, err := listener.Exec(t.Context(), "LISTEN "+ledger.Channel); err != nil {
		t.Fatal(err)
	}
	heard := func(what string, want int) {
		t.Helper()
		end := uuid.NewString() // comes after all that were sent before
		if _, err := g.Exec(t.Context(), "SELECT pg_notify($1, $2)", ledger.Channel, end); err != nil {
			t.Fatal(err)
		}
		got := 0
		for {
			n, err := listener.Conn().WaitForNotification(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if n.Payload == end {
				break
			}
			if n.Payload == g.name {
				got++
			}
		}
		equal(t, "notifications of "+what, got, want)
	}
	a := g.join(g.params("one"))
	heard("a join", 1)
	_, held := g.balance(a)
	heard("a claim of all that is free", 0)
	g.balance(a)
	g.beat(a, moves(held.Rows, 4)...)
	held = g.read(a)
	heard("a balance, a tick and a read without a change", 0)
	if _, err := ledger.Release(t.Context(), g, a, moves(held.Rows, 5)); err != nil {
		t.Fatal(err)
	}
	heard("a release", 1)
	g.join(g.params("one"))
	g.balance(a)
	heard("a join, and a claim after which something is free", 2)
	g.expire(a)
	b := g.join(g.params("one"))
	heard("another join", 1)
	g.locked(func() { g.balance(b) }, `SELECT FROM message_store_consumers.checkpoints WHERE consumer = $1 FOR SHARE`)
	heard("an eviction", 1)
	g.locked(func() { g.balance(b) }, `SELECT FROM message_store_consumers.checkpoints WHERE consumer = $1 FOR SHARE`)
	heard("a balance that has to be repeated", 0)
	for range 2 {
		if err := ledger.Leave(t.Context(), g, b, nil); err != nil {
			t.Fatal(err)
		}
	}
	heard("leaving twice", 1)
}

// ownServer returns the URL of a database with the schema of consumers on a server for this test alone.
func ownServer(t *testing.T, opts ...pgtest.Option) string {
	t.Helper()
	url := pgtest.Own(t, opts...).URL("postgres")
	conn := testdb.Session(t, url)
	if err := errors.Join(testdb.InstallOurs(t.Context(), conn), schema.InstallConsumers(t.Context(), conn)); err != nil {
		t.Fatal(err)
	}
	return url
}

// TestFullNotificationQueue checks that no function notifies while the server's queue is half full,
// because a commit that finds the queue full fails.
func TestFullNotificationQueue(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	if _, major, err := pgtest.Find(t.Context()); err != nil || major < 17 {
		t.Skipf("needs PostgreSQL 17, whose queue can be made small, got %d, %v", major, err)
	}
	url := ownServer(t, pgtest.Setting("max_notify_queue_pages", "64"))
	conn := testdb.Session(t, url)
	g := groupOn(t, url, func(*pgxpool.Config) {})
	// A session in a transaction does not read its notifications, so all later ones stay in the queue.
	idle := testdb.Session(t, url)
	for _, sql := range []string{"LISTEN other", "BEGIN"} {
		if _, err := idle.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	usage := func() (used float64) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), "SELECT pg_notification_queue_usage()").Scan(&used); err != nil {
			t.Fatal(err)
		}
		return used
	}
	for usage() < 0.5 {
		if _, err := conn.Exec(t.Context(), "NOTIFY other, '"+strings.Repeat("x", 7900)+"'"); err != nil {
			t.Fatal(err)
		}
	}
	before := usage()
	g.name = strings.Repeat("x", ledger.MaxName)
	p := g.params("one")
	a := g.join(p)
	g.balance(a)
	// The queue has pages of 8 KB, and a page of it has room for less than 40 such names.
	for range 100 {
		g.exec(`SELECT message_store_consumers.ring($1)`)
	}
	equal(t, "usage of the queue", usage(), before)
}

// TestUpdatesAreHOT checks that heartbeats and moves write no index entries, so that tables of
// consumers do not grow.
func TestUpdatesAreHOT(t *testing.T) {
	t.Parallel()
	// Transactions in other databases of the server may keep old versions, which then fill the pages, and so may those of autovacuum.
	g := groupOn(t, ownServer(t, pgtest.Setting("autovacuum", "off")), func(*pgxpool.Config) {})
	p := g.params("one", "two")
	p.Partitions = 64
	a := g.join(p)
	_, held := g.balance(a)
	const beats = 40
	at, anchor := g.write(0)
	for range beats {
		ms := moves(held.Rows, at+1)
		at++
		for i := range ms {
			ms[i].Anchor = anchor
			held.Rows[i].Position = at
		}
		equal(t, "moved", len(g.beat(a, ms...).Moved), len(ms))
		if err := g.send(func(b *pgx.Batch) {
			for i := range 4 {
				ledger.QueueMove(b, a, move(held.Rows[i], at))
			}
			b.Queue(`SELECT message_store_consumers.ring($1)`, g.id)
		}); err != nil {
			t.Fatal(err)
		}
	}
	// Claiming also updates all checkpoints, and the first claim and the join the consumer.
	for table, updates := range map[string]int64{"members": beats, "checkpoints": 128 + beats*(128+4), "consumers": beats + 3} {
		var all, hot int64
		for all < updates { // the statistics come late
			err := g.QueryRow(t.Context(), `SELECT pg_stat_get_tuples_updated(c.oid), pg_stat_get_tuples_hot_updated(c.oid)
				FROM pg_class AS c, pg_stat_clear_snapshot() WHERE c.oid = ('message_store_consumers.' || $1)::regclass`, table).Scan(&all, &hot)
			if err != nil {
				t.Fatal(err)
			}
		}
		equal(t, "updates of "+table, all, updates)
		if hot < all-all/20 {
			t.Errorf("%d of %d updates of %s are HOT", hot, all, table)
		}
	}
	indexed := query[[]string](g, `SELECT array_agg(DISTINCT a.attname::text ORDER BY a.attname::text) FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
		WHERE $1 > 0 AND i.indrelid = ANY ('{message_store_consumers.members,message_store_consumers.checkpoints,message_store_consumers.consumers}'::regclass[])`)
	equal(t, "indexed columns", indexed, []string{"category", "consumer", "id", "name", "partition"})
}

// TestNothingUnqualified checks that the functions do not depend on the search path, and do not
// run as their owner.
func TestNothingUnqualified(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	sources := query[[]string](g, `SELECT array_agg(p.prosrc || '--function ' || p.proname ORDER BY p.proname) FROM pg_proc AS p WHERE $1 = 0 AND p.pronamespace = 'message_store_consumers'::regnamespace AND NOT p.prosecdef AND p.proconfig IS NULL`)
	if len(sources) < 10 {
		t.Fatalf("got %d functions without settings that run as their caller", len(sources))
	}
	call := regexp.MustCompile(`(AS)?(?:^|[^.a-z_0-9])([a-z_][a-z_0-9]*)\(`)
	syntax := []string{"coalesce", "greatest", "least", "extract"}
	for _, source := range sources {
		source, name, _ := strings.Cut(source, "--function ")
		for _, m := range call.FindAllStringSubmatch(source, -1) {
			if m[1] == "" && !slices.Contains(syntax, m[2]) {
				t.Errorf("%q calls %s without its schema", name, m[2])
			}
		}
		for _, m := range regexp.MustCompile(`(?:FROM|JOIN|INSERT INTO|UPDATE) ([a-z_]+\.)?(consumers|members|checkpoints|parked|messages)\b`).FindAllStringSubmatch(source, -1) {
			if m[1] == "" {
				t.Errorf("%q uses %s without its schema", name, m[2])
			}
		}
	}
}
