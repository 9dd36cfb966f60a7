package ledger_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
)

// BenchmarkBeat measures the tick of a member, without moves and with those of 64 partitions. It
// reports the time and the bytes of WAL of a tick. The goals for 64 partitions are 1.5 ms and
// 8 KB.
func BenchmarkBeat(b *testing.B) {
	for _, n := range []int{0, 64} {
		b.Run(fmt.Sprint(n, " moves"), func(b *testing.B) {
			url := testdb.Consumers(b)
			g := groupOn(b, url, func(cfg *pgxpool.Config) { cfg.MaxConns = 1 })
			p := g.params("account")
			p.Partitions = 64
			m := g.join(p)
			_, held := g.balance(m)
			rows := held.Rows[:n]
			position, anchor := g.write(0)
			beat := func() {
				position += 100
				ms := moves(rows, position)
				for i := range ms {
					ms[i].Anchor = anchor
				}
				if tick := g.beat(m, ms...); len(tick.Moved) != n {
					b.Fatal(tick)
				}
				for i := range rows {
					rows[i].Position = position
				}
			}
			for range 10 { // PostgreSQL has planned the statements then
				beat()
			}
			wal := func() int64 {
				return query[int64](g, `SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint + 0 * $1`)
			}
			var took []time.Duration
			before := wal()
			for b.Loop() {
				begun := time.Now()
				beat()
				took = append(took, time.Since(begun))
			}
			b.ReportMetric(float64(wal()-before)/float64(len(took)), "WAL-B/tick")
			slices.Sort(took)
			b.ReportMetric(took[len(took)/2].Seconds()*1e3, "ms/tick")
			b.ReportMetric(0, "ns/op")
		})
	}
}
