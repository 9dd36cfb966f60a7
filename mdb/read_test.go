package mdb_test

import (
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// seed writes n messages to a stream.
func seed(t testing.TB, s *mdb.Store, stream mdb.StreamName, n int) []mdb.Written {
	t.Helper()
	w, err := s.WriteMessages(t.Context(), stream, proposals(n))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func streamPositions(ms []mdb.Message) (p []int64) {
	for _, m := range ms {
		p = append(p, m.Position)
	}
	return p
}

func globalPositions(ms []mdb.Message) (p []int64) {
	for _, m := range ms {
		p = append(p, m.GlobalPosition)
	}
	return p
}

// TestReadInTxSeesItsWrites checks that a transaction reads its own uncommitted writes,
// and that others do not.
func TestReadInTxSeesItsWrites(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("own").Stream("1")
	tx := begin(t, s.Pool())
	mtx := s.WithTx(tx)
	write(t, mtx, stream, mdb.NewMessage("Happened", nil))
	for c, want := range map[calls]int64{mtx: 0, s: mdb.NoStream} {
		if got, err := c.StreamVersion(t.Context(), stream); err != nil || got != want {
			t.Errorf("%T: got version %d, error %v, want %d", c, got, err, want)
		}
	}
}
