package mdb_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestNotifyRights checks that the rights of Message DB's role are enough to wait for
// notifications, and the right to insert is enough to send them.
func TestNotifyRights(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	s := newStore(t, newPool(t, url, asRole("message_store")), waitingOnly()...)
	e, owner := newObserver(t, url), testdb.Session(t, url)
	category := mdbtest.Category("granted")
	stream := category.Stream("1")
	f := followCategory(t, s, category)
	settled(t, s)
	exec(t, owner, "REVOKE ALL ON FUNCTION message_store.notify_subscriptions() FROM PUBLIC")

	write(t, newStore(t, newPool(t, url, asRole("message_store"))), stream, mdb.NewMessage("Happened", nil))
	f.next(t)
	e.expect(t, string(stream))

	role := string(mdbtest.Category("mdb_inserter_"))
	exec(t, owner, "CREATE ROLE "+role)
	t.Cleanup(func() { dropRole(t, url, role) })
	exec(t, owner, `GRANT USAGE ON SCHEMA message_store TO `+role+`;
		GRANT INSERT ON message_store.messages TO `+role+`;
		GRANT USAGE ON ALL SEQUENCES IN SCHEMA message_store TO `+role)
	exec(t, newPool(t, url, asRole(role)), "INSERT INTO message_store.messages (stream_name, type, position) VALUES ($1, 'Happened', 1)", string(stream))
	f.next(t)
	e.expect(t, string(stream))
}

// TestNotifyCollision checks that writes to two categories with the same key both notify
// while a subscription waits in either.
func TestNotifyCollision(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	s, writer, e := notifyStore(t, url), newStore(t, newPool(t, url)), newObserver(t, url)
	collisions := value[[]string](t, e.conn, `SELECT array_agg('collision' || i) FROM generate_series(1, 400000) AS i
		GROUP BY hashtext('collision' || i) HAVING count(*) > 1 LIMIT 1`)
	one, two := mdb.Category(collisions[0]).Stream("1"), mdb.Category(collisions[1]).Stream("1")
	f, g := followStream(t, s, one), followStream(t, s, two)
	settled(t, s)
	both := func() {
		write(t, writer, one, mdb.NewMessage("Happened", nil))
		write(t, writer, two, mdb.NewMessage("Happened", nil))
		// The keys of the two categories cannot be distinguished.
		e.expect(t, string(one), string(two))
	}
	both()
	f.next(t)
	g.next(t)
	f.stop(t)
	f = followStream(t, s, one, mdb.FromEnd())
	settled(t, s)
	g.stop(t)
	settled(t, s)
	both()
	f.next(t)
	f.stop(t)
	until(t, s.Pool(), "SELECT ("+listeners+") = 0")
	write(t, writer, one, mdb.NewMessage("Happened", nil))
	e.expect(t)
}

// TestNotifyHostileSearchPath checks that functions with the names of those that the
// trigger calls, found first in the search path of the installer, of writers and of the
// store, are never called.
func TestNotifyHostileSearchPath(t *testing.T) {
	t.Parallel()
	const path = "hostile, message_store, pg_catalog, pg_temp"
	hostile := func(cfg *pgxpool.Config) { cfg.ConnConfig.RuntimeParams["search_path"] = path }
	url := hostileDatabase(t)
	installNotify(t, barePool(t, url, hostile))

	pool := barePool(t, url, hostile)
	s, e := newStore(t, pool, waitingOnly()...), newObserver(t, url)
	category := mdbtest.Category("path")
	stream := category.Stream("1")
	f := followCategory(t, s, category)
	settled(t, s)
	if keys := value[int](t, e.conn, sharedKeys, string(category)); keys != 1 {
		t.Errorf("got %d sessions that share the category's key, want 1", keys)
	}
	for _, writer := range []*pgxpool.Pool{pool, barePool(t, url)} {
		exec(t, writer, "SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Happened', '{}')", string(stream))
		f.next(t)
		e.expect(t, string(stream))
	}
}

// TestNotifyConnections checks that a store has one listening connection, while it has
// subscriptions.
func TestNotifyConnections(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	watch := testdb.Session(t, url)
	one := func(cfg *pgxpool.Config) { cfg.MaxConns, cfg.MinConns = 1, 1 }
	s := newStore(t, newPool(t, url, one), waitingOnly()...)
	const connections = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
	exec(t, s.Pool(), "SELECT")
	// The connections that created the database may take a while to end.
	until(t, watch, "SELECT ("+connections+") = 1")
	for range 3 {
		var followers []*follower
		for i := range 5 {
			followers = append(followers, followStream(t, s, mdbtest.Category("connected").Stream(fmt.Sprint(i))))
		}
		settled(t, s)
		// A read that was in progress has closed the pool's connection, whose session may take a while to end, too.
		until(t, watch, "SELECT ("+connections+") = 2 AND ("+listeners+") = 1")
		for _, f := range slices.Backward(followers) {
			f.stop(t)
		}
		until(t, watch, "SELECT ("+listeners+") = 0 AND ("+connections+") <= 1")
		stats(t, s, mdb.NotifyStats{})
	}
}
