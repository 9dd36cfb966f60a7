package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// BenchmarkFollowers measures what it costs that 100,000 messages follow in a stream that is parked, and how fast they are replayed, compared with
// the same messages in a stream that is not. The goals are one row, no writes for the messages that follow, and half the speed.
func BenchmarkFollowers(b *testing.B) {
	const followers = 100_000
	for _, form := range []string{"Each", "EachTx"} {
		b.Run(form, func(b *testing.B) {
			var rows, writes int64
			var live, passed, replayed time.Duration
			for b.Loop() {
				store := withConsumers.Store(b)
				fill := func(category mdb.Category) {
					if _, err := store.Pool().Exec(b.Context(), `INSERT INTO message_store.messages (stream_name, position, type, data)
						SELECT $1::text || '-1', i, 'Happened', '{}' FROM generate_series(0, $2::int) AS i`, string(category), followers); err != nil {
						b.Fatal(err)
					}
				}
				fill("good")
				fill("bad")
				var healed atomic.Bool
				var handled atomic.Int64
				handle := func(_ context.Context, m mdb.Message) error {
					if m.Stream == "bad-1" && !healed.Load() {
						return consumer.Permanent(errors.New("bad"))
					}
					handled.Add(1)
					return nil
				}
				catchUp := func(category mdb.Category, replay bool) time.Duration {
					h := consumer.Each(handle)
					if form == "EachTx" {
						h = consumer.EachTx(func(ctx context.Context, _ pgx.Tx, m mdb.Message) error { return handle(ctx, m) })
					}
					c, err := consumer.New(store, string(category), category, h)
					if err != nil {
						b.Fatal(err)
					}
					if replay {
						if err := c.Replay(b.Context()); err != nil {
							b.Fatal(err)
						}
					}
					begun := time.Now()
					if err := c.CatchUp(b.Context()); err != nil {
						b.Fatal(err)
					}
					return time.Since(begun)
				}
				live += catchUp("good", false)
				before := parkedWrites(b, store)
				passed += catchUp("bad", false)
				var n int64
				if err := store.Pool().QueryRow(b.Context(), "SELECT count(*) FROM message_store_consumers.parked").Scan(&n); err != nil {
					b.Fatal(err)
				}
				rows += n
				writes += parkedWrites(b, store) - before
				handled.Store(0)
				healed.Store(true)
				replayed += catchUp("bad", true)
				if n := handled.Load(); n != followers+1 {
					b.Fatalf("%d messages were replayed", n)
				}
			}
			n := float64(b.N)
			b.ReportMetric(float64(rows)/n, "rows")
			b.ReportMetric(float64(writes)/n, "writes")
			b.ReportMetric(live.Seconds()*1e6/n/followers, "µs/message:live")
			b.ReportMetric(passed.Seconds()*1e6/n/followers, "µs/message:passed")
			b.ReportMetric(replayed.Seconds()*1e6/n/followers, "µs/message:replayed")
			b.ReportMetric(live.Seconds()/replayed.Seconds(), "times:live")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// parkedWrites returns how many rows of what is parked were written.
func parkedWrites(b *testing.B, store *mdb.Store) (n int64) {
	b.Helper()
	// A session adds its numbers to those of the server when it ends, at the latest.
	store.Pool().Reset()
	const written = "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint FROM pg_stat_user_tables WHERE relname = 'parked'"
	for last := int64(-1); n != last; <-time.After(1100 * time.Millisecond) {
		last = n
		if err := store.Pool().QueryRow(b.Context(), written).Scan(&n); err != nil {
			b.Fatal(err)
		}
	}
	return n
}

// BenchmarkLongTransaction measures EachTx beside a transaction that is open all the time, so that PostgreSQL cannot remove the
// old versions of checkpoints: the time for a message at the beginning and at the end, and what the table of checkpoints grows to.
func BenchmarkLongTransaction(b *testing.B) {
	const messages = 40_000
	for _, perTx := range []int{1, 100} {
		for _, long := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d messages a transaction, %s", perTx, map[bool]string{false: "alone", true: "beside a long transaction"}[long]), func(b *testing.B) {
				var first, last time.Duration
				var dead, kilobytes int64
				for b.Loop() {
					store := withConsumers.Store(b)
					if _, err := store.Pool().Exec(b.Context(), `INSERT INTO message_store.messages (stream_name, position, type, data)
						SELECT 'signup-' || i % 1000, i / 1000, 'Happened', '{}' FROM generate_series(0, $1::int - 1) AS i`, messages); err != nil {
						b.Fatal(err)
					}
					tx, err := store.Pool().BeginTx(b.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
					if err != nil {
						b.Fatal(err)
					}
					if long {
						if _, err := tx.Exec(b.Context(), "SELECT FROM message_store.messages LIMIT 1"); err != nil {
							b.Fatal(err)
						}
					}
					at := make([]time.Time, 0, messages)
					c, err := consumer.New(store, "mailer", "signup", consumer.EachTx(func(context.Context, pgx.Tx, mdb.Message) error {
						at = append(at, time.Now())
						return nil
					}), consumer.PerTx(perTx, 50*time.Millisecond))
					if err == nil {
						err = c.CatchUp(b.Context())
					}
					if err != nil {
						b.Fatal(err)
					}
					quarter := len(at) / 4
					first += at[quarter].Sub(at[0])
					last += at[len(at)-1].Sub(at[len(at)-1-quarter])
					if err := tx.Rollback(b.Context()); err != nil {
						b.Fatal(err)
					}
					store.Pool().Reset()
					<-time.After(1100 * time.Millisecond) // until the numbers of the sessions are those of the server
					var n, size int64
					if err := store.Pool().QueryRow(b.Context(), `SELECT n_dead_tup, pg_table_size(relid) / 1024 FROM pg_stat_user_tables
						WHERE relname = 'checkpoints'`).Scan(&n, &size); err != nil {
						b.Fatal(err)
					}
					dead, kilobytes = dead+n, kilobytes+size
				}
				n := float64(b.N)
				b.ReportMetric(first.Seconds()*1e6/n/(messages/4), "µs/message:first-quarter")
				b.ReportMetric(last.Seconds()*1e6/n/(messages/4), "µs/message:last-quarter")
				b.ReportMetric(float64(dead)/n, "dead-tuples")
				b.ReportMetric(float64(kilobytes)/n, "KB")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}
