package mdb_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// notifying installs Message DB and the trigger in a database of a test's own server.
func notifying(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn := testdb.Session(t, url)
	if err := testdb.InstallOurs(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	installNotify(t, conn)
	return conn
}

// TestNotifyLockTable checks that stores with thousands of categories leave enough of a
// small server's lock table for writers and for another database, and that every category
// receives its messages.
func TestNotifyLockTable(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	server := pgtest.Own(t, pgtest.Setting("max_connections", "40"), pgtest.Setting("max_locks_per_transaction", "10"))
	const capacity, stores, categories, tables = 400, 2, 1000, 150
	url := server.URL("postgres")
	db := notifying(t, url)
	exec(t, db, "CREATE DATABASE elsewhere")
	elsewhere := testdb.Session(t, server.URL("elsewhere"))
	for i := range tables {
		exec(t, elsewhere, fmt.Sprintf("CREATE TABLE t%d ()", i))
	}

	var j journal
	var subscribers []*mdb.Store
	received := make([][]atomic.Int64, stores)
	for i := range stores {
		s := newStore(t, newPool(t, url, connections(4)), mdb.WithNotify(mdb.Fallback(never)), mdb.WithPolling(poll.Constant(2*time.Second)), j.option())
		subscribers = append(subscribers, s)
		received[i] = make([]atomic.Int64, categories)
		for c := range categories {
			f := followCategory(t, s, mdb.Category(fmt.Sprintf("tenant%d", c)))
			go func() {
				for {
					select {
					case <-f.messages:
						received[i][c].Add(1)
					case <-f.done:
						return
					}
				}
			}()
		}
	}
	keys := func() int {
		return value[int](t, db, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock'")
	}
	for _, s := range subscribers {
		eventually(t, s.Pool(), "it waits in some categories, and polls the others", func() bool {
			now := s.NotifyStats()
			return now.Waiting > 0 && now.LockTableFull > 0 && now.Waiting+now.LockTableFull == categories
		})
	}
	// Neither the writer's statements nor those in the other database fail. newStore and exec
	// make sure of that.
	writer := newStore(t, newPool(t, url, connections(2)), mdb.WithRetry(mdb.RetryPolicy{Attempts: 1}))
	for c := range categories {
		write(t, writer, mdb.Category(fmt.Sprintf("tenant%d", c)).Stream("1"), mdb.NewMessage("Happened", nil))
		if c%100 == 0 {
			exec(t, elsewhere, "BEGIN")
			for i := range tables {
				exec(t, elsewhere, fmt.Sprintf("LOCK TABLE t%d IN SHARE MODE", i))
			}
			exec(t, elsewhere, "COMMIT")
			if n := keys(); n > capacity/2 {
				t.Errorf("got %d keys, want at most %d", n, capacity/2)
			}
		}
	}
	for i, s := range subscribers {
		eventually(t, s.Pool(), "every category has received its message", func() bool {
			for c := range received[i] {
				if received[i][c].Load() != 1 {
					return false
				}
			}
			return true
		})
		if now := s.NotifyStats(); now.Waiting == 0 || now.LockTableFull == 0 {
			t.Errorf("got %+v, want some categories to wait, and some not to", now)
		}
	}
	eventually(t, db, "the stores share their quarter", func() bool { return keys() <= capacity/4 })
	if n := j.count("too many categories for the server's lock table"); n != stores || !strings.Contains(j.String(), "locks=400") {
		t.Errorf("got %d warnings, want one of each store, with the figures:\n%s", n, &j)
	}
	if n := j.count("level=WARN"); n != stores {
		t.Errorf("got %d warnings, want no other ones:\n%s", n, &j)
	}
}

// TestNotifyEncoding checks that the members of a group are notified in a database that does
// not store text as UTF-8, also for names outside ASCII.
func TestNotifyEncoding(t *testing.T) {
	t.Parallel()
	server := newServer(t, 14)
	exec(t, testdb.Session(t, server.URL("postgres")), "CREATE DATABASE latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
	utf8 := parameter("client_encoding", "UTF8")
	url := server.URL("latin1")
	pool := newPool(t, url, utf8)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if err := testdb.InstallOurs(t.Context(), conn.Conn()); err != nil {
		t.Fatal(err)
	}
	installNotify(t, conn.Conn())
	s, category := newStore(t, newPool(t, url, utf8), waitingOnly()...), mdb.Category("größe")
	const members = 3
	messages := make(chan mdb.Message)
	for i := range members {
		f := followCategory(t, s, category, mdb.AsConsumerGroup(i, members))
		go func() {
			for {
				select {
				case m := <-f.messages:
					messages <- m
				case <-f.done:
					return
				}
			}
		}()
	}
	settled(t, s)
	for i := range 30 {
		stream := category.Stream(fmt.Sprint("é", i))
		exec(t, conn, "SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Happened', '{}')", string(stream))
		select {
		case m := <-messages:
			if m.Stream != stream {
				t.Errorf("got a message of %s, want %s", m.Stream, stream)
			}
		case <-time.After(testTimeout):
			t.Fatalf("the message of %s does not arrive", stream)
		}
	}
}

// TestNotifyReplicated checks that messages that logical replication applies are polled for,
// with a warning that names the remedy, and notify once the remedy was applied.
func TestNotifyReplicated(t *testing.T) {
	t.Parallel()
	server := pgtest.Own(t, pgtest.Setting("wal_level", "logical"), pgtest.Setting("max_worker_processes", "8"))
	origin := notifying(t, server.URL("postgres"))
	exec(t, origin, "CREATE DATABASE copy")
	db := notifying(t, server.URL("copy"))
	exec(t, origin, "CREATE PUBLICATION messages FOR TABLE message_store.messages")
	exec(t, origin, "SELECT pg_create_logical_replication_slot('copied', 'pgoutput')")
	// Within one server the slot cannot be created by the subscription, which would wait for
	// its own transaction.
	exec(t, db, "CREATE SUBSCRIPTION copied CONNECTION '"+value[string](t, origin,
		"SELECT 'host=' || split_part(current_setting('unix_socket_directories'), ',', 1) || ' port=' || current_setting('port') || ' dbname=postgres user=' || current_user")+
		"' PUBLICATION messages WITH (create_slot = false, slot_name = 'copied', copy_data = false)")

	var j journal
	s := newStore(t, newPool(t, server.URL("copy")), polled(&j, mdb.Fallback(20*time.Millisecond))...)
	stream := mdbtest.Category("replicated").Stream("1")
	f := followStream(t, s, stream)
	settled(t, s)
	for j.count(saysBroken) == 0 {
		follows(t, origin, f, stream, 1)
	}
	follows(t, origin, f, stream, 10)
	const remedy = "ALTER TABLE message_store.messages ENABLE ALWAYS TRIGGER message_store_notify"
	if j.count(saysBroken) != 1 || j.count(remedy) != 1 {
		t.Errorf("want one warning with the remedy:\n%s", &j)
	}
	stats(t, s, mdb.NotifyStats{Listening: true, Polling: 1})

	exec(t, db, remedy)
	waiting := notifyStore(t, server.URL("copy"))
	g := followStream(t, waiting, stream, mdb.FromEnd())
	settled(t, waiting)
	for range 10 {
		follows(t, origin, f, stream, 1)
		g.next(t)
	}
}

// TestNotifyNotices checks that notices of the server to the connection that listens do not
// reach the pool's hook.
func TestNotifyNotices(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	hook := func(cfg *pgxpool.Config) {
		cfg.ConnConfig.RuntimeParams["client_min_messages"] = "debug5"
		cfg.ConnConfig.OnNotice = func(conn *pgconn.PgConn, _ *pgconn.Notice) {
			if strings.HasSuffix(conn.ParameterStatus("application_name"), "notify") {
				panic("a hook of the pool, in a goroutine of the store")
			}
		}
	}
	s, stream := newStore(t, newPool(t, url, hook), waitingOnly()...), mdbtest.Category("noticed").Stream("1")
	f := followStream(t, s, stream)
	settled(t, s)
	follows(t, testdb.Session(t, url), f, stream, 3)
}
