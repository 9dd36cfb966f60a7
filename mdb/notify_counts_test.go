package mdb_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// The tests in this file count the notifications that another session receives.

// TestNotifyCounts checks which notifications a write sends while a subscription waits in
// its category.
func TestNotifyCounts(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	s := notifyStore(t, url)
	category, other := mdbtest.Category("armed"), mdbtest.Category("silent")
	f := followCategory(t, s, category)
	settled(t, s)

	pool := newPool(t, url)
	procedures, direct := newStore(t, pool), newStore(t, pool, mdb.WithDirectSQL())
	one, two := category.Stream("1"), category.Stream("2")
	single := func(in calls, streams ...mdb.StreamName) (err error) {
		for _, stream := range streams {
			_, writeErr := in.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
			err = errors.Join(err, writeErr)
		}
		return err
	}
	batch := func(in calls, stream mdb.StreamName) error {
		_, err := in.WriteMessages(t.Context(), stream, proposals(100))
		return err
	}
	inTx := func(end string, f func(tx pgx.Tx, in *mdb.Tx) error) error {
		tx, err := pool.Begin(t.Context())
		if err != nil {
			return err
		}
		err = f(tx, procedures.WithTx(tx))
		_, endErr := tx.Exec(t.Context(), end)
		return errors.Join(err, endErr, tx.Rollback(t.Context()))
	}
	within := func(tx pgx.Tx, in *mdb.Tx, stream mdb.StreamName) error {
		_, err := tx.Exec(t.Context(), "SAVEPOINT s")
		err = errors.Join(err, single(in, stream))
		_, endErr := tx.Exec(t.Context(), "ROLLBACK TO s")
		return errors.Join(err, endErr)
	}
	for _, test := range []struct {
		name      string
		write     func() error
		delivered int
		want      []mdb.StreamName
	}{
		{"a message", func() error { return single(procedures, one) }, 1, []mdb.StreamName{one}},
		{"two messages", func() error { return single(procedures, one, one) }, 2, []mdb.StreamName{one, one}},
		{"a batch", func() error { return batch(procedures, one) }, 100, []mdb.StreamName{one}},
		{"a batch by direct SQL", func() error { return batch(direct, one) }, 100, []mdb.StreamName{one}},
		{"a transaction on two streams", func() error {
			return inTx("COMMIT", func(_ pgx.Tx, in *mdb.Tx) error { return single(in, one, two, one) })
		}, 3, []mdb.StreamName{one, two}},
		{"a transaction on two categories", func() error {
			return inTx("COMMIT", func(_ pgx.Tx, in *mdb.Tx) error { return single(in, other.Stream("1"), one) })
		}, 1, []mdb.StreamName{one}},
		{"the stream without an id", func() error {
			return single(procedures, mdb.StreamName(category))
		}, 1, []mdb.StreamName{mdb.StreamName(category)}},
		{"another category", func() error { return single(procedures, other.Stream("1")) }, 0, nil},
		{"a transaction that is rolled back", func() error {
			return inTx("ROLLBACK", func(_ pgx.Tx, in *mdb.Tx) error { return single(in, one, two) })
		}, 0, nil},
		{"a savepoint that is rolled back to", func() error {
			return inTx("COMMIT", func(tx pgx.Tx, in *mdb.Tx) error { return within(tx, in, one) })
		}, 0, nil},
		{"a message before a savepoint that is rolled back to", func() error {
			return inTx("COMMIT", func(tx pgx.Tx, in *mdb.Tx) error { return errors.Join(single(in, one), within(tx, in, two)) })
		}, 1, []mdb.StreamName{one}},
		{"a message after a savepoint that was rolled back to", func() error {
			return inTx("COMMIT", func(tx pgx.Tx, in *mdb.Tx) error { return errors.Join(within(tx, in, two), single(in, one)) })
		}, 1, []mdb.StreamName{one}},
		{"a message that is rejected", func() error {
			_, err := procedures.WriteMessage(t.Context(), one, mdb.NewMessage("Happened", nil), mdb.ExpectVersion(1_000_000))
			if !errors.As(err, new(*mdb.WrongVersionError)) {
				return fmt.Errorf("got error %w, want a WrongVersionError", err)
			}
			return nil
		}, 0, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := newObserver(t, url)
			if err := test.write(); err != nil {
				t.Fatal(err)
			}
			for range test.delivered {
				f.next(t)
			}
			var want []string
			for _, stream := range test.want {
				want = append(want, string(stream))
			}
			e.expect(t, want...)
		})
	}
}

