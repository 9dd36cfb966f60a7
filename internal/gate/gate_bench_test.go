package gate_test

import (
	"testing"

	"github.com/messagedb-go/messagedb/internal/gate"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// BenchmarkGate measures what the gate adds to an insert on the server: without it, and with it, while no or a hundred other categories are
// closed. A statement inserts 1,000 messages and is rolled back.
func BenchmarkGate(b *testing.B) {
	conn := testdb.Session(b, testdb.New(b))
	if err := schema.InstallShard(b.Context(), conn, 2); err != nil {
		b.Fatal(err)
	}
	insert := func(b *testing.B) {
		for b.Loop() {
			testdb.Exec(b, conn, "BEGIN")
			testdb.Exec(b, conn, `INSERT INTO message_store.messages (stream_name, type, position)
SELECT 'account-' || i, 'Happened', 0 FROM generate_series(1, 1000) AS i`)
			testdb.Exec(b, conn, "ROLLBACK")
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/1000, "µs/message")
		b.ReportMetric(0, "ns/op")
	}
	b.Run("no gate", insert)
	if err := gate.Install(b.Context(), conn); err != nil {
		b.Fatal(err)
	}
	b.Run("open", insert)
	testdb.Exec(b, conn, `INSERT INTO message_store_shard.closed SELECT 'other' || i, 3, false FROM generate_series(1, 100) AS i`)
	b.Run("100 others are closed", insert)
}
