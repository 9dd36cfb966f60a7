package mdb_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
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
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// polled returns the options of a store that polls often when it receives no
// notifications.
func polled(j *journal, opts ...mdb.NotifyOption) []mdb.StoreOption {
	return []mdb.StoreOption{mdb.WithNotify(opts...), mdb.WithPolling(poll.Constant(time.Millisecond)), j.option()}
}

func (j *journal) count(text string) int { return strings.Count(j.String(), text) }

// Parts of what a store logs about its connection, and about a category.
const (
	saysOff    = "notifications unavailable"
	saysBroken = "messages arrive without a notification"
)

const killListeners = `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
	WHERE datname = current_database() AND application_name LIKE '%message_store notify'`

// follows writes n messages one by one, and waits until the subscription has received
// each.
func follows(t *testing.T, db database, f *follower, stream mdb.StreamName, n int) {
	t.Helper()
	for range n {
		exec(t, db, "SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Happened', '{}')", string(stream))
		f.next(t)
	}
}

// TestNotifyNotInstalled checks that a store polls until the trigger is installed, and then
// uses it immediately, on the connection that it has had all the time, as it does again after
// the trigger was removed and installed.
func TestNotifyNotInstalled(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	var opened atomic.Int64
	hook := ofListener(func(conn net.Conn) net.Conn {
		opened.Add(1)
		return conn
	})
	var j journal
	s := newStore(t, newPool(t, url, hook), polled(&j, mdb.Recheck(never), mdb.Fallback(never))...)
	db, stream := testdb.Session(t, url), mdbtest.Category("bare").Stream("1")
	f := followStream(t, s, stream)
	follows(t, db, f, stream, 10)
	eventually(t, db, "the store says why", func() bool { return j.count(saysOff) > 0 })
	stats(t, s, mdb.NotifyStats{Polling: 1})
	if n := j.count(saysOff); n != 1 || !strings.Contains(j.String(), "schema.InstallNotify") {
		t.Errorf("got %d warnings, want one with the remedy:\n%s", n, &j)
	}
	for range 3 {
		installNotify(t, db)
		settled(t, s)
		follows(t, db, f, stream, 10)
		stats(t, s, mdb.NotifyStats{Listening: true, Waiting: 1})
		if err := schema.UninstallNotify(t.Context(), db); err != nil {
			t.Fatal(err)
		}
		eventually(t, db, "the store polls", func() bool { return s.NotifyStats().Polling == 1 })
		follows(t, db, f, stream, 10)
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("got %d connections that listen, want 1", n)
	}
}

// TestNotifyDisabled checks that a store polls after the trigger is disabled, once a
// fallback read has found messages without a notification.
func TestNotifyDisabled(t *testing.T) {
	t.Parallel()
	for what, sql := range map[string]string{
		"disabled": "ALTER TABLE message_store.messages DISABLE TRIGGER message_store_notify",
		"replica":  "ALTER TABLE message_store.messages ENABLE REPLICA TRIGGER message_store_notify",
		"dropped":  "DROP TRIGGER message_store_notify ON message_store.messages",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			url := testdb.Notifying(t)
			var j journal
			s := newStore(t, newPool(t, url), polled(&j, mdb.Fallback(20*time.Millisecond))...)
			db, stream := testdb.Session(t, url), mdbtest.Category("disabled").Stream("1")
			f := followStream(t, s, stream)
			settled(t, s)
			follows(t, db, f, stream, 10)
			if j.String() != "" {
				t.Fatalf("with the trigger enabled: got the log %s, want no warning", &j)
			}
			exec(t, db, sql)
			for j.count(saysOff) == 0 {
				follows(t, db, f, stream, 1)
			}
			follows(t, db, f, stream, 50)
			stats(t, s, mdb.NotifyStats{Polling: 1})
			if n := j.count(saysOff); n != 1 || j.count(saysBroken) != 0 || j.count("schema.InstallNotify") != 1 {
				t.Errorf("got %d warnings, want one with the remedy:\n%s", n, &j)
			}
			until(t, db, "SELECT ("+sharedKeys+") = 0", string(stream.Category()))
		})
	}
}

