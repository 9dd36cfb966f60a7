package mdb_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/poll"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// never is longer than any test takes.
const never = time.Hour

// waitingOnly returns the options of a store whose subscriptions, once they wait, are woken
// by notifications only.
func waitingOnly(opts ...mdb.NotifyOption) []mdb.StoreOption {
	opts = append([]mdb.NotifyOption{mdb.Fallback(never), mdb.MaxNotifications(1_000_000)}, opts...)
	return []mdb.StoreOption{mdb.WithNotify(opts...), mdb.WithPolling(poll.Constant(never))}
}

// notifyStore returns such a store. Tests do not write with it, because a store also wakes
// its own subscriptions when it writes.
func notifyStore(t testing.TB, url string, opts ...mdb.NotifyOption) *mdb.Store {
	t.Helper()
	return newStore(t, newPool(t, url), waitingOnly(opts...)...)
}

// A follower is a subscription in its own goroutine, which ends with the test.
type follower struct {
	messages chan mdb.Message
	cancel   context.CancelFunc
	done     chan struct{}
	err      error
}

func followStream(t testing.TB, s *mdb.Store, stream mdb.StreamName, opts ...mdb.StreamSubscribeOption) *follower {
	t.Helper()
	return follow(t, func(ctx context.Context, h mdb.Handler) error { return s.SubscribeToStream(ctx, stream, h, opts...) })
}

func followCategory(t testing.TB, s *mdb.Store, category mdb.Category, opts ...mdb.CategorySubscribeOption) *follower {
	t.Helper()
	return follow(t, func(ctx context.Context, h mdb.Handler) error {
		return s.SubscribeToCategory(ctx, category, h, opts...)
	})
}

func follow(t testing.TB, subscribe func(context.Context, mdb.Handler) error) *follower {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{messages: make(chan mdb.Message), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		f.err = subscribe(ctx, func(ctx context.Context, m mdb.Message) error {
			select {
			case f.messages <- m.Clone():
			case <-ctx.Done():
			}
			return nil
		})
	}()
	t.Cleanup(func() { f.stop(t) })
	return f
}

// stop ends the subscription. It may be called repeatedly.
func (f *follower) stop(t testing.TB) {
	t.Helper()
	f.cancel()
	<-f.done
	if !errors.Is(f.err, context.Canceled) {
		t.Errorf("the subscription ended with: %v", f.err)
	}
}

// next returns the next message.
func (f *follower) next(t testing.TB) mdb.Message {
	t.Helper()
	timer := time.NewTimer(testTimeout)
	defer timer.Stop()
	select {
	case m := <-f.messages:
		return m
	case <-f.done:
		t.Fatalf("the subscription has ended: %v", f.err)
	case <-timer.C:
		t.Fatal("no message arrived")
	}
	panic("unreachable")
}

// eventually repeats ok until it returns true, with a pause after each attempt.
func eventually(t testing.TB, db database, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(testTimeout); !ok(); exec(t, db, pause) {
		if time.Now().After(end) {
			t.Fatal("not in time: " + what)
		}
	}
}

// settled waits until all subscriptions of the store wait for notifications.
func settled(t testing.TB, s *mdb.Store) {
	t.Helper()
	eventually(t, s.Pool(), "all subscriptions sleep", func() bool { return mdb.Settled(s) })
}

// An observer is a session that receives all notifications.
type observer struct{ conn *pgx.Conn }

func newObserver(t testing.TB, url string) observer {
	t.Helper()
	conn := testdb.Session(t, url)
	exec(t, conn, "LISTEN message_store")
	return observer{conn}
}

// notifications returns, in order, the payloads of all notifications committed since the last
// call. They arrive in the order of commits, so a notification of its own marks their end.
// Its prefix keeps stores from counting it, and it from counting those of stores.
func (e observer) notifications(t testing.TB) []string {
	t.Helper()
	end := "-probe-" + uuid.NewString()
	exec(t, e.conn, "SELECT pg_notify('message_store', $1)", end)
	var received []string
	for {
		payload := e.wait(t)
		switch {
		case payload == end:
			return received
		case !strings.HasPrefix(payload, "-"):
			received = append(received, payload)
		}
	}
}