// TestNotifyNobodyWaits checks that writes send no notifications while no subscription
// waits.
func TestNotifyNobodyWaits(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	s, writer, e := notifyStore(t, url), newStore(t, newPool(t, url)), newObserver(t, url)
	category := mdbtest.Category("awake")
	stream := category.Stream("1")
	for range 10 {
		write(t, writer, stream, mdb.NewMessage("Happened", nil))
	}
	e.expect(t) // no subscription

	// A subscription that has not caught up is busy with its handler.
	f := followCategory(t, s, category)
	f.next(t)
	eventually(t, s.Pool(), "the store listens", func() bool { return s.NotifyStats().Listening })
	stats(t, s, mdb.NotifyStats{Listening: true, Cooling: 1})
	for range 10 {
		write(t, writer, stream, mdb.NewMessage("Happened", nil))
	}
	e.expect(t)
	for range 19 {
		f.next(t)
	}
	settled(t, s)
	stats(t, s, mdb.NotifyStats{Listening: true, Waiting: 1})
	write(t, writer, stream, mdb.NewMessage("Happened", nil))
	f.next(t)
	e.expect(t, string(stream))

	// Two subscriptions share one key, which the last of them gives up.
	g := followStream(t, s, stream, mdb.FromEnd())
	f.stop(t)
	settled(t, s)
	write(t, writer, stream, mdb.NewMessage("Happened", nil))
	g.next(t)
	e.expect(t, string(stream))
	followCategory(t, s, mdbtest.Category("other")) // keeps the connection open
	g.stop(t)
	until(t, s.Pool(), "SELECT ("+sharedKeys+") = 0", string(category))
	write(t, writer, stream, mdb.NewMessage("Happened", nil))
	e.expect(t)
}

// TestNotifyLongNames checks that a stream whose name is too long for a payload is
// notified without one, which wakes all subscriptions.
func TestNotifyLongNames(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	s, conn, e := notifyStore(t, url), newPool(t, url), newObserver(t, url)
	category := mdbtest.Category("long")
	long := func(bytes int, pad string) mdb.StreamName {
		n := bytes - len(category) - 1
		return category.Stream(strings.Repeat("x", n%len(pad)) + strings.Repeat(pad, n/len(pad)))
	}
	for _, test := range []struct {
		stream mdb.StreamName
		named  bool
	}{
		{long(7999, "x"), true},
		{long(8000, "x"), false},
		{long(7999, "é"), true},
		{long(8000, "é"), false},
		{long(9000, "é"), false},
	} {
		f := followStream(t, s, test.stream)
		settled(t, s)
		// Other writers may use names that are too long for this one's.
		exec(t, conn, `SELECT message_store.write_message(gen_random_uuid()::text, $1, 'Happened', NULL)`, string(test.stream))
		f.next(t)
		payload := ""
		if test.named {
			payload = string(test.stream)
		}
		e.expect(t, payload)
		f.stop(t)
	}
}

// TestNotifyLimit checks that a writer without pauses notifies at first, and then only as
// often as MaxNotifications allows.
func TestNotifyLimit(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	const perSecond, writes = 50, 4000
	for _, test := range []struct {
		name    string
		streams int // that nobody writes to, or 0 for the whole category
	}{
		{"the whole category", 0},
		// It never finds a message, so only the notifications show how much is written.
		{"another stream", 1},
		{"many other streams", 50},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			url := testdb.Notifying(t)
			s, e := notifyStore(t, url, mdb.MaxNotifications(perSecond)), newObserver(t, url)
			category := mdbtest.Category("busy")
			if test.streams == 0 {
				f := followCategory(t, s, category)
				go func() {
					for {
						select {
						case <-f.messages:
						case <-f.done:
							return
						}
					}
				}()
			}
			for i := range test.streams {
				followStream(t, s, category.Stream(fmt.Sprint("silent", i)))
			}
			settled(t, s)

			conn, begun := testdb.Session(t, url), time.Now()
			for range writes {
				exec(t, conn, "SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Happened', '{}')",
					string(category.Stream("1")))
			}
			sent, elapsed := len(e.notifications(t)), time.Since(begun)
			// Notifications over the limit are those sent until the store has noticed, which takes longer on a busy machine.
			most := perSecond + perSecond*elapsed.Seconds() + 12*perSecond
			t.Logf("%d notifications for %d writes in %v", sent, writes, elapsed)
			if sent < perSecond || float64(sent) > most {
				t.Errorf("got %d notifications in %v, want %d to %v", sent, elapsed, perSecond, most)
			}
		})
	}
}

// TestNotifyFullQueue checks that writes do not notify while the server's queue is half
// full, because a commit that finds the queue full fails.
func TestNotifyFullQueue(t *testing.T) {
	t.Parallel()
	// Before version 17 the queue has room for 8 GB.
	server := newServer(t, 17, pgtest.Setting("max_notify_queue_pages", "64"))
	url := server.URL("postgres")
	conn := testdb.Session(t, url)
	if err := testdb.InstallOurs(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	small := server.Version() >= 17
	if small {
		installNotify(t, conn)
	} else {
		exec(t, conn, strings.Replace(triggerSQL(t), "< 0.5", "< 0", 1))
	}
	s, writer, e := notifyStore(t, url), newStore(t, newPool(t, url)), newObserver(t, url)
	stream := mdbtest.Category("full").Stream("1")
	f := followStream(t, s, stream)
	settled(t, s)
	if small {
		write(t, writer, stream, mdb.NewMessage("Happened", nil))
		f.next(t)
		e.expect(t, string(stream))
		// A session in a transaction does not read its notifications, and so keeps all
		// later ones in the queue.
		idle := testdb.Session(t, url)
		exec(t, idle, "LISTEN other")
		exec(t, idle, "BEGIN")
		for value[float64](t, conn, "SELECT pg_notification_queue_usage()") < 0.5 {
			exec(t, conn, "NOTIFY other, '"+strings.Repeat("x", 7900)+"'")
		}
	}
	for range 100 {
		write(t, writer, stream, mdb.NewMessage("Happened", nil))
	}
	e.expect(t)
}
