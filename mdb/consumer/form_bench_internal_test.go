package consumer

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// BenchmarkForms compares the forms that move the checkpoint, in turns, with the same statement
// for each message, and with the same statements in a batch without a checkpoint. It reports
// microseconds per message, and how many times as fast EachQueued is as others. The floors are
// 0.8 of the batch without a checkpoint, and 10 times a transaction for each message.
func BenchmarkForms(b *testing.B) {
	b.Run("without fsync", func(b *testing.B) { benchmarkForms(b, ownDatabase(b)) })
	b.Run("with fsync", func(b *testing.B) {
		url := pgtest.Own(b, pgtest.Setting("fsync", "on"), pgtest.Setting("synchronous_commit", "on"),
			pgtest.Setting("full_page_writes", "on")).URL("postgres")
		conn := testdb.Session(b, url)
		if err := testdb.InstallOurs(b.Context(), conn); err != nil {
			b.Fatal(err)
		}
		if err := installConsumers(b.Context(), url); err != nil {
			b.Fatal(err)
		}
		benchmarkForms(b, url)
	})
}

func benchmarkForms(b *testing.B, url string) {
	const size = 500
	s := newStand(b, 0, url)
	pool := s.store.Pool()
	exec(b, pool, `CREATE TABLE public.balances (account integer PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50);
		INSERT INTO public.balances SELECT n, 0 FROM generate_series(0, 999) AS n`)
	const sql = `UPDATE public.balances SET balance = balance + $1 WHERE account = $2`
	account := func(position int64) int64 { return position * 7 % 1000 }
	queued := EachQueued(func(b *pgx.Batch, m mdb.Message) error {
		b.Queue(sql, 1, account(m.GlobalPosition))
		return nil
	})
	inTx := EachTx(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error {
		_, err := tx.Exec(ctx, sql, 1, account(m.GlobalPosition))
		return err
	})
	all := s.calling(make([]mdb.Message, size))
	// handle passes as many messages to the handler, so many in a call.
	handle := func(h Handler, n, each int) {
		form := h.form(s.config)
		for ; n > 0; n -= each {
			c := all
			c.from.From, c.deliveries = s.row.Position, c.deliveries[:each]
			for i := range c.deliveries {
				c.deliveries[i].message.GlobalPosition = s.row.Position + int64(i) + 1
			}
			if done, err := form.call(b.Context(), c); done != each || err != nil {
				b.Fatal(done, err)
			}
			s.row.Position += int64(each)
		}
	}
	ways := []struct {
		name     string
		messages int
		run      func()
	}{
		{"batch", size, func() {
			var batch pgx.Batch
			for i := range int64(size) {
				batch.Queue(sql, 1, account(i))
			}
			if err := pool.SendBatch(b.Context(), &batch).Close(); err != nil {
				b.Fatal(err)
			}
		}},
		{"EachQueued", size, func() { handle(queued, size, size) }},
		{"EachTx", defaultPerTx, func() { handle(inTx, defaultPerTx, defaultPerTx) }},
		{"single", size / 20, func() { handle(inTx, size/20, 1) }},
	}
	took := make(map[string][]time.Duration)
	for _, w := range ways {
		w.run() // which prepares statements
	}
	for b.Loop() {
		for _, w := range ways {
			begun := time.Now()
			w.run()
			took[w.name] = append(took[w.name], time.Since(begun)/time.Duration(w.messages))
		}
	}
	median := func(name string) float64 {
		slices.Sort(took[name])
		return took[name][len(took[name])/2].Seconds() * 1e6
	}
	for _, w := range ways {
		b.ReportMetric(median(w.name), "µs/message:"+w.name)
	}
	for _, other := range []string{"batch", "EachTx", "single"} {
		b.ReportMetric(median(other)/median("EachQueued"), "times:"+other)
	}
	b.ReportMetric(0, "ns/op")
}