// TestNotifyEnabledAgain checks that a store notices by itself when the trigger is enabled
// again.
func TestNotifyEnabledAgain(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	var j journal
	s := newStore(t, newPool(t, url), polled(&j, mdb.Fallback(20*time.Millisecond), mdb.Recheck(50*time.Millisecond))...)
	db, stream := testdb.Session(t, url), mdbtest.Category("enabled").Stream("1")
	f := followStream(t, s, stream)
	settled(t, s)
	exec(t, db, "ALTER TABLE message_store.messages DISABLE TRIGGER message_store_notify")
	for j.count(saysOff) == 0 {
		follows(t, db, f, stream, 1)
	}
	exec(t, db, "ALTER TABLE message_store.messages ENABLE TRIGGER message_store_notify")
	eventually(t, db, "it is armed again", func() bool { return s.NotifyStats().Waiting == 1 })
	received := s.NotifyStats().Notifications
	for s.NotifyStats().Notifications == received {
		follows(t, db, f, stream, 1)
	}
}

// TestNotifyReplicaWriter checks that messages of sessions in which no trigger fires, such
// as those of replication, are delivered later.
func TestNotifyReplicaWriter(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	s := newStore(t, newPool(t, url), polled(&journal{}, mdb.Fallback(20*time.Millisecond))...)
	writer, stream := testdb.Session(t, url), mdbtest.Category("replica").Stream("1")
	exec(t, writer, "SET session_replication_role = replica")
	e, f := newObserver(t, url), followStream(t, s, stream)
	settled(t, s)
	follows(t, writer, f, stream, 20)
	e.expect(t)
}

// TestNotifyKilled checks that no message is lost while the listening connection is
// terminated several times.
func TestNotifyKilled(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	s, db := notifyStore(t, url), testdb.Session(t, url)
	category := mdbtest.Category("killed")
	f, g := followStream(t, s, category.Stream("1")), followCategory(t, s, category)
	for range 5 {
		settled(t, s)
		follows(t, db, f, category.Stream("1"), 2)
		g.next(t)
		g.next(t)
		// A session that was terminated before sends its last message before it is gone.
		until(t, db, "SELECT ("+listeners+") = 1")
		if n := value[int](t, db, killListeners); n != 1 {
			t.Fatalf("got %d terminated connections, want 1", n)
		}
		// A message may be read before the loss, after it, or when the store listens
		// again.
		exec(t, db, "SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Happened', '{}')", string(category.Stream("1")))
		f.next(t)
		g.next(t)
	}
	settled(t, s)
	stats(t, s, mdb.NotifyStats{Listening: true, Waiting: 1})
}

// TestNotifyRestart checks that subscriptions receive messages after the server has
// restarted.
func TestNotifyRestart(t *testing.T) {
	t.Parallel()
	server := newServer(t, 14)
	url := server.URL("postgres")
	conn := testdb.Session(t, url)
	if err := testdb.InstallOurs(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	installNotify(t, conn)
	s, stream := notifyStore(t, url), mdbtest.Category("restarted").Stream("1")
	f := followStream(t, s, stream)
	for _, mode := range []string{"fast", "immediate"} {
		settled(t, s)
		follows(t, testdb.Session(t, url), f, stream, 2)
		if err := server.Restart(mode); err != nil {
			t.Fatal(err)
		}
		follows(t, testdb.Session(t, url), f, stream, 2)
	}
}

// TestNotifyListenOn checks that a store listens at another address, if that is the same
// database.
func TestNotifyListenOn(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	for _, test := range []struct {
		name     string
		listenOn string
		says     string // in the log; empty if it works
	}{
		{"the same database", url, ""},
		{"a database without the trigger", testdb.New(t), "not installed or not enabled"},
		{"another database with a trigger", testdb.Notifying(t), "does not arrive at the connection that listens"},
		{"nowhere", "postgres://user:canary@127.0.0.1:1/db", "connect to listen"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var j journal
			s := newStore(t, newPool(t, url), polled(&j, mdb.ListenOn(test.listenOn), mdb.Fallback(never))...)
			db, stream := testdb.Session(t, url), mdbtest.Category("elsewhere").Stream("1")
			f := followStream(t, s, stream)
			follows(t, db, f, stream, 10)
			if test.says == "" {
				settled(t, s)
				return
			}
			eventually(t, db, "the store says why", func() bool { return j.count(test.says) > 0 })
			follows(t, db, f, stream, 10)
			stats(t, s, mdb.NotifyStats{Polling: 1})
			if j.count(saysOff) != 1 || j.count("canary") != 0 {
				t.Errorf("got more than one warning, or the password:\n%s", &j)
			}
		})
	}
}