func (e observer) wait(t testing.TB) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	n, err := e.conn.WaitForNotification(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return n.Payload
}

// expect checks the notifications since the last call.
func (e observer) expect(t testing.TB, want ...string) {
	t.Helper()
	if got := e.notifications(t); !slices.Equal(got, want) {
		t.Fatalf("got %d notifications %.200q, want %d: %.200q", len(got), got, len(want), want)
	}
}

// notify sends the notification that a trigger sends.
func notify(t testing.TB, db database, payload string) {
	t.Helper()
	exec(t, db, "SELECT pg_notify('message_store', $1)", payload)
}

// sharedKeys counts the sessions that wait for notifications of the category, according to
// the server.
const sharedKeys = `SELECT count(*) FROM pg_locks
	WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted AND classid = 1296319044 AND objsubid = 2
	AND objid::bigint = hashtext($1)::bigint & 4294967295
	AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`

// listeners counts the connections that listen, according to the server.
const listeners = `SELECT count(*) FROM pg_stat_activity
	WHERE datname = current_database() AND application_name LIKE '%message_store notify'`

func stats(t testing.TB, s *mdb.Store, want mdb.NotifyStats) {
	t.Helper()
	got := s.NotifyStats()
	got.Notifications, got.Reads = want.Notifications, want.Reads
	if got != want {
		t.Fatalf("got %+v, want %+v", got, want)
	}
}

// concurrently runs the functions at the same time, and returns when all have returned.
func concurrently(functions ...func()) {
	var wg sync.WaitGroup
	for _, f := range functions {
		wg.Go(f)
	}
	wg.Wait()
}

func connections(n int32) func(*pgxpool.Config) {
	return func(cfg *pgxpool.Config) { cfg.MaxConns = n }
}

func installNotify(t testing.TB, db schema.DB) {
	t.Helper()
	if err := schema.InstallNotify(t.Context(), db); err != nil {
		t.Fatal(err)
	}
}

// hostileDatabase returns the URL of a database with functions that have the names of
// those that the trigger and the store call, and do something else. Message DB's own
// functions would call them.
func hostileDatabase(t testing.TB) string {
	t.Helper()
	url := testdb.Empty(t)
	conn := testdb.Session(t, url)
	if err := testdb.InstallOurs(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	exec(t, conn, `
		CREATE SCHEMA hostile;
		GRANT USAGE ON SCHEMA hostile TO PUBLIC;
		CREATE FUNCTION hostile.pg_try_advisory_xact_lock(int, int) RETURNS bool LANGUAGE sql AS 'SELECT true';
		CREATE FUNCTION hostile.pg_try_advisory_lock_shared(int, int) RETURNS bool LANGUAGE sql AS 'SELECT true';
		CREATE FUNCTION hostile.hashtext(text) RETURNS int LANGUAGE sql AS 'SELECT 1';
		CREATE FUNCTION hostile.split_part(text, text, int) RETURNS text LANGUAGE sql AS 'SELECT ''x''::text';
		CREATE FUNCTION hostile.octet_length(text) RETURNS int LANGUAGE sql AS 'SELECT 9999';
		CREATE FUNCTION hostile.pg_notify(text, text) RETURNS void LANGUAGE sql AS '';
		CREATE FUNCTION hostile.pg_notification_queue_usage() RETURNS float8 LANGUAGE sql AS 'SELECT 1::float8'`)
	return url
}

func dropRole(t testing.TB, url, role string) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "DROP OWNED BY "+role+"; DROP ROLE "+role); err != nil {
		t.Error(err)
	}
}

// newServer starts a server for the test. The options apply from the given major version
// on.
func newServer(t testing.TB, version int, opts ...pgtest.Option) *pgtest.Server {
	t.Helper()
	pgtest.NeedPrograms(t)
	_, major, err := pgtest.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if major < version {
		opts = nil
	}
	return pgtest.Own(t, opts...)
}

// triggerSQL returns the SQL that InstallNotify runs.
func triggerSQL(t testing.TB) string {
	t.Helper()
	sql, err := os.ReadFile("schema/notify.sql")
	if err != nil {
		t.Fatal(err)
	}
	return string(sql)
}
