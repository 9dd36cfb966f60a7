package mdb_test

import (
	"testing"

	"github.com/messagedb-go/messagedb/internal/beside"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestWatchConsumers checks that a store that listens passes on notifications of consumers,
// and reports when it begins to listen, because notifications before that are lost.
func TestWatchConsumers(t *testing.T) {
	t.Parallel()
	url := testdb.Shared(t)
	store := notifyStore(t, url)
	of := beside.Of.(func(*mdb.Store) beside.Store) //nolint:forcetypeassert // what mdb sets
	got := make(chan string, 1000)
	stop := of(store).Watch(func(consumer string) { got <- consumer })
	defer stop()
	wait := func(want string) {
		t.Helper()
		for name := range got { // other tests may share the database
			if name == want {
				return
			}
		}
	}
	wait("")
	exec(t, store.Pool(), "SELECT pg_notify('message_store_consumers', 'mailer')")
	wait("mailer")
}

// TestBesideConnection checks that the connection of the ticks names its purpose, and needs
// no connection of the pool.
func TestBesideConnection(t *testing.T) {
	t.Parallel()
	store := newStore(t, newPool(t, testdb.Shared(t), oneConnection))
	held, err := store.Pool().Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	of := beside.Of.(func(*mdb.Store) beside.Store) //nolint:forcetypeassert // what mdb sets
	conn, err := of(store).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var name string
	if err := conn.QueryRow(t.Context(), "SELECT current_setting('application_name')").Scan(&name); err != nil {
		t.Fatal(err)
	}
	if want := "message_store consumers"; name != want {
		t.Errorf("got the application name %q, want %q", name, want)
	}
}