// TestNotifyExhaustedPool checks what a store does if the pool has no connection to prove
// that notifications arrive.
func TestNotifyExhaustedPool(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	url := testdb.Notifying(t)
	pool := newPool(t, url, connections(2))
	var j journal
	s := newStore(t, pool, polled(&j, mdb.Fallback(never))...)
	db, stream := testdb.Session(t, url), mdbtest.Category("exhausted").Stream("1")
	taken := pool.AcquireAllIdle(t.Context())
	for len(taken) < 2 {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, conn)
	}
	f := followStream(t, s, stream)
	eventually(t, db, "the store says why", func() bool { return j.count(saysOff) > 0 })
	stats(t, s, mdb.NotifyStats{Polling: 1})
	for _, conn := range taken {
		conn.Release()
	}
	follows(t, db, f, stream, 10)
	settled(t, s)
	follows(t, db, f, stream, 10)
}

// TestNotifyRefused checks that a store whose listening session is rejected each time logs
// that once, and retries less and less often.
func TestNotifyRefused(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	db := testdb.Session(t, url)
	exec(t, db, "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_try_advisory_lock_shared(int, int) FROM PUBLIC")
	var sessions atomic.Int64
	var j journal
	s := newStore(t, newPool(t, url, asRole("message_store"), ofListener(func(conn net.Conn) net.Conn {
		sessions.Add(1)
		return conn
	})), polled(&j)...)
	stream := mdbtest.Category("refused").Stream("1")
	f := followStream(t, s, stream)
	eventually(t, db, "there are some sessions", func() bool { return sessions.Load() >= 5 })
	follows(t, db, f, stream, 3)
	if n := j.count(saysOff); n != 1 {
		t.Errorf("got %d warnings, want one:\n%s", n, &j)
	}
	exec(t, db, "GRANT EXECUTE ON FUNCTION pg_catalog.pg_try_advisory_lock_shared(int, int) TO PUBLIC")
	settled(t, s)
}

// TestNotifyFarAway checks that a store with a slow connection, and with writers that keep
// all categories but one busy, receives that one's notifications while it retries the
// others.
func TestNotifyFarAway(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	var far atomic.Bool
	s := newStore(t, newPool(t, url, ofListener(func(conn net.Conn) net.Conn { return &farConn{conn, &far} })),
		mdb.WithNotify(mdb.Fallback(never), mdb.MaxNotifications(1_000_000)), mdb.WithPolling(poll.Constant(time.Millisecond)))
	db, quiet := testdb.Session(t, url), mdbtest.Category("quiet").Stream("1")
	f := followStream(t, s, quiet)
	settled(t, s)
	far.Store(true)
	busy := s.WithTx(begin(t, newPool(t, url)))
	for range 8 {
		category := mdbtest.Category("busy")
		write(t, busy, category.Stream("1"), mdb.NewMessage("Happened", nil))
		followCategory(t, s, category)
	}
	eventually(t, db, "all categories are cooling", func() bool { return s.NotifyStats().Cooling == 8 })
	follows(t, db, f, quiet, 50)
	stats(t, s, mdb.NotifyStats{Listening: true, Waiting: 1, Cooling: 8})
}

// ofListener wraps the connections that listen.
func ofListener(wrap func(net.Conn) net.Conn) func(*pgxpool.Config) {
	return func(cfg *pgxpool.Config) {
		cfg.ConnConfig.AfterNetConnect = func(_ context.Context, c *pgconn.Config, conn net.Conn) (net.Conn, error) {
			if strings.HasSuffix(c.RuntimeParams["application_name"], "message_store notify") {
				return wrap(conn), nil
			}
			return conn, nil
		}
	}
}

