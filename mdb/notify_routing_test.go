package mdb_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// TestNotifyRouting checks how many reads notifications cause in a store with many
// subscriptions in one category.
func TestNotifyRouting(t *testing.T) {
	t.Parallel()
	const streams, members = 500, 5
	url := testdb.Notifying(t)
	writer, e := newStore(t, newPool(t, url)), newObserver(t, url)
	category := mdbtest.Category("routed")
	stream := func(i int) mdb.StreamName { return category.Stream(fmt.Sprint(i)) }

	// All of them wait when the counting begins, and the store has received all
	// notifications when it ends.
	check := func(t *testing.T, s *mdb.Store, what string, want int64, write func()) {
		t.Helper()
		settled(t, s)
		e.notifications(t)
		before := s.NotifyStats()
		write()
		sent := int64(len(e.notifications(t)))
		eventually(t, s.Pool(), "the notifications arrive", func() bool { return s.NotifyStats().Notifications == before.Notifications+sent })
		eventually(t, s.Pool(), what+" is read", func() bool { return s.NotifyStats().Reads >= before.Reads+want })
		settled(t, s)
		if reads := s.NotifyStats().Reads - before.Reads; reads != want {
			t.Errorf("%s: got %d reads, want %d", what, reads, want)
		}
	}

	t.Run("streams", func(t *testing.T) {
		s := notifyStore(t, url)
		followers := make([]*follower, streams)
		for i := range followers {
			followers[i] = followStream(t, s, stream(i))
		}
		settled(t, s)
		stats(t, s, mdb.NotifyStats{Listening: true, Waiting: 1})
		for _, test := range []struct {
			name  string
			write func()
			reads int64
		}{
			{"nothing", func() {}, 0},
			{"other streams", func() {
				for i := range 200 {
					write(t, writer, stream(streams+i), mdb.NewMessage("Happened", nil))
				}
			}, 0},
			{"the stream without an id", func() { write(t, writer, mdb.StreamName(category), mdb.NewMessage("Happened", nil)) }, 0},
			{"names with the same beginning", func() {
				write(t, writer, stream(1)+"+x", mdb.NewMessage("Happened", nil))
				write(t, writer, stream(1)+"-x", mdb.NewMessage("Happened", nil))
			}, 0},
			{"their own", func() {
				for i, f := range followers {
					write(t, writer, stream(i), mdb.NewMessage("Happened", nil))
					if m := f.next(t); m.Stream != stream(i) {
						t.Errorf("subscription to %s: got a message of %s", stream(i), m.Stream)
					}
				}
			}, streams},
			{"without a payload", func() { notify(t, e.conn, "") }, streams},
		} {
			check(t, s, test.name, test.reads, test.write)
		}
	})

	t.Run("members", func(t *testing.T) {
		s := notifyStore(t, url)
		var groups [members]*follower
		for i := range groups {
			groups[i] = followCategory(t, s, category, mdb.AsConsumerGroup(i, members), mdb.FromEnd())
		}
		settled(t, s)
		owner := func(name mdb.StreamName) *follower {
			hash := mdb.Hash64(name.CardinalID())
			return groups[max(hash, -hash)%members]
		}
		for i := range 50 {
			name := stream(i)
			if i%2 == 0 {
				name = category.Stream(mdb.CompoundID(fmt.Sprint(i), "part"))
			}
			check(t, s, string(name), 1, func() {
				write(t, writer, name, mdb.NewMessage("Happened", nil))
				if m := owner(name).next(t); m.Stream != name {
					t.Errorf("got a message of %s, want one of %s", m.Stream, name)
				}
			})
		}
		// Members never receive messages of streams without an ID.
		check(t, s, "the stream without an id", 0, func() {
			write(t, writer, mdb.StreamName(category), mdb.NewMessage("Happened", nil))
		})
	})

	t.Run("categories", func(t *testing.T) {
		s := notifyStore(t, url)
		f := followCategory(t, s, category, mdb.FromEnd())
		other := mdbtest.Category("other")
		followCategory(t, s, other)
		settled(t, s)
		for i := range 20 {
			check(t, s, "a message", 1, func() {
				write(t, writer, stream(i), mdb.NewMessage("Happened", nil))
				f.next(t)
			})
		}
		check(t, s, "a category that nobody follows", 0, func() {
			write(t, writer, mdbtest.Category("nobody").Stream("1"), mdb.NewMessage("Happened", nil))
		})
		check(t, s, "both categories", 2, func() { notify(t, e.conn, "") })
	})
}

// TestNotifyTwoStores checks that of two stores that wait in a category each receives the
// other's notifications, and that one can stop without an effect on the other.
func TestNotifyTwoStores(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	writer, e := newStore(t, newPool(t, url)), newObserver(t, url)
	category := mdbtest.Category("shared")
	stream := category.Stream("1")
	one, two := notifyStore(t, url), notifyStore(t, url)
	f, g := followCategory(t, one, category), followStream(t, two, stream)
	settled(t, one)
	settled(t, two)
	write(t, writer, stream, mdb.NewMessage("Happened", nil))
	f.next(t)
	g.next(t)
	e.expect(t, string(stream))
	f.stop(t)
	write(t, writer, stream, mdb.NewMessage("Happened", nil))
	g.next(t)
	e.expect(t, string(stream))
}

// TestNotifyOwnWrites checks that a store that writes wakes its own subscriptions, without
// notifications or before they arrive.
func TestNotifyOwnWrites(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	for name, s := range map[string]*mdb.Store{
		"without notifications": newStore(t, newPool(t, url), mdb.WithPolling(poll.Constant(never))),
		"with notifications":    notifyStore(t, url),
	} {
		t.Run(name, func(t *testing.T) {
			category := mdbtest.Category("own")
			live := make(chan struct{})
			begun := sync.OnceFunc(func() { close(live) })
			f := followCategory(t, s, category, mdb.OnLive(func(bool) { begun() })) // again after a read that is retried
			<-live
			for i := range 20 {
				switch i % 3 {
				case 0:
					write(t, s, category.Stream("1"), mdb.NewMessage("Happened", nil))
				case 1:
					if _, err := s.WriteMessages(t.Context(), category.Stream("1"), proposals(1)); err != nil {
						t.Fatal(err)
					}
				default:
					err := s.Atomically(t.Context(), []mdb.Category{category}, func(tx *mdb.Tx) error {
						_, err := tx.WriteMessage(t.Context(), category.Stream("1"), mdb.NewMessage("Happened", nil))
						return err
					})
					if err != nil {
						t.Fatal(err)
					}
				}
				f.next(t)
			}
		})
	}
}