// A farConn is a connection whose answers are delayed once it is far.
type farConn struct {
	net.Conn
	far *atomic.Bool
}

func (c *farConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.far.Load() {
		<-time.After(10 * time.Millisecond) // the latency
	}
	return n, err
}

// TestNotifyConnection checks the parameters with which the store opens the listening
// connection.
func TestNotifyConnection(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	var mu sync.Mutex
	timeouts := make(map[string]string) // keyed by application_name
	prepare := func(cfg *pgxpool.Config) {
		cfg.BeforeConnect = func(_ context.Context, cfg *pgx.ConnConfig) error {
			cfg.RuntimeParams["application_name"] = "by the hook"
			return nil
		}
		cfg.ConnConfig.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
			results, err := conn.Exec(ctx, "SHOW application_name; SHOW idle_session_timeout").ReadAll()
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			timeouts[string(results[0].Rows[0][0])] = string(results[1].Rows[0][0])
			return nil
		}
		cfg.ConnConfig.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {
			t.Error("a notification went to the pool's callback")
		}
	}
	s, stream := newStore(t, newPool(t, url, prepare), waitingOnly()...), mdbtest.Category("opened").Stream("1")
	f := followStream(t, s, stream)
	settled(t, s)
	follows(t, testdb.Session(t, url), f, stream, 3)
	mu.Lock()
	defer mu.Unlock()
	if got, want := fmt.Sprint(timeouts), "map[by the hook:0 by the hook message_store notify:1min]"; got != want {
		t.Errorf("connections and their idle_session_timeout: got %s, want %s", got, want)
	}
}

// TestNotifyForged checks that notifications which no trigger sent cost at most one read
// each, besides polls, and that messages still arrive.
func TestNotifyForged(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	const forged = 20 * mdb.DefaultMaxNotifications
	for _, test := range []struct {
		name    string
		payload func(own mdb.StreamName, i int) string
		wakes   bool
	}{
		{"nothing", func(mdb.StreamName, int) string { return "" }, true},
		{"the stream itself", func(own mdb.StreamName, _ int) string { return string(own) }, true},
		{"other streams of the category", func(own mdb.StreamName, i int) string { return fmt.Sprint(own, i) }, false},
		{"other categories", func(_ mdb.StreamName, i int) string { return fmt.Sprintf("forged%d-1", i) }, false},
		{"long names", func(_ mdb.StreamName, i int) string { return fmt.Sprint(i, strings.Repeat("x", 7900)) }, false},
		{"control characters", func(_ mdb.StreamName, i int) string { return fmt.Sprint("\x01\x7f\u202e\ufffd-+-", i, "\n") }, false},
		{"probes", func(_ mdb.StreamName, i int) string { return fmt.Sprint("-probe-", i) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			url := testdb.Notifying(t)
			s, db := notifyStore(t, url, mdb.MaxNotifications(mdb.DefaultMaxNotifications)), testdb.Session(t, url)
			stream := mdbtest.Category("forged").Stream("1")
			f := followStream(t, s, stream)
			settled(t, s)
			before, begun := s.NotifyStats(), time.Now()
			var batch pgx.Batch
			for i := range forged {
				// Each in its own transaction, because within one equal notifications are
				// merged.
				batch.Queue("BEGIN")
				batch.Queue("SELECT pg_notify('message_store', $1)", test.payload(stream, i))
				batch.Queue("COMMIT")
			}
			if err := db.SendBatch(t.Context(), &batch).Close(); err != nil {
				t.Fatal(err)
			}
			follows(t, db, f, stream, 1) // delivered all the same
			after, elapsed := s.NotifyStats(), time.Since(begun)
			reads, received := after.Reads-before.Reads, after.Notifications-before.Notifications
			most := 10 + 500*elapsed.Seconds()
			if test.wakes {
				most += float64(received)
			}
			t.Logf("%d reads for %d notifications in %v", reads, received, elapsed)
			if float64(reads) > most {
				t.Errorf("got %d reads for %d notifications in %v, want at most %v", reads, received, elapsed, most)
			}
			follows(t, db, f, stream, 3)
		})
	}
}
